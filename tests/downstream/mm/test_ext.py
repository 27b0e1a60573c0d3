"""How mmcv's operators are served: a compiled module first, then ours, then one line."""

import importlib
import sys

import pytest
import torch

from evalkit.downstream.mm import ext, operators, require
from evalkit.errors import EvalkitError

require("mmdet")
ops = importlib.import_module("mmcv.ops")


def test_other_operators_say_what_is_missing():
    with pytest.raises(EvalkitError, match="mmcv's operator 'roi_pool_forward' needs .* such as upernet_r50"):
        ops.roi_pool(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2)
    with pytest.raises(EvalkitError, match="pool_mode='max' needs"):
        ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), (2, 2), 1.0, 2, "max", True)


def test_a_compiled_extension_wins(tmp_path, monkeypatch):
    import mmcv

    (tmp_path / "_ext.py").write_text("compiled = True")
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, ext.NAME)
    importlib.invalidate_caches()
    assert importlib.import_module(ext.NAME).compiled is True
    monkeypatch.delitem(sys.modules, ext.NAME)
    (tmp_path / "_ext.py").unlink()
    importlib.invalidate_caches()
    assert importlib.import_module(ext.NAME).nms is operators.nms


def test_installing_twice_is_installing_once():
    ext.install()
    assert sum(isinstance(finder, ext.Finder) for finder in sys.meta_path) == 1
