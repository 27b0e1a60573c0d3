"""Code that a folder names, beside the user's own; and what else a folder of another person's may ask for."""

import contextlib
import io
import json
import shutil
import sys

import pytest
import yaml

from evalkit.cli import invoke

from .cases import Case
from .make import ARGS, NAME, run_folder, splits
from .test_reliability import newest, run_in

KIND = "Code and sizes that a folder names"
EVIL = """
import pathlib
pathlib.Path({mark!r}).write_text("run")
from evalkit.train.mixups import METHODS
Mine = METHODS["mixup"]
"""


@contextlib.contextmanager
def beside(folder):
    """The working directory holds a module `evil`; inside, whether it was run is told by what is yielded."""
    mark = folder / "mark"
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    sys.modules.pop("evil", None)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield mark
    finally:
        patch.undo()
        sys.modules.pop("evil", None)
        sys.path[:] = [place for place in sys.path if place != str(folder)]


def resumed(folder, mixup):
    """A run folder of somebody else's, whose configuration names the module."""
    run = run_in(folder)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"mixup": mixup}))
    with beside(folder) as mark:
        code, line = invoke(["train", "--resume", str(run)])
    assert not mark.exists(), "its code was run"
    return code, line


def previewed(folder, mixup):
    """The same of a checkpoint whose meta.json names it."""
    run = run_in(folder)
    meta = json.loads((newest(run) / "meta.json").read_text())
    meta["config"]["mixup"] = mixup
    (newest(run) / "meta.json").write_text(json.dumps(meta))
    with beside(folder) as mark:
        code, line = invoke(["mixup", "preview", "--checkpoint", str(run), "--out", str(folder / "x.png")])
    assert not mark.exists(), "its code was run"
    return code, line


def hub(folder, config):
    """A folder as the Hub has it, with other values in its config.json."""
    run, data = run_folder(folder / "run"), splits(folder / "data")
    (folder / "hub").mkdir()
    shutil.copy(next(run.glob("checkpoints/*/model.safetensors")), folder / "hub")
    own = {"architecture": NAME, "num_classes": 2, "model_args": ARGS, "label_names": ["a", "b"]}
    (folder / "hub" / "config.json").write_text(json.dumps(own | config))
    with contextlib.redirect_stdout(io.StringIO()):
        words = ["eval", str(folder / "hub"), "--data", str(data / "val"), "device=cpu", "workers=0"]
        return invoke([*words, "--out", str(folder / "out")])


NAMED = "names code, evil:Mine, which is not run on the word of a folder alone; if it is yours, add "
MIXUPS = {
    "a mixup": "evil:Mine",
    "a mixup with arguments": {"name": "evil:Mine", "alpha": 1.0},
    "one of a choice": {"choice": ["cutmix", "evil:Mine"]},
    "one within a choice": {"name": "choice", "methods": [{"name": "evil:Mine"}]},
}
HUB = {
    "fewer than no classes": ({"num_classes": -5}, "`num_classes` is -5"),
    "a truth value of classes": ({"num_classes": True}, "`num_classes` is True"),
    "10^12 classes": ({"num_classes": 10**12}, "describes a model of|for 1000000000000 outputs"),
    "classes that are lists": ({"label_names": [["a"], ["b"]]}, "`label_names` is no list of names"),
    "classes that are numbers": ({"label_names": [1, 2]}, "is none of the 2 classes"),
    "a class that stands there twice": ({"label_names": ["a", "a"]}, "1 different ones, for 2 outputs"),
    "no block": ({"model_args": ARGS | {"depth": 0}}, "depth must be at least 1"),
    "8,000 blocks of a width of 1": ({"model_args": ARGS | {"depth": 8000}}, "depth is beyond 1,000"),
    "a rate that is NaN": (
        {"model_args": ARGS | {"drop_rate": float("nan")}},
        "drop_rate must be numbers of at least 0",
    ),
    "a rate that is infinite": ({"model_args": ARGS | {"mlp_ratio": float("inf")}}, "mlp_ratio is beyond"),
    "a width of 10^9 times its own": ({"model_args": ARGS | {"mlp_ratio": 1e9}}, "mlp_ratio is beyond"),
}

CASES = [
    *(Case(f"config.yaml of a run with code as {name}", resumed, NAMED, argument=m) for name, m in MIXUPS.items()),
    *(Case(f"meta.json with code as {name}", previewed, NAMED, argument=mixup) for name, mixup in MIXUPS.items()),
    Case("meta.json with a mixup that is a number", previewed, "a mixup is a name", argument=5),
    *(Case(f"a folder of the Hub with {name}", hub, says, argument=config) for name, (config, says) in HUB.items()),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_code_of_the_user_is_run_where_the_command_line_names_it(tmp_path):
    run = run_in(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"mixup": "evil:Mine"}))
    with beside(tmp_path) as mark:
        other = invoke(["train", "--resume", str(run), "mixup=evil:Other"])
        assert other[0] == 1 and not mark.exists()
        code, line = invoke(["train", "--resume", str(run), "mixup=evil:Mine"])
    assert code == 0 and mark.exists(), line
