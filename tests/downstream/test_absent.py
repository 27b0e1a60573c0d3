"""Without mmengine, mmcv, mmseg and mmdet: everything else works, and transfer says in one line how to get them."""

import subprocess
import sys

from evalkit import cli

MM = ("mmengine", "mmcv", "mmseg", "mmdet")


def test_transfer_says_how_to_install_them_and_leaves_nothing(monkeypatch, tmp_path):
    for name in [m for m in sys.modules if m.partition(".")[0] in MM]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mmengine", None)  # what Python does where there is no such module
    code, message = cli.invoke(["transfer", "seg", "vit_nano_patch4_32", "init=random", "--out", str(tmp_path / "run")])
    assert (
        code == 1
        and message.startswith("transfer needs packages that are not installed")
        and message.endswith("pip install 'evalkit[downstream]'")
    )
    assert not (tmp_path / "run").exists()


def test_the_rest_does_without():
    """The help without torch too, the recipes, every other application, and the part of this one that only prepares a
    run."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({MM}))
from evalkit import cli
for words in (["--help"], ["transfer", "--help"]):
    assert cli.invoke(words) == (0, "")
assert "torch" not in sys.modules
assert cli.invoke(["recipes", "show", "pascal-context-linear"]) == (0, "")
import evalkit.train.run, evalkit.robustness, evalkit.report, evalkit.downstream.backbone, evalkit.downstream.det
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
