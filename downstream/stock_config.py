"""The mm config of a run in parts of mmsegmentation's and mmdetection's own, so that their tools read it."""

import copy
from typing import Any

SCOPES = {"EvalkitIoU": "mmseg", "EvalkitCoco": "mmdet"}  # by what measures
OURS = ("evalkit_freeze_neck", "train_cfg", "test_evaluator", "test_dataloader")  # made anew below
NECK = "the neck was frozen, which mm's tools do not do: training the export would train it"
LAYERS = "rates by layer and sets without weight decay are evalkit's: training the export has one rate for all"
BF16 = "training was in bfloat16; training the export is in float32"
PARTS = "a step's images were computed in {} parts; training the export takes that many batches for a step"
FOLDERS = "images are those of the folder itself; mmsegmentation also takes those of folders below it"
CHECKED = "labels were checked as they were loaded; mmsegmentation does not"


def scope_of(config: dict[str, Any]) -> str | None:
    """mmseg or mmdet, if the mm config is of a run of evalkit."""
    return SCOPES.get((config.get("test_evaluator") or {}).get("type", ""))


def to_stock(config: dict[str, Any], scope: str) -> tuple[dict[str, Any], list[str]]:
    """The config with mm's parts for evalkit's, and a sentence for each thing that is not the same.

    Args:
        config: The mm config of a run; left as it is.
        scope: mmseg or mmdet.
    """
    notes: list[str] = []
    out = _parts({k: v for k, v in copy.deepcopy(config).items() if k not in OURS}, notes)
    out["model"]["backbone"] = backbone(config["model"]["backbone"])
    wrapper = out.get("optim_wrapper", {})
    if wrapper.get("constructor") == "EvalkitOptimConstructor":
        del wrapper["constructor"], wrapper["paramwise_cfg"]["evalkit"]
        notes.append(LAYERS)
    if wrapper.get("type") == "EvalkitBf16OptimWrapper":
        wrapper["type"] = "OptimWrapper"
        notes.append(BF16)
    loop = config["train_cfg"]
    if loop.get("accumulate", 1) > 1:
        out["train_dataloader"]["batch_size"] //= loop["accumulate"]
        wrapper["accumulative_counts"] = loop["accumulate"]
        notes.append(PARTS.format(loop["accumulate"]))
    if config.get("evalkit_freeze_neck"):
        notes.append(NECK)
    steps = loop["max_iters"] * loop.get("accumulate", 1)
    test = _parts(copy.deepcopy(config["test_dataloader"]), [])
    measures = evaluator(config, scope)
    out |= {
        "default_scope": scope,
        "test_dataloader": test,
        "test_pipeline": test["dataset"]["pipeline"],
        "test_evaluator": measures,
        "test_cfg": {"type": "TestLoop"},
        "val_dataloader": test,
        "val_evaluator": measures,
        "val_cfg": {"type": "ValLoop"},
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": steps},
        "default_hooks": {
            "timer": {"type": "IterTimerHook"},
            "logger": {"type": "LoggerHook", "interval": 50, "log_metric_by_epoch": False},
            "param_scheduler": {"type": "ParamSchedulerHook"},
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": steps},
            "sampler_seed": {"type": "DistSamplerSeedHook"},
        },
        "log_processor": {"by_epoch": False},
    }
    return out, notes


def backbone(own: dict[str, Any]) -> dict[str, Any]:
    """The same backbone as a part that an export brings along, without where its first weights lay."""
    kept = {k: v for k, v in own.items() if k not in ("checkpoint", "weights")}
    return kept | {"type": "ExportedTimmBackbone"}


def evaluator(config: dict[str, Any], scope: str) -> dict[str, Any]:
    """What measures the same by mm's own means.

    Args:
        config: The mm config of a run.
        scope: mmseg or mmdet.
    """
    if scope == "mmseg":
        return {"type": "IoUMetric", "iou_metrics": ["mIoU"]}
    steps = config["test_dataloader"]["dataset"]["pipeline"]
    masks = any(step.get("with_mask") for step in steps) and "mask_head" in str(config["model"])
    file = config["test_evaluator"]["ann_file"]
    return {"type": "CocoMetric", "ann_file": file, "metric": ["bbox", "segm"] if masks else ["bbox"]}


def classes(config: dict[str, Any]) -> list[str]:
    """Names of the classes, in the order of the outputs."""
    return list(config["test_dataloader"]["dataset"]["metainfo"]["classes"])


def _parts(value: Any, notes: list[str]) -> Any:
    """A part of a config with mm's own datasets and loaders."""
    if isinstance(value, list | tuple):
        return type(value)(_parts(item, notes) for item in value)
    if not isinstance(value, dict):
        return value
    kept = {k: _parts(v, notes) for k, v in value.items()}
    if value.get("type") == "EvalkitSegDataset":
        if not kept.pop("nested", False) and not kept.get("ann_file"):
            notes.append(FOLDERS)
        return kept | {"type": "BaseSegDataset"}
    if value.get("type") == "EvalkitLabels":
        if CHECKED not in notes:
            notes.append(CHECKED)
        return {"type": "LoadAnnotations"}
    return kept
