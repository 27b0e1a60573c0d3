"""What a reader of an export's README does, done in an interpreter that has no evalkit."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import EvalkitError

TOLERANCE = 1e-5
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHILD = """
import json, sys, warnings
class NoEvalkit:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "evalkit":
            raise ImportError("evalkit is not here")
sys.meta_path.insert(0, NoEvalkit())
warnings.filterwarnings("ignore")
sys.path.insert(0, "")
asked = json.load(open(sys.argv[1]))
import numpy as np, torch
torch.set_num_threads(asked["threads"])
given = dict(np.load(asked["given"]))
with torch.no_grad():
    for number, block in enumerate(asked["blocks"]):
        scope = {"__name__": "readme"}
        exec(compile(block, f"README.md, block {number + 1}", "exec"), scope)
        scope["given"] = given
        exec(asked["probe"], scope)
        np.savez(asked["found"] + f"/{number}.npz", **scope["found"])
assert not any(name.partition(".")[0] == "evalkit" for name in sys.modules), "evalkit was imported"
"""


def run(folder: Path, probe: str, given: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Run each block of Python of folder/README.md, in that folder, and then `probe`, which makes `found` of what the
    block left and of `given`. Raises EvalkitError with the last line of what went wrong.

    Args:
        folder: The export.
        probe: Python that assigns a mapping of arrays to `found`.
        given: Arrays that it finds as `given`.

    Returns `found` after each block.
    """
    blocks = PYTHON.findall((folder / "README.md").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as place:
        content: dict[str, Any] = dict(given)
        np.savez(f"{place}/given.npz", **content)
        asked = {
            **{"blocks": blocks, "probe": probe, "threads": torch.get_num_threads()},
            **{"given": f"{place}/given.npz", "found": place},
        }
        Path(place, "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-B", "-c", CHILD, f"{place}/asked.json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EvalkitError(f"the export does not load without evalkit ({last[:300]}); nothing was written")
        return [dict(np.load(f"{place}/{number}.npz")) for number in range(len(blocks))]


def apart(own: np.ndarray, theirs: np.ndarray | None) -> float:
    """The largest difference of two arrays, in units of the largest number of `own` where that is above 1; infinite for
    another shape and for what is not finite.

    Args:
        own: What is right.
        theirs: What is compared with it.
    """
    if theirs is None or theirs.shape != own.shape or not (np.isfinite(own).all() and np.isfinite(theirs).all()):
        return float("inf")
    if not own.size:
        return 0.0
    return float(np.abs(theirs.astype(np.float64) - own.astype(np.float64)).max() / max(1.0, np.abs(own).max()))


def largest(own: Mapping[str, np.ndarray], found: Sequence[Mapping[str, np.ndarray]]) -> float:
    """The largest difference of outputs, see `apart`.

    Args:
        own: Outputs here.
        found: Those of each block of the README.

    Raises EvalkitError for outputs that differ by more than `TOLERANCE`, and for those that are not finite.
    """
    if odd := [name for name, ours in own.items() if not np.isfinite(ours).all()]:
        raise EvalkitError(f"the network's {odd[0]} are not finite; is the checkpoint damaged? Nothing was written")
    difference = max(apart(ours, theirs.get(name)) for theirs in found for name, ours in own.items())
    if difference > TOLERANCE:
        raise EvalkitError(
            f"the export's outputs differ from the checkpoint's by up to {difference:.1e}, more than {TOLERANCE:g};"
            " nothing was written"
        )
    return difference
