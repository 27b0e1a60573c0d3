import csv
import io
import json
import re
from functools import partial

import numpy as np
import pytest
import timm
import yaml

from evalkit.arrays import read_npz
from evalkit.cli.described import protocols
from evalkit.errors import EvalkitError
from evalkit.robustness import store
from evalkit.robustness.recorded import outcome_of
from evalkit.study import beside, costs, figures, gather, plan, report, spec, tables
from tests.evalkit import fake_records

TOP1 = {  # of three seeds: a clear gain, a gain with too much spread
    "vanilla": (0.700, 0.710, 0.705),
    "good": (0.750, 0.761, 0.754),
    "noisy": (0.690, 0.780, 0.730),
}
MINE = {
    "title": "A study_of $mixups",
    "recipe": "digits",
    "axes": {
        "method": {name: {} for name in TOP1},
        "model": {"vit": {}, "net": {"model": "pvt_nano"}},
        "seed": [0, 1, 2],
    },
    "except": [{"method": "noisy", "model": "net", "why": "a ResNet has no class attention"}],
    "evaluate": [{"robustness": "imagenet-a", "name": "natural"}],
    "report": {"form": "last", "rows": "method", "columns": "model", "baseline": "vanilla"},
}


def write(folder, record):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text(json.dumps(record) + "\n")


