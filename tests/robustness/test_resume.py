"""kill -9 in the middle of a protocol: started again, it goes on, and ends in the bytes of a run that nobody
disturbed."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from evalkit import parts
from evalkit.models import Network
from evalkit.robustness import CONFIGS, PROTOCOLS, masks, run
from evalkit.robustness import sweep as engine
from evalkit.robustness.saliency import attention
from evalkit.robustness.sweep import sweep

from .. import forked
from .fakes import CPU, noise, records, save_checkpoint, vit, write_corruptions, write_tree
from .test_occlusion import LEVELS, NATIVE

CLASSES = ["bird", "cat", "dog"]
ATTACKS = {"fgsm", "pgd"}  # they start again
SMALL = {
    "imagenet-c": {"corruptions": ["fog", "snow"], "severities": [1, 3], "preprocess": "published"},
    "occlusion": {"levels": [0.0, 0.3, 1.0], "repeats": 2, "grid": 4, "saliency": "self", "shuffle": [2]},
}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("passes", [30, 120])
def test_a_sweep_goes_on_where_it_was_saved(tmp_path, monkeypatch, passes):
    monkeypatch.setattr(parts, "SECONDS", 0.0)
    columns = masks.settings(["random", "salient", "nonsalient"], [*LEVELS, 1.0], 2, [2, 4])
    network = vit()
    options = {
        "grid": 4,
        "saliency": attention(network, CPU, None, {}),
        "device": CPU,
        "forward_batch": 4,
        "batch_size": 5,
        "workers": 0,
    }
    options |= {"keep_saliency": True}
    reference = sweep(network, noise(13), NATIVE, columns, **options)
    seen = []

    def stop(queue, rows):
        seen.append(rows)
        if len(seen) > passes:
            raise Killed
        return original(queue, rows)

    original = engine._Forward._run
    with monkeypatch.context() as patch:
        patch.setattr(engine._Forward, "_run", stop)
        with pytest.raises(Killed):
            sweep(network, noise(13), NATIVE, columns, **options, parts=parts.Parts(tmp_path, "k"))
    saved, images = len((parts.Parts(tmp_path, "k").load() or {"ids": []})["ids"]), noise(13)
    assert (saved > 0) == (passes > 30)
    got = sweep(network, images, NATIVE, columns, **options, parts=parts.Parts(tmp_path, "k"))
    for name in ("predictions", "dropped", "saliency", "positions"):
        assert getattr(got, name).tobytes() == getattr(reference, name).tobytes(), name
    assert got.ids == reference.ids and images.reads.sum() == 13 - saved


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_tree(root / "data", dict.fromkeys(CLASSES, 16))
    write_tree(root / "other", dict.fromkeys(CLASSES, 5), seed=1)
    write_corruptions(root / "corrupted", dict.fromkeys(CLASSES, 8))
    save_checkpoint(root / "run", CLASSES)
    return root


def wait_after(out: Path, most: int) -> None:
    """In a command: save a piece after each pass, and wait for good once there are so many."""
    parts.SECONDS, forward = 0.0, Network.forward

    def waiting(*args, **options):
        while len(pieces(out)) >= most:
            time.sleep(0.01)
        return forward(*args, **options)

    Network.forward = waiting


@pytest.mark.slow
@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - ATTACKS))
def test_kill_9_and_again(protocol, world, tmp_path):
    more = SMALL.get(protocol, {}) | ({"id_data": str(world / "other")} if protocol == "imagenet-o" else {})
    keys = {
        "data": str(world / ("corrupted" if protocol == "imagenet-c" else "data")),
        "workers": 0,
        "forward_batch": 4,
    } | more
    assert run(protocol, [str(world / "run")], CONFIGS[protocol](**keys, out=str(tmp_path / "reference"))) == 0
    words = [f"{k}={str(v).replace(' ', '')}" for k, v in keys.items()]
    words = ["robustness", protocol, str(world / "run"), *words, f"out={tmp_path / 'out'}"]
    for life in range(2):
        before = len(pieces(tmp_path))
        prepare = partial(wait_after, tmp_path, before + 5)  # of a dozen and more
        child = forked.Command(words, tmp_path / f"said-{life}", prepare)
        while len(pieces(tmp_path)) < before + 3:
            assert child.process.exitcode is None, child.text()
            time.sleep(0.01)
        assert child.kill(), child.text()
        assert len(pieces(tmp_path)) >= before + 3
    assert run(protocol, [str(world / "run")], CONFIGS[protocol](**keys, out=str(tmp_path / "out"))) == 0
    (expected,), (got,) = records(tmp_path / "reference"), records(tmp_path / "out")
    assert (
        got["records"] == expected["records"]
        and got["metrics"] == expected["metrics"]
        and got["notes"] == expected["notes"]
    )
    assert (tmp_path / "out" / got["records"]).read_bytes() == (
        tmp_path / "reference" / expected["records"]
    ).read_bytes()
    with np.load(tmp_path / "out" / got["records"]) as content:
        assert len(set(content["ids"].tolist())) == got["n"] == len(content["ids"])
    assert not list((tmp_path / "out" / "records").glob("*.parts"))


def pieces(folder):
    return list((folder / "out" / "records").glob("*.parts/*.npz"))
