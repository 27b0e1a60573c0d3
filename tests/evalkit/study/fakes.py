"""An interpreter for a study's commands that writes records at once instead of training."""

import stat
import sys
from pathlib import Path

SCRIPT = '''#!{python}
"""THIS -P -m evalkit COMMAND ... --out DIR | --resume DIR: notes the call, fails or stops where a file asks."""
import json, os, pathlib, signal, sys, time
argv = sys.argv[4:]
out = pathlib.Path(argv[argv.index("--out" if "--out" in argv else "--resume") + 1])
root = out.parents[2]
with open(root / "calls.jsonl", "a") as f:
    f.write(json.dumps({{"argv": argv, "cwd": os.getcwd(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}}) + "\\n")
out.mkdir(parents=True, exist_ok=True)
(out / "config.yaml").write_text("seed: 0\\n")
if (root / "slow").exists():
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: sys.exit(2))
    print("listens", flush=True)
    time.sleep(600)
while (root / "hold").exists():
    time.sleep(0.01)
if (root / "pause").exists():
    time.sleep(float((root / "pause").read_text()))
if any(word in " ".join(argv) for word in (root / "fail").read_text().split()) if (root / "fail").exists() else False:
    print("error: asked to fail")
    sys.exit(1)
state = out / "checkpoints" / "step-1"
state.mkdir(parents=True, exist_ok=True)
(state / "train_state.pt").write_bytes(b"x")
(state / "model.safetensors").write_bytes(b"x")
with open(out / "results.jsonl", "a") as f:
    f.write(json.dumps(json.loads({record!r})) + "\\n")
'''


def interpreter(folder: Path, record: str) -> str:
    """The path of a fake interpreter whose commands append `record`, JSON text, to results.jsonl."""
    path = folder / "fake-python"
    path.write_text(SCRIPT.format(python=sys.executable, record=record))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)