@pytest.fixture
def ran(tmp_path):
    """A study with its folder: of net only two seeds, the last of them without its evaluation."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINE, sort_keys=False))
    study, folder = spec.load(path), tmp_path / "ran"
    plan.start(folder, plan.make(study, study.cells), study)
    for number, cell in enumerate(c for c in study.cells if c.excluded is None):
        method, model, seed = cell.values["method"], cell.values["model"], int(cell.values["seed"])
        if model == "net" and seed == 2:
            continue
        at = folder / "cells" / cell.name
        own = {"label": method, "model": model, "checkpoint_sha256": f"{number:064x}"}
        top1 = TOP1[method][seed]
        train = fake_records.record(
            metrics={"top1": top1, "top1_best": top1 + 0.02}, seed=seed, seconds=10.0 * (1 + (method == "noisy")), **own
        )
        write(at / "train", train)
        log = [{"step": s, "epoch": s / 10, "loss": 3 / s, "images_per_second": 80 + 2 * s} for s in (10, 20)] + [
            {"step": 20, "val_top1_raw": top1}
        ]
        (at / "train" / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
        if model == "vit" and method != "noisy":
            (at / "natural").mkdir()
            record = fake_records.imagenet_a(at / "natural", n=210, seed=number, **own)
            store.write(at / "natural" / "a.npz", read_npz(at / "natural" / "a.npz"), {})
            write(at / "natural", record)
    return study, folder


def test_the_report_holds_means_gains_costs_and_what_they_allow_to_say(ran, tmp_path):
    study, folder = ran
    page = report.build(study, folder, tmp_path / "report", protocols(), outcome_of).read_text()
    text = (tmp_path / "report" / "report.md").read_text()
    mean, sd = 100 * np.mean(TOP1["good"]), 100 * np.std(TOP1["good"], ddof=1)
    line = next(x for x in text.splitlines() if x.startswith("| good") and "**" in x)
    assert f"**{mean:.2f} ± {sd:.2f}**" in line and "1.00x" in line
    assert "2.00x" in next(x for x in text.splitlines() if x.startswith("| noisy"))
    gain = next(x for x in text.splitlines() if x.startswith("| gain over vanilla"))
    assert f"+{mean - 100 * np.mean(TOP1['vanilla']):.2f}" in gain
    part = text[text.index(", differences") :]
    differences = {x.split("|")[1].strip(): x for x in reversed(part.splitlines()) if re.match(r"\| (good|noisy), ", x)}
    assert "better" in differences["good, vit"] and "no difference shown" in differences["noisy, vit"]
    assert "not decidable (2 seeds, 3 are the least)" in differences["good, net"]
    assert "Left out: noisy-net-seed0: a ResNet has no class attention." in text
    assert "Not measured: good-net-seed1: natural." in text
    assert "Nothing was selected: every number is of the last weights" in text and "Nothing was selected" in page
    tex = (tmp_path / "report" / "report.tex").read_text()
    assert r"\label{tab:mine-train}" in tex and r"\caption{A study\_of \$mixups: Clean accuracy}" in tex
    assert tex.count(r"\toprule") == tex.count(r"\begin{table}") == 5
    drawn = {p.name for p in (tmp_path / "report" / "figures").iterdir()}
    assert {f"results-train-top1.{x}" for x in ("png", "svg", "pdf")} <= drawn and "training.pdf" in drawn
    lines = list(csv.DictReader(io.StringIO((tmp_path / "report" / "results.csv").read_text())))
    assert [
        float(x["value"])
        for x in lines
        if x["method"] == "good" and x["model"] == "vit" and x["metric"] == "top1" and x["measurement"] == "train"
    ] == list(TOP1["good"])


def test_differences_are_those_of_the_records(ran):
    study, folder = ran
    gathered = gather.gather(study, folder)
    found = {(d.place, d.metric.name): d for d in tables.differences(gathered, "train", protocols(), outcome_of)}
    good = found[gather.Place(("good",), ("vit",)), "top1"]
    d = np.subtract(TOP1["good"], TOP1["vanilla"])
    assert good.found.difference == pytest.approx(d.mean()) and good.images is None  # a training keeps no answers
    # Holm over the two of three seeds: the smaller p counts twice
    assert good.adjusted == pytest.approx(2 * good.found.p)
    natural = tables.differences(gathered, "natural", protocols(), outcome_of)
    whole = [x for x in natural if x.metric.name == "top1" and x.found.pairs == 3]
    assert len(whole) == 1 and all(x.images[0] < x.found.difference < x.images[1] for x in whole)


def test_a_study_of_nothing_and_one_of_a_single_seed(ran, tmp_path):
    study, folder = ran
    with pytest.raises(EvalkitError, match="nothing was measured"):
        gather.gather(study, tmp_path / "nowhere")
    best = spec.load(_changed(tmp_path, report=MINE["report"] | {"form": "best", "baseline": None}))
    gathered = gather.gather(best, folder)
    assert "Selected: of each training the best evaluation" in report.selection(gathered)
    assert tables.differences(gathered, "train", protocols(), outcome_of) == []
    assert tables.results_tables(gathered, "train", protocols())[0].rows[1][1][0].value == "77.50"


def _changed(tmp_path, **changes):
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(MINE | changes, sort_keys=False))
    return path


def test_costs_count_the_network_and_its_teacher_and_take_speed_from_the_log(ran):
    study, folder = ran
    gathered = gather.gather(study, folder)
    assert all(cells[0] == tables.NOT_MEASURED for _, cells in costs.table(gathered).rows)  # no checkpoint
    member = gathered.places[gather.Place(("good",), ("vit",))][0]
    meta = {"model": "resnet10_cifar", "model_args": {}, "image_size": 32, "num_classes": 10, "teachers": {}}
    (member.folder / "train" / "last").mkdir()
    for teachers in ({}, {"resnet18_cifar": "ab"}):
        (member.folder / "train" / "last" / "meta.json").write_text(json.dumps(meta | {"teachers": teachers}))
        found = costs.costs_of(member)
        own = sum(p.numel() for p in timm.create_model("resnet10_cifar", num_classes=10).parameters())
        of_teacher = sum(p.numel() for p in timm.create_model("resnet18_cifar", num_classes=1000).parameters())
        assert found.parameters == own and found.with_teacher == own + of_teacher * bool(teachers)
    assert found.images_per_second == 110  # the median of 100 and 120 in the log


def test_progress_factors_and_numeric_axes_are_drawn(ran, tmp_path):
    study, folder = ran
    for log in folder.glob("cells/good-*/train/log.jsonl"):
        log.write_text(log.read_text() + '\n{"step": 20, "progress": 0.4, "progress_batch": [0.1, 0.7]}')
    drawn = {d.name for d in figures.draw(gather.gather(study, folder), protocols())}
    assert "progress-batch" in drawn and not any("by-" in name for name in drawn)
    scales = spec.load(
        _changed(tmp_path, axes={"scale": {"1": {}, "2": {}}, "seed": [0]}, report=None, **{"except": None})
    )
    for scale, top1 in (("1", 0.5), ("2", 0.6)):
        write(
            tmp_path / "scales" / "cells" / f"scale{scale}-seed0" / "train", fake_records.record(metrics={"top1": top1})
        )
    plan.start(tmp_path / "scales", plan.make(scales, scales.cells), scales)
    gathered = gather.gather(scales, tmp_path / "scales")
    values = figures.values_of(gathered, "train", protocols()["accuracy"].metric("top1"))
    line = figures.numeric(gathered, values)["scale"][""]
    assert [(x, found.mean) for x, found in line] == [(1.0, 0.5), (2.0, 0.6)]
    assert "results-train-top1-by-scale" in {d.name for d in figures.draw(gathered, protocols())}


def test_published_values_stand_beside_the_studys_own_with_their_form(tmp_path):
    model = "deit_small_patch16_224"
    axes = {"model": {model: {}}, "method": {"TransMix": {}, "MixPro": {}}, "seed": [0, 1]}
    changes = {
        "axes": axes,
        "report": None,
        "except": None,
        "published": {"source": "MixPro paper", "table": "Table 1"},
    }
    study, folder = spec.load(_changed(tmp_path, **changes)), tmp_path / "ran"
    for cell in study.cells:
        top1 = {"TransMix": 0.800, "MixPro": 0.811}[cell.values["method"]] + 0.002 * int(cell.values["seed"])
        write(folder / "cells" / cell.name / "train", fake_records.record(metrics={"top1": top1}, demonstration=False))
    found = beside.table(gather.gather(study, folder), protocols())
    lines = {name: [c.value for c in cells] for name, cells in found.rows}
    # Table 1 of the paper: DeiT-S with TransMix 80.7, quoted, and with MixPro 81.3
    own, published, difference, form, source, state = lines["TransMix, top1"]
    assert (own, published, difference, form) == ("80.10", "80.7", "-0.60", "not stated")
    assert "quoted from TransMix paper" in source and state == "not the published settings or data"
    assert lines["MixPro, top1"][:3] == ["81.20", "81.3", "-0.10"]


def test_what_no_column_shows_is_shown_or_said(tmp_path):
    """An attack of strengths that are none of the protocol's columns; a median that no training has kept."""
    path, folder = tmp_path / "mine.yaml", tmp_path / "ran"
    content = {"recipe": "digits", "axes": {"seed": [0]}, "evaluate": [{"robustness": "fgsm", "set": {"eps": [1]}}]}
    path.write_text(yaml.safe_dump(content | {"report": {"form": "median"}}))
    study = spec.load(path)
    write(folder / "cells" / "seed0" / "train", fake_records.record(metrics={"top1": 0.7}))
    attack = fake_records.record(task="robustness", protocol="fgsm", metrics={"top1": 0.7, "top1_eps_1": 0.123})
    write(folder / "cells" / "seed0" / "fgsm", attack)
    report.build(study, folder, tmp_path / "report", protocols(), partial(outcome_of, transfers={}))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "eps 1/255" in text and "12.30" in text
    assert "not in the tables: train: no record has what they show (report: form: median)." in text
