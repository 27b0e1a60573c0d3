"""mm_config.py is read and never run."""

import importlib
import importlib.util

import pytest

from evalkit.downstream import literal
from evalkit.errors import EvalkitError

CONFIG = {
    "model": {"type": "A", "sizes": (1, 2), "one": (3,), "none": None, "nested": [{"x": -1.5e-3, "y": [True, "it's"]}]},
    "odd keys": {"a-b": 1, 0: "zero", "_delete_": False},
    "empty": {},
}


def written(path, text):
    path.write_text(text)
    return path


@pytest.mark.skipif(importlib.util.find_spec("mmengine") is None, reason="the extra 'downstream' is not installed")
def test_what_mmengine_writes_is_read(tmp_path):
    importlib.import_module("evalkit.downstream.mm").require()
    config = {k: v for k, v in CONFIG.items() if k.isidentifier()} | {"more": CONFIG["odd keys"]}
    text = importlib.import_module("mmengine.config").Config(config).pretty_text
    assert literal.read(written(tmp_path / "c.py", text)) == config


def test_calls_of_dict_in_every_form(tmp_path):
    text = "a = dict(x=1, y=dict({'k': 2}, z=[(1,)]))\nb = {'q': dict()}\nc = 'text'\n"
    assert literal.read(written(tmp_path / "c.py", text)) == {
        "a": {"x": 1, "y": {"k": 2, "z": [(1,)]}},
        "b": {"q": {}},
        "c": "text",
    }


@pytest.mark.parametrize(
    "text",
    [
        "import os\n",
        "a = open('x')\n",
        "a = os.system('x')\n",
        "a = dict(**b)\n",
        "a = {**b}\n",
        "a = [x for x in ()]\n",
        "a = 1 +\n",
        "a.b = 1\n",
        "a = b = 1\n",
        "a = dict(1)\n",
        "_base_ = 'other.py'\n",
        """a = {"x': print(), 'y": 1}\n""",
        "a = {'x\\ny': 1}\n",
        "a = {True: 1}\n",
    ],
)
def test_anything_else_is_refused_and_not_run(text, tmp_path):
    with pytest.raises(EvalkitError, match="c.py is missing, damaged or no config that a transfer wrote"):
        literal.read(written(tmp_path / "c.py", text))


def test_code_named_by_its_path_is_refused(tmp_path):
    with pytest.raises(EvalkitError, match="mm_config.model.type=os.system names code by its path"):
        literal.read(written(tmp_path / "c.py", "model = dict(type='os.system')\n"))
    with pytest.raises(EvalkitError, match="names code by its path"):
        literal.read(written(tmp_path / "c.py", "custom_imports = dict(imports=['os'])\n"))
