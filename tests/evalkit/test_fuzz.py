"""Whatever stands in keys, meta.json, results.jsonl, training states, weights and images: it works, or one line says
what is wrong. An error that nobody thought of, which the command line ends with EVALKIT_DEBUG=1, is a fault."""

import copy
import io
import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit import checkpoint, cli, config, models
from evalkit.accuracy import EvalConfig
from evalkit.data.images import decode
from evalkit.downstream.det import DetConfig
from evalkit.downstream.seg import SegConfig
from evalkit.errors import EvalkitError
from evalkit.robustness.about.occlusion import OcclusionConfig
from evalkit.runtime import sha256_file
from evalkit.train import session, snapshot
from evalkit.train.config import TrainConfig

from . import fake_records

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**70,
    1e308,
    -0.5,
    "",
    "x",
    "é\x00\x1b[31m",
    "../..",
    [],
    {},
    [1, "a"],
    {"a": {}},
]
ODD += [float("inf"), [[[]]], {"name": 3}, "a" * 5000, [None], {"": 1}, "nan", "1e400", "0x10", "12:30:00"]
YAML = ["${seed}", "${oc.env:HOME}", "{a", "[1, ", "!!python/object:x", "*a", "&a 1", "@x", "- 1", ": :"]


def fuzzed(value: Any, rng: random.Random, edits: int = 1) -> Any:
    """A copy of nested containers with a few places replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(edits):
        place: Any = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.6:
                place = place[key]
                continue
            if isinstance(place, dict) and rng.random() < 0.2:
                del place[key]
            else:
                place[key] = copy.deepcopy(rng.choice(ODD))
            break
    return value


def garbled(data: bytes, rng: random.Random) -> bytes:
    """The bytes cut, overwritten, repeated or with a few bits turned."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) or 1) if rng.random() < 0.5 else rng.randrange(min(len(out), 200) or 1)
        how = rng.randrange(4)
        if how == 0:
            del out[at:]
        elif how == 1:
            out[at : at + 8] = rng.randbytes(8)
        elif how == 2:
            out[at:at] = out[: rng.randrange(1, 64)]
        elif out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
    return bytes(out)


def survives(what: Callable[[], Any]) -> None:
    """It works, or the error is one for people: a line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            what()
        except EvalkitError as e:
            assert str(e) and "Traceback" not in str(e)


def seeds(count: int) -> Iterator[random.Random]:
    return (random.Random(seed) for seed in range(count))


@pytest.mark.parametrize(
    ("schema", "recipe", "folder"),
    [
        (TrainConfig, "digits", "train"),
        (EvalConfig, None, "train"),
        (SegConfig, "digits-scenes", "seg"),
        (DetConfig, "digits-scenes-det", "det"),
        (OcclusionConfig, "occlusion", "robustness"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_keys(schema, recipe, folder):
    names = list(schema.__dataclass_fields__)
    for rng in seeds(60):
        name = rng.choice(names) + rng.choice(["", "", ".a", ".name", ".0", "..", "[0]"])
        odd = rng.choice(
            [*ODD, "${seed}", "${oc.env:HOME}", "{a", "[1, ", "!!python/object:x", "*a", "&a 1", "@x", "- 1", ": :"]
        )
        text = odd if isinstance(odd, str) else json.dumps(odd)
        survives(lambda text=text, name=name: config.load(schema, recipe, [f"{name}={text}"], folder=folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    network = models.create("vit_nano_patch4_32", num_classes=3, depth=1)
    weights = {k: v.clone() for k, v in network.model.state_dict().items()}
    meta = {"model": "vit_nano_patch4_32", "model_args": {"depth": 1}, "num_classes": 3, "classes": ["a", "b", "c"]}
    meta |= {"image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3, "method": "mixup", "label": "mine", "teachers": {}}
    meta |= {
        "data": {"name": "digits", "fingerprint": "0"},
        "config": {"image_size": 32},
        "best": {"step": 3},
        "seconds": 1.0,
    }
    return checkpoint.save(tmp_path_factory.mktemp("run"), 3, weights, weights, {"step": 3}, meta)


def test_meta(folder, tmp_path):
    whole = json.loads((folder / "meta.json").read_text())
    run = tmp_path / "run"
    for rng in seeds(120):
        target = run / "checkpoints" / "step-000000003"
        target.mkdir(parents=True, exist_ok=True)
        for name in ("model.safetensors", "model_ema.safetensors", "train_state.pt"):
            if not (target / name).exists():
                (target / name).hardlink_to(folder / name)
        text = json.dumps(fuzzed(whole, rng, rng.randint(1, 3))).encode()
        (target / "meta.json").write_bytes(garbled(text, rng) if rng.random() < 0.2 else text)
        checkpoint.link(run, "best", target)
        given = str(rng.choice([run, target, run / "best"]))
        survives(lambda given=given: models.load(given))


def test_results(tmp_path):
    records = [fake_records.record(), fake_records.seg(), fake_records.det(), fake_records.occlusion()]
    for rng in seeds(6):  # each makes a report with its figures
        lines = [json.dumps(fuzzed(rng.choice(records), rng, 2)).encode() for _ in range(6)]
        lines += [json.dumps(r).encode() for r in records]
        lines.append(b"[" * rng.randint(1, 100_000))
        lines[0] = garbled(lines[0], rng)
        (tmp_path / "results.jsonl").write_bytes(b"\n".join(lines))
        assert cli.invoke(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == (0, "")


def test_training_states(tmp_path):
    cfg = config.load(
        TrainConfig, "digits", ["model=vit_nano_patch4_32", "model_args={depth: 1}", "ema=0.9", "device=cpu"]
    )
    s = session.build(cfg, torch.device("cpu"))
    x = torch.zeros(2, 3, cfg.image_size, cfg.image_size)
    s.network(x).logits.sum().backward()
    s.optimizer.step()
    saved = snapshot.save(s, tmp_path / "run")
    whole = checkpoint.load_state(saved)
    meta = json.loads((saved / "meta.json").read_text())
    for rng in seeds(30):
        state = rng.choice(ODD) if rng.random() < 0.1 else fuzzed(whole, rng, rng.randint(1, 3))
        data = io.BytesIO()
        torch.save(state, data)
        content = garbled(data.getvalue(), rng) if rng.random() < 0.2 else data.getvalue()
        (saved / "train_state.pt").write_bytes(content)
        meta["sha256"]["train_state.pt"] = sha256_file(saved / "train_state.pt")
        (saved / "meta.json").write_text(json.dumps(meta))
        survives(lambda: snapshot.restore(s, saved))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights(folder, tmp_path, name):
    tensors = checkpoint.read_weights(folder)[0]
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    whole = (tmp_path / name).read_bytes()
    for rng in seeds(80):
        (tmp_path / name).write_bytes(garbled(whole, rng))
        survives(lambda: models.load(str(tmp_path / name), model="vit_nano_patch4_32", model_args={"depth": 1}))


@pytest.mark.parametrize("suffix", ["png", "jpeg", "bmp", "webp", "tiff", "gif"])
def test_images(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, suffix)
    path = tmp_path / f"x.{suffix}"
    for rng in seeds(60):
        path.write_bytes(garbled(whole.getvalue(), rng))
        survives(lambda: decode(path, path.name))
