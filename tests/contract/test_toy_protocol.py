"""What somebody adds by its description alone is found everywhere, and what is forgotten is an error: a toy protocol
with toy metrics, and a toy metric of a protocol that exists."""

import csv
import dataclasses
import io
import json
import re

import pytest

from evalkit import results
from evalkit.cli import invoke
from evalkit.protocols import Metric
from evalkit.robustness import PROTOCOLS
from evalkit.robustness.sets import SETS

from ..robustness.fakes import save_checkpoint, write_tree
from . import toy

CLASSES = ["ball", "car", "doll"]


@pytest.fixture(scope="module")
def added():
    """The toy registered, as its author would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "toy", toy.TOY)
        patch.setitem(SETS, "toy-photographs", toy.TOYS)
        yield


@pytest.fixture(scope="module")
def measured(added, tmp_path_factory):
    """Two models on the toys, through the command, and the report of it."""
    root = tmp_path_factory.mktemp("toys")
    write_tree(root / "sets" / "toys", dict.fromkeys(CLASSES, 8))
    for name, seed in (("one", 0), ("two", 1)):
        save_checkpoint(root / name, CLASSES, label=name, seed=seed)
    models = [str(root / "one"), str(root / "two")]
    options = ["workers=0", "forward_batch=8", "device=cpu", "wobble=0.25"]
    words = ["robustness", "toy", *models, "--data", str(root / "sets" / "toys"), "--out", str(root / "out"), *options]
    assert invoke(words) == (0, "")
    assert invoke(["report", str(root / "out"), "--out", str(root / "report")]) == (0, "")
    return root


def test_the_command_offers_it(added, capsys):
    assert invoke(["robustness", "--help"]) == (0, "")
    text = " ".join(capsys.readouterr().out.split())
    assert "toy Photographs of toys that wobble." in text and "how far the toys wobble" in text
    assert invoke(["robustness", "toi", "m"]) == (1, "unknown protocol 'toi'. Did you mean 'toy'?")
    assert invoke(["robustness", "toy", "m", "woble=1"]) == (1, "unknown key 'woble'. Did you mean 'wobble'?")
    assert invoke(["robustness", "toy", "m", "--id", "x"])[1].startswith("--id belongs to imagenet-o; toy has only")
    assert invoke(["recipes", "keys", "wobble"]) == (0, "")
    assert "how far the toys wobble" in capsys.readouterr().out


def test_all_runs_it_where_its_data_are(measured, capsys):
    words = ["robustness", "all", str(measured / "one"), "--data-root", str(measured / "sets")]
    assert invoke([*words, "--out", str(measured / "all"), "workers=0", "forward_batch=8"]) == (0, "")
    out = capsys.readouterr().out
    assert "ran: toy\n" in out and "not run: imagenet-a (ImageNet-A: not below" in out
    assert invoke(["robustness", "all", "m", "--data-root", str(measured / "one")])[0] == 1


def test_a_data_set_that_is_forgotten_is_an_error(measured, monkeypatch):
    monkeypatch.delitem(SETS, "toy-photographs")
    code, message = invoke(["robustness", "all", str(measured / "one"), "--data-root", str(measured / "sets")])
    assert code == 1 and message.startswith("protocol toy needs the data set 'toy-photographs', which is none of")


def test_its_record_tells_what_its_description_says(measured):
    for record in results.read([measured / "out"]):
        assert (record["protocol"], record["version"], record["config"]["wobble"]) == ("toy", 7, 0.25)
        assert set(record["metrics"]) == {"upright", "dizziness", "upright_at_0.5", "surprise"}
        assert (record["published"], record["demonstration"]) == (False, False)  # a folder of toys is no embedded set


def test_every_format_of_the_report_shows_it(measured):
    texts = {kind: (measured / "report" / f"report.{kind}").read_text() for kind in ("md", "html", "tex", "csv")}
    head = next(line for line in texts["md"].splitlines() if "share upright" in line)
    assert [cell.strip() for cell in head.split("|")[2:-1]] == ["toys share upright ↑", r"toys dizziness \[nat\] ↓"]
    for kind in ("md", "html", "tex"):
        assert "Wobbling toys" in texts[kind] and "Photographs of toys that wobble." in texts[kind], kind
        assert "mean negative log-likelihood of a toy" in texts[kind] and "Values in percent unless" in texts[kind]
    by_label = {}
    for line in csv.DictReader(io.StringIO(texts["csv"])):
        by_label.setdefault(line["label"], {})[line["metric"]] = float(line["value"])
    assert set(by_label["one"]) == {"upright", "dizziness", "upright_at_0.5", "surprise"}
    for label, values in by_label.items():
        row = next(line for line in texts["md"].splitlines() if line.startswith(f"| {label} "))
        right, dizzy = (re.search(r"[\d.]+", cell).group() for cell in row.split("|")[2:4])
        assert right == f"{100 * values['upright']:.1f}" and dizzy == f"{values['dizziness']:.3f}"
        assert f"& {right}" in texts["tex"] or rf"\textbf{{{right}}}" in texts["tex"]
        assert right in texts["html"] and dizzy in texts["html"]
    assert (measured / "report" / "figures" / "wobble.png").stat().st_size > 1000
    assert "Toys by wobble" in texts["md"] and "What is seen while toys wobble more." in texts["html"]


def test_compare_knows_which_side_is_better(measured, capsys):
    both = [f"{measured / 'out'}:one", f"{measured / 'out'}:two"]
    assert invoke(["compare", *both, "--protocol", "toy", "--out", str(measured / "compared")]) == (0, "")
    out = capsys.readouterr().out
    (made,) = json.loads((measured / "compared" / "compare.json").read_text())
    assert set(made["metrics"]) == {"upright", "dizziness", "upright_at_0.5"} and "dizziness" in out
    assert "surprise" not in out  # neither side is better
    dizzy = made["metrics"]["dizziness"]
    if dizzy["better"]:
        assert (dizzy["better"] == "a") == (dizzy["a"] < dizzy["b"])  # lower is better


def test_a_metric_that_is_forgotten_is_an_error(measured, added, monkeypatch):
    less = tuple(m for m in toy.TOY.metrics if m.name != "dizziness")
    monkeypatch.setitem(PROTOCOLS, "toy", dataclasses.replace(toy.TOY, metrics=less, version=8))
    words = ["robustness", "toy", str(measured / "one"), "--data", str(measured / "sets" / "toys")]
    code, message = invoke([*words, "--out", str(measured / "forgotten"), "workers=0", "forward_batch=8"])
    assert code == 1 and "protocol 'toy' does not describe its metric 'dizziness'; add a Metric for it" in message


def test_a_toy_metric_of_a_protocol_that_exists(measured, monkeypatch, capsys):
    """One line in the description makes it a column; the number is a line in `evaluate`."""
    old = toy.evaluate
    shaky = Metric("shakiness", "shakiness", "low", "share of the toys that shake", column=True)
    monkeypatch.setitem(PROTOCOLS, "toy", dataclasses.replace(toy.TOY, metrics=(*toy.TOY.metrics, shaky), version=9))

    def evaluate(arrays):
        made = old(arrays)
        return dataclasses.replace(made, metrics=made.metrics | {"shakiness": 0.123})

    monkeypatch.setattr(toy, "MEASUREMENT", dataclasses.replace(toy.MEASUREMENT, evaluate=evaluate))
    words = ["robustness", "toy", str(measured / "one"), "--data", str(measured / "sets" / "toys")]
    assert invoke([*words, "--out", str(measured / "shaky"), "workers=0", "forward_batch=8"]) == (0, "")
    assert "shakiness" in capsys.readouterr().out
    assert invoke(["report", str(measured / "shaky")]) == (0, "")
    for kind in ("md", "html", "tex"):
        text = (measured / "shaky" / f"report.{kind}").read_text()
        assert "shakiness" in text and "12.3" in text and "share of the toys that shake" in text
    assert "shakiness,0.123" in (measured / "shaky" / "report.csv").read_text()
