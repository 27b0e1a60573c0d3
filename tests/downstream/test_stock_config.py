"""A run's config in mm's own parts."""

import copy

from evalkit.downstream import stock_config

from .test_det import built as built_det
from .test_seg import built as built_seg

LOOP = {"type": "EvalkitLoop", "run": "run", "max_iters": 800, "accumulate": 1}


def test_nothing_of_evalkits_is_left_in_a_segmentation():
    made = built_seg("pascal-context-segmenter", "ms=true") | {"train_cfg": LOOP, "evalkit_freeze_neck": False}
    made["train_dataloader"]["dataset"] |= {"type": "EvalkitSegDataset", "nested": False, "ann_file": ""}
    before = copy.deepcopy(made)
    out, notes = stock_config.to_stock(made, "mmseg")
    assert made == before and "Evalkit" not in str(out).replace("ExportedTimmBackbone", "")
    assert stock_config.scope_of(made) == "mmseg"
    assert out["test_pipeline"] == out["test_dataloader"]["dataset"]["pipeline"]
    assert out["train_dataloader"]["dataset"]["type"] == "BaseSegDataset"
    assert "nested" not in out["train_dataloader"]["dataset"] and stock_config.FOLDERS in notes
    assert out["model"]["decode_head"] == made["model"]["decode_head"]
    assert out["model"]["backbone"] == {
        **{k: v for k, v in made["model"]["backbone"].items() if k not in ("checkpoint", "weights")},
        "type": "ExportedTimmBackbone",
    }
    assert out["train_cfg"] == {"type": "IterBasedTrainLoop", "max_iters": 800, "val_interval": 800}
    assert out["optim_wrapper"] == made["optim_wrapper"] and out["param_scheduler"] == made["param_scheduler"]
    assert stock_config.CHECKED in notes and notes.count(stock_config.CHECKED) == 1
    made["test_dataloader"]["dataset"]["metainfo"] = {"classes": ("a", "b")}
    assert stock_config.classes(made) == ["a", "b"]


def test_what_training_would_do_otherwise_is_said():
    made = built_det("coco") | {"train_cfg": LOOP | {"accumulate": 4}, "evalkit_freeze_neck": True}
    made["optim_wrapper"] |= {
        "type": "EvalkitBf16OptimWrapper",
        "constructor": "EvalkitOptimConstructor",
        "paramwise_cfg": {"evalkit": {"layer_decay": 0.5, "no_decay": None}, "bias_lr_mult": 2},
    }
    out, notes = stock_config.to_stock(made, "mmdet")
    assert "Evalkit" not in str(out).replace("ExportedTimmBackbone", "") and stock_config.scope_of(made) == "mmdet"
    assert set(notes) == {
        *(stock_config.NECK, stock_config.LAYERS, stock_config.BF16),
        stock_config.PARTS.format(4),
    }
    assert out["optim_wrapper"]["paramwise_cfg"] == {"bias_lr_mult": 2} and "constructor" not in out["optim_wrapper"]
    assert out["train_cfg"]["max_iters"] == 3200 and out["optim_wrapper"]["accumulative_counts"] == 4
    assert out["train_dataloader"]["batch_size"] * 4 == made["train_dataloader"]["batch_size"]
    assert out["test_evaluator"]["metric"] == ["bbox", "segm"]


def test_a_detector_of_boxes_is_measured_by_boxes():
    made = built_det("coco") | {"train_cfg": LOOP}
    del made["model"]["roi_head"]["mask_head"], made["model"]["roi_head"]["mask_roi_extractor"]
    assert stock_config.to_stock(made, "mmdet")[0]["test_evaluator"]["metric"] == ["bbox"]
    assert stock_config.scope_of({"test_evaluator": {"type": "CocoMetric"}}) is None
