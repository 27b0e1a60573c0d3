"""Training on a disk that really is full: a small file system of its own, where this process may mount one."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAIN = ["train", "digits", "model=vit_nano_patch4_32", "model_args={depth: 1}", "epochs=1", "batch_size=128"]
TRAIN += ["micro_batch=64", "mixup=cutmix", "workers=0", "threads=1", "device=cpu", "log_steps=1", "checkpoint_steps=3"]
# in a mount namespace of its own, so that nothing stays mounted: argv is the folder and the words
INSIDE = """
import json, subprocess, sys
from pathlib import Path
from evalkit import checkpoint
from evalkit.cli import invoke
disk, size, words = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
mount = lambda options: subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)
mount(f"size={size}")
run = disk / "run"
ended = invoke([*words, "--out", str(run)])
found = checkpoint.newest(run)
names = sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.name.endswith((".tmp", ".lock")))
mount("remount,size=64m")
again = invoke(["train", "--resume", str(run)])
last = checkpoint.newest(run)
print("FOUND", json.dumps([ended, found and found[1]["step"], names, again, last and last[1]["sha256"]]))
"""


def may_mount(folder: Path) -> bool:
    """Whether a file system can be mounted in a namespace of one's own."""
    if not shutil.which("unshare") or not shutil.which("mount"):
        return False
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sha256 of the weights and the training state of an undisturbed run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run([sys.executable, "-m", "evalkit", *TRAIN, "--out", str(run)], cwd=ROOT, check=True)
    files = sorted((run / "last").glob("*"))
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.suffix != ".json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, step, said",
    [
        ("4k", None, "config.yaml: No space left"),
        (
            "200k",
            None,
            "checkpoint .*: No space left on device; what was saved before is intact: free some space, then",
        ),
        ("900k", 3, "checkpoint .*: No space left on device; what was saved before is intact: free some space, then"),
    ],
)
def test_training_goes_on_exactly_once_there_is_space(tmp_path, whole, size, step, said):
    if not may_mount(tmp_path):
        pytest.skip("this process may not mount a file system, so there is no disk that it could fill")
    words = [sys.executable, "-c", INSIDE, str(tmp_path), size, json.dumps(TRAIN)]
    done = subprocess.run(["unshare", "--mount", *words], cwd=ROOT, capture_output=True, text=True)
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line and "Traceback" not in done.stderr, done.stderr
    (code, message), newest, left, again, sums = json.loads(line.removeprefix("FOUND "))
    assert code == 1 and newest == step and left == []
    assert message.startswith("cannot write ") and str(tmp_path) in message and re.search(said, message)
    if size == "4k":  # it never began: no folder to resume
        assert again[0] == 1
    else:
        assert again == [0, ""] and sums == whole
