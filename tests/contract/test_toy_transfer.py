"""A transfer task and a data set that somebody adds by their descriptions alone are found everywhere."""

import csv
import io
from dataclasses import dataclass, replace
from functools import partial

import pytest

from evalkit import models, results
from evalkit.cli import invoke
from evalkit.downstream import PROTOCOLS, seg
from evalkit.downstream.config import TransferConfig
from evalkit.errors import EvalkitError
from evalkit.keys import key
from evalkit.protocols import Detail, Metric, Protocol
from evalkit.records import DataUsed, Made, Numbers, Subject, make_record
from evalkit.robustness import PROTOCOLS as ROBUSTNESS
from evalkit.robustness import imagenet_a, layouts, shifts
from evalkit.robustness.protocol import Measurement
from evalkit.robustness.sets import SETS, DataSet

from ..robustness.fakes import save_checkpoint, write_tree


@dataclass(frozen=True)
class DepthConfig(TransferConfig):
    """How far away things are."""

    batch_size: int = key(4, "images per step", above=0)
    opt: str = key("sgd", "the optimizer", choices={"sgd": "with momentum"})
    lr: float = key(0.1, "learning rate", above=0)
    weight_decay: float = key(0.0, "weight decay", least=0)
    horizon: str = key("near", "how far is looked", choices={"near": "ten metres", "far": "to the horizon"})


DEPTH = Protocol(
    name="depth",
    kind="transfer",
    version=3,
    title="Depth of the scene",
    short="depth",
    sentence="A decoder tells how far away each pixel is.",
    metrics=(
        Metric("delta", "delta 1.25", "high", "share of the pixels within a quarter of the truth", column=True),
        Metric("rms", "RMS", "low", "root mean square error in metres", "", column=True, bound=None),
        Metric("bias", "bias", "neither", "mean error"),
    ),
    detail=Detail("horizon", "horizon", {"near": "Near", "far": "Far"}),
    config=DepthConfig,
    code="tests.contract.test_toy_transfer:TASK",
)
TASK = replace(seg.TASK, about=DEPTH, recipe=lambda overrides: "nowhere")


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "depth", DEPTH)


def record(label, horizon, **metrics):
    return make_record(
        "transfer",
        DEPTH,
        Subject("vit_nano_patch4_32", "mixup", label, label * 32, recipe=None),
        DataUsed("rooms", "v1:abc", "val", demonstration=False),
        Numbers(40, metrics),
        Made(DepthConfig(horizon=horizon), {"device": "cpu"}, 1.0, complete=True, seed=0),
        published=False,
    )


def test_the_command_offers_the_task(added, capsys):
    assert invoke(["transfer", "--help"]) == (0, "")
    text = " ".join(capsys.readouterr().out.split())
    assert "depth A decoder tells how far away each pixel is." in text and "how far is looked" in text
    assert invoke(["transfer", "dept", "m"]) == (1, "unknown transfer 'dept'. Did you mean 'depth'?")
    assert invoke(["transfer", "depth", "m", "--ms"])[1].startswith("--ms belongs to seg; depth is tested at one scale")
    assert invoke(["recipes", "keys", "horizon"]) == (0, "")
    assert "how far is looked" in capsys.readouterr().out
    recipe = ["transfer", "depth", "m"]
    assert invoke(recipe)[0] == 1 and "unknown recipe 'nowhere'" in invoke(recipe)[1]  # its own task was asked


def test_every_format_of_the_report_shows_its_columns(added, tmp_path, capsys):
    for made in (record("aa", "near", delta=0.8125, rms=0.4321, bias=0.1), record("bb", "far", delta=0.5, rms=0.9)):
        results.append(tmp_path / "out", made)
    assert invoke(["report", str(tmp_path / "out"), "--out", str(tmp_path / "report")]) == (0, "")
    texts = {kind: (tmp_path / "report" / f"report.{kind}").read_text() for kind in ("md", "html", "tex", "csv")}
    for kind in ("md", "html", "tex"):
        for words in ("Depth of the scene", "delta 1.25", "RMS", "81.2", "0.432", "Near", "Far", "rooms"):
            assert words in texts[kind], (kind, words)
        assert "share of the pixels within a quarter of the truth" in texts[kind]
    lines = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert {(line["label"], line["metric"]) for line in lines} == {
        *(("aa", name) for name in ("delta", "rms", "bias")),
        *(("bb", name) for name in ("delta", "rms")),
    }


def test_a_metric_that_is_forgotten_is_an_error():
    with pytest.raises(ValueError, match="protocol 'depth' does not describe its metric 'absolute'; add a Metric"):
        record("aa", "near", absolute=0.1)
    with pytest.raises(ValueError, match="has no column"):
        replace(DEPTH, metrics=(replace(DEPTH.metrics[0], column=False),))
    with pytest.raises(ValueError, match="needs a title"):
        replace(DEPTH.metrics[0], title="")


ROOMS = DataSet("rooms", "Photographs of rooms", ("rooms-v1", "rooms"), per_class=3)


def test_a_data_set_is_one_line_that_every_reader_finds(monkeypatch, tmp_path, capsys):
    """A protocol that measures like ImageNet-Sketch reads it by its facts: the first of its folders that is there, the
    published counts."""
    sketch = replace(ROBUSTNESS["imagenet-sketch"], name="rooms", needs={"data": "rooms"}, code=f"{__name__}:SEEN")
    monkeypatch.setitem(ROBUSTNESS, "rooms", sketch)
    words = ["robustness", "all", str(tmp_path / "one"), "--data-root", str(tmp_path / "sets")]
    options = ["--out", str(tmp_path / "all"), "workers=0", "forward_batch=8", "device=cpu"]
    write_tree(tmp_path / "sets" / "rooms", {"hall": 3, "kitchen": 3})
    save_checkpoint(tmp_path / "one", ["hall", "kitchen"], label="one", seed=0)
    assert invoke([*words, *options])[1].startswith("protocol rooms needs the data set 'rooms', which is none of")
    monkeypatch.setitem(SETS, "rooms", ROOMS)
    assert invoke([*words, *options]) == (0, "")
    assert "ran: rooms\n" in capsys.readouterr().out
    (found,) = results.read([tmp_path / "all"])
    assert (found["protocol"], found["n"], found["data"]["name"]) == ("rooms", 6, "rooms")
    with pytest.raises(EvalkitError, match="give the Photographs of rooms folder with --data DIR"):
        layouts.choose("rooms", None, models.load(str(tmp_path / "one")))
    assert layouts.find_problems("rooms", ["hall", "kitchen"], {"hall": 3, "kitchen": 2}) == [
        "1 classes without exactly 3 images (kitchen has 2)"
    ]


SEEN = Measurement(
    partial(shifts.prepare, "rooms"), imagenet_a.collect, imagenet_a.evaluate, partial(imagenet_a.reads, "rooms")
)
