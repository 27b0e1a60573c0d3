import argparse
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evalkit import checkpoint
from evalkit.errors import EvalkitError

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def write(run: Path, step: int = 3, ema: bool = True) -> Path:
    averaged = {k: v + 1 for k, v in WEIGHTS.items()} if ema else None
    return checkpoint.save(
        run,
        step,
        WEIGHTS,
        averaged,
        {"step": step, "optimizer": {"x": torch.ones(2)}},
        {"model": "m", "classes": ["a"]},
    )


def test_round_trip_prefers_averaged_weights(tmp_path):
    folder = write(tmp_path)
    assert (tmp_path / "last").resolve() == folder.resolve()
    weights, meta, sha = checkpoint.read_weights(tmp_path)
    assert meta["weights"] == "ema" and meta["step"] == 3 and meta["sha256"]["model_ema.safetensors"] == sha
    assert torch.equal(weights["a.weight"], WEIGHTS["a.weight"] + 1)
    raw, meta, _ = checkpoint.read_weights(folder, "raw")
    assert meta["weights"] == "raw" and torch.equal(raw["a.bias"], WEIGHTS["a.bias"])
    assert torch.equal(load_file(folder / "model.safetensors")["a.weight"], WEIGHTS["a.weight"])
    assert torch.equal(checkpoint.load_state(folder)["optimizer"]["x"], torch.ones(2))


def test_ema_asked_for_but_absent(tmp_path):
    with pytest.raises(EvalkitError, match="no averaged"):
        checkpoint.read_weights(write(tmp_path, ema=False), "ema")


@pytest.mark.parametrize("name", ["model.safetensors", "train_state.pt", "meta.json"])
@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_newest_passes_over_a_damaged_checkpoint(tmp_path, name, damage):
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    file = bad / name
    if damage == "remove":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        file.write_bytes(data[: len(data) // 2] if damage == "truncate" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.warns(UserWarning, match="passed over: .*step-000000002"):
        assert checkpoint.newest(tmp_path, state=True)[0] == good
    if (damage, name) == ("remove", "train_state.pt"):  # as a study does: the weights are whole
        assert checkpoint.newest(tmp_path)[0] == bad
        return
    with pytest.raises(EvalkitError):
        checkpoint.verify(bad)


@pytest.mark.parametrize(
    "wrong", [{"model": 5}, {"model_args": [1]}, {"classes": "ten"}, {"data": 3}, {"image_size": "32"}]
)
def test_meta_of_wrong_types(tmp_path, wrong):
    folder = write(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | wrong))
    with pytest.raises(EvalkitError, match="meta.json missing or damaged"):
        checkpoint.verify(folder)


def test_prune_keeps_last_best_and_newest(tmp_path):
    folders = [write(tmp_path, step) for step in range(1, 6)]
    checkpoint.link(tmp_path, "best", folders[0])
    (tmp_path / "checkpoints" / ".step-000000009.77.tmp").mkdir()
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [folders[i].name for i in (0, 3, 4)]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"model": w, "args": argparse.Namespace(lr=1)},
        lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},
    ],
)
def test_foreign_torch_files(tmp_path, wrap):
    torch.save(wrap(WEIGHTS), tmp_path / "w.pth")
    weights, meta, _ = checkpoint.read_weights(tmp_path / "w.pth")
    assert set(weights) == set(WEIGHTS) and meta in ({}, {"weights": "raw"})


def test_foreign_file_with_averaged_weights(tmp_path):
    torch.save({"model": WEIGHTS, "model_ema": {k: v + 1 for k, v in WEIGHTS.items()}}, tmp_path / "w.pth")
    said = {"raw": "'model' were read, not 'model_ema'", "ema": "'model_ema' were read, not 'model' (weights=raw"}
    for asked, expected, which in ((None, 2, "ema"), ("ema", 2, "ema"), ("raw", 1, "raw")):
        weights, meta, _ = checkpoint.read_weights(tmp_path / "w.pth", asked)
        assert weights["a.bias"][0] == expected and meta["weights"] == which and said[which] in meta["chosen"][0]
    torch.save({"model": WEIGHTS}, tmp_path / "w.pth")
    with pytest.raises(EvalkitError, match=r"holds no averaged \(ema\) weights; use weights=raw"):
        checkpoint.read_weights(tmp_path / "w.pth", "ema")


class Bomb:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickle_bomb_does_not_run(tmp_path):
    torch.save({"model": Bomb(f"touch {tmp_path}/ran")}, tmp_path / "bomb.pth")
    with pytest.raises(EvalkitError, match="could run code"):
        checkpoint.read_weights(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("size", [0, 10, 60])
def test_truncated_files(tmp_path, name, size):
    path = tmp_path / name
    save_file(WEIGHTS, path) if name.endswith("safetensors") else torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(EvalkitError, match=r"truncated|could run code"):
        checkpoint.read_weights(path)


def test_no_such_file_and_no_tensors(tmp_path):
    with pytest.raises(EvalkitError, match="no such checkpoint"):
        checkpoint.read_weights(tmp_path / "absent.pth")
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(EvalkitError, match="no state dict"):
        checkpoint.read_weights(tmp_path / "w.pth")
    with pytest.raises(EvalkitError, match="no complete checkpoint"):
        checkpoint.read_weights(tmp_path)


WRITER = """
import sys, torch
from pathlib import Path
from evalkit import checkpoint
w = {"w": torch.zeros(300, 1000)}
for step in range(1, 10**6):
    checkpoint.save(Path(sys.argv[1]), step, w, None, {"step": step, "w": w}, {"model": "m"})
    checkpoint.prune(Path(sys.argv[1]), 2)
    print(step, flush=True)
"""


def test_kill_in_mid_write_leaves_a_whole_checkpoint(tmp_path):
    """SIGKILL at varied moments of a process that does nothing but write checkpoints."""
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        written = [process.stdout.readline() for _ in range(2 + attempt)][-1]
        process.send_signal(signal.SIGKILL)
        process.wait()
        folder, meta = checkpoint.newest(tmp_path)
        assert (
            meta["step"] >= int(written)
            and json.loads((folder / "meta.json").read_text())["step"] == checkpoint.load_state(folder)["step"]
        )
        assert (tmp_path / "last").resolve().is_dir()


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits on file sizes")
def test_file_that_cannot_grow(tmp_path):
    """A limit that the training state alone exceeds: the operating system's reason, not that of torch's writer."""
    big = {"x": torch.zeros(100_000)}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(EvalkitError, match=r"step-000000001: File too large; what was saved before .*--resume"):
            checkpoint.save(tmp_path, 1, WEIGHTS, None, big, {"model": "m"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match="cannot write checkpoint"):
        write(tmp_path / "file")


def test_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    good = write(tmp_path, 1)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EvalkitError, match="No space left"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert checkpoint.newest(tmp_path)[0] == good and not list((tmp_path / "checkpoints").glob(".step*"))
