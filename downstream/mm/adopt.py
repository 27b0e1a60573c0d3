"""A stock config made ours: its backbone, images, classes and bookkeeping replaced, everything else as it is."""

from importlib import import_module
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.runtime import pick_device, world_size

from .. import plan
from ..backbone import Source
from ..task import Data, Task
from . import needs, plug, stock


def adopt(task: Task, cfg: Any, source: Source, data: Data, run: Path, saved: Path | None) -> plan.Plan:
    """The plan of a run by the config that `cfg.config` names, or by the one that the run kept in the file `saved`.

    Raises EvalkitError for a config that is not found, is not read, or whose model, data or schedule are of a kind that
    a transferred backbone cannot take part in.

    Args:
        task: The transfer.
        cfg: Its keys.
        source: The pre-trained backbone.
        data: The images.
        run: The run folder.
        saved: The config as the run kept it; None: it is read by its name.
    """
    scope = task.scope
    import_module(f"{scope}.utils").register_all_modules(init_default_scope=True)
    base, notes = (stock.load(saved), []) if saved else stock.read(cfg.config, scope)
    literal, config = stock.dump(base), base
    for name in config.pop("custom_imports", []):  # mm's own, or of a file that the user named in this command
        import_module(name)
    several = world_size() > 1 and pick_device(cfg.device).type == "cuda"
    if needs.one_process(config["model"], several):
        notes.append("batch normalisation is not synchronised: there is one process, or no GPU")
    notes += needs.set_classes(config["model"], len(data.classes))
    crop = plan.square_crop(config) if scope == "mmseg" else None
    notes += plug.replace_backbone(config["model"], source, scope, crop=crop, drop_path=cfg.drop_path)
    notes += needs.set_normalisation(config["model"], source)
    notes += plan.set_data(config, cfg, data, scope)
    batch, made_for = plan.batch_size(config, cfg, Path(cfg.config).stem)
    if batch % world_size():
        raise EvalkitError(f"{batch} images a step cannot be shared by {world_size()} processes; set batch_size")
    if batch != made_for and cfg.lr is None:
        notes.append(f"batch_size is {batch} where the config was made for {made_for}; its learning rate stays, see lr")
    config["train_dataloader"]["batch_size"] = batch // world_size()
    filtered = "filter_cfg" in plan.innermost(config["train_dataloader"]["dataset"])
    images = data.counts["train"] if filtered else data.counts.get("all", data.counts["train"])
    images *= plan.repeats(config["train_dataloader"]["dataset"])
    by_steps = hasattr(cfg, "steps")
    steps, epoch = plan.schedule(config, images, batch, cfg.steps if by_steps else cfg.epochs, by_steps)
    if "tta_pipeline" not in config and getattr(cfg, "ms", False):
        raise EvalkitError("ms=true, but the config says nothing of a test at several scales (tta_pipeline)")
    config["test_evaluator"] = evaluator(task, data, run)
    config.pop("auto_scale_lr", None)
    config.pop("train_cfg", None)
    resolved = dict.fromkeys(cfg.MAKES) | {"batch_size": batch, "config_sha256": stock.digest(base)}
    resolved |= {"steps": steps} if by_steps else {"epochs": round(steps / epoch, 3)}
    resolved |= {"head" if scope == "mmseg" else "detector": described(config["model"], scope)}
    return plan.Plan(config, steps, epoch, resolved, notes, literal)


def evaluator(task: Task, data: Data, run: Path) -> dict[str, Any]:
    """The one of the built-in configs.

    Args:
        task: The transfer.
        data: The images.
        run: The run folder.
    """
    if task.scope == "mmseg":
        return {"type": "EvalkitIoU", "collect_dir": str(run / "mm")}
    file = str(Path(data.val["data_root"]) / data.val["ann_file"])
    return {"type": "EvalkitCoco", "ann_file": file, "collect_dir": str(run / "mm")}


def described(model: dict[str, Any], scope: str) -> str:
    """How tables call the network behind the backbone.

    Args:
        model: The `model` of an mm config.
        scope: mmseg or mmdet.
    """
    if scope == "mmdet":
        return str(model["type"])
    head = model["decode_head"]
    return str((head[-1] if isinstance(head, list) else head)["type"])
