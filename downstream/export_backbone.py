"""The backbone of a classifier for configs of mmsegmentation and mmdetection: mm's own where it is the same function,
else timm's, brought along."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.checkpoint import WORDS
from evalkit.errors import EvalkitError
from evalkit.export import card, classifier, clean, sources
from evalkit.export.folder import README, new_folder, tell
from evalkit.inference import exact
from evalkit.models import Loaded, Network
from evalkit.protocols import Protocols
from evalkit.text import markdown

from .backbone import build, fill
from .maps import Maps
from .stock_backbones import Stock, candidate

CONFIG, WEIGHTS = "backbone.py", "backbone.pth"
BACKBONE, STAND_IN = "evalkit.downstream.mm.exported", "evalkit.downstream.mm.ext"
PROBE = (
    "import torch; found = {f'map {i}': m.numpy() for i, m in enumerate(backbone(torch.from_numpy(given['images'])))}"
)
# a whole config with the backbone in the place of its own, by package and how many maps there are
EXAMPLES = {
    ("mmseg", 1): (
        "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "    pretrained=None,\n    decode_head=dict(in_channels=_base_.exported.channels[0], in_index=0),\n"
        "    auxiliary_head=None,\n",
    ),
    ("mmseg", 4): (
        "upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py",
        "    pretrained=None,\n    decode_head=dict(in_channels=_base_.exported.channels),\n"
        "    auxiliary_head=dict(in_channels=_base_.exported.channels[2]),\n",
    ),
    ("mmdet", 4): (
        "retinanet/retinanet_r50_fpn_1x_coco.py",
        "    neck=dict(in_channels=_base_.exported.channels),\n",
    ),
}
EXAMPLE = """_base_ = [__import__("{scope}").__path__[0] + "/.mim/configs/{base}", "backbone.py"]
model = dict(
    data_preprocessor=_base_.exported.preprocessing,
    backbone=dict(_delete_=True, **_base_.exported.backbone),
{heads})
"""
USAGE = """
from evalkit_export import ext

ext.install()  # stands in for the compiled operators that mmcv-lite lacks; a compiled mmcv needs none
from mmengine.config import Config
from {scope}.registry import MODELS
from {scope}.utils import register_all_modules

register_all_modules()
backbone = MODELS.build(Config.fromfile("backbone.py").exported.backbone)
backbone.init_weights()
backbone.eval()
"""


def export(spec: str, scope: str, out: Path, keys: Mapping[str, Any], protocols: Protocols) -> list[str]:
    """Write the folder `out` and try it; sentences for the person watching. Raises EvalkitError, and leaves nothing,
    where mm does not load it or gives other maps.

    Args:
        spec: The classifier, as `evalkit.models.load` takes it.
        scope: mmseg or mmdet.
        out: A new folder.
        keys: `model`, `model_args` and `weights`.
        protocols: What the metrics of records are.
    """
    from .mm.engine import save_config

    loaded = classifier.load(spec, keys)
    network: Any = loaded.network.model
    if not hasattr(network, "forward_intermediates"):
        raise EvalkitError(f"model '{loaded.name}' does not give its feature maps, so it is no backbone for {scope}")
    side = 32 * math.ceil(loaded.network.input_size[0] / 32)
    images = np.random.default_rng(0).standard_normal((1, 3, side, side + 32), dtype=np.float32)
    found, notes = _stock(loaded, scope, torch.from_numpy(images))
    ours = found is None
    part = found or _brought(loaded)
    maps = _maps(loaded, part, torch.from_numpy(images))
    info = [network.feature_info[i] for i in part.indices]
    told = {
        "backbone": part.config
        | {"init_cfg": {"type": "Pretrained", "checkpoint": f"{{{{ fileDirname }}}}/{WEIGHTS}"}},
        "preprocessing": {
            "mean": [255 * v for v in loaded.network.mean],
            "std": [255 * v for v in loaded.network.std],
            "bgr_to_rgb": True,
        },
        "channels": [stage["num_chs"] for stage in info],
        "strides": [stage["reduction"] for stage in info],
    }
    notes = [*_left(loaded), *notes, *part.notes]
    with new_folder(out) as folder:
        brought = [BACKBONE, *registering(loaded.name)] if ours else []
        save_config({"exported": told} | (sources.imports(brought) if ours else {}), folder / CONFIG)
        if ours:
            add_path(folder / CONFIG)
        torch.save({"state_dict": part.tensors, "meta": {}}, folder / WEIGHTS)
        sources.write(folder, [STAND_IN, *brought])
        numbers = card.measured(classifier.measured(loaded), protocols, "Of the whole classifier, with its head:")
        (folder / README).write_text(_readme(loaded, scope, told, [numbers, _to_know(notes)]), encoding="utf-8")
        difference = clean.largest(maps, clean.run(folder, PROBE, {"images": images}))
        facts = classifier.source(loaded) | {"backbone": part.config["type"]}
        tell(folder, form=scope, **facts, largest_difference=difference, notes=notes)
    words = f"{scope} alone gives the same maps, largest difference {difference:.1e}"
    return [*notes, f"{out}: {part.config['type']} of {loaded.name}, {WORDS[loaded.weights]}; {words}"]


def _stock(loaded: Loaded, scope: str, x: Tensor) -> tuple[Stock | None, list[str]]:
    """mm's own backbone, if it is the same function; if not, a sentence that says why."""
    from .mm import tried

    instead = f"timm's own comes along and is imported by the config ({sources.PACKAGE})"
    found = candidate(_headless(loaded), loaded.network.input_size[0], scope)
    if found is None:
        return None, [f"{scope} has no backbone that is the same function as {loaded.name}: {instead}"]
    theirs = tried.stock_maps(found, scope, x)
    if isinstance(theirs, str):
        return None, [f"{found.config['type']} does not take the weights of {loaded.name} ({theirs}): {instead}"]
    ours = _maps(loaded, found, x)
    difference = max(clean.apart(a, b.numpy()) for a, b in zip(ours.values(), theirs, strict=True))
    if difference > clean.TOLERANCE:
        return None, [
            f"{found.config['type']} gives other maps than {loaded.name}, by up to {difference:.1e}: {instead}"
        ]
    return found, []


def _brought(loaded: Loaded) -> Stock:
    """timm's own network as a part that the export brings along: the last map of every stride from 4 on; of a plain ViT
    the last tokens, normalised."""
    model = _headless(loaded)
    last = {stage["reduction"]: i for i, stage in enumerate(model.feature_info) if stage["reduction"] >= 4}
    indices, norm = sorted(last.values()), len(last) == 1
    config = {
        "type": "ExportedTimmBackbone",
        "model": loaded.name.partition(".")[0],
        "out_indices": indices,
        "norm": norm,
        "model_args": _arguments(loaded),
    }
    return Stock(config, Maps(model, loaded.name, indices, norm).state_dict(), indices, norm)


def _arguments(loaded: Loaded) -> dict[str, Any]:
    """What the architecture was built with, but for rates that regularised the training."""
    args: dict[str, Any] = getattr(loaded.network.model, "_model_args", {})
    return {k: v for k, v in args.items() if k != "num_classes" and not _is_rate(k)}


def _is_rate(name: str) -> bool:
    return "drop" in name and name.endswith("_rate")


def _headless(loaded: Loaded) -> Any:
    """The network without its head, for images of any size."""
    model = build(loaded.name, _arguments(loaded), None)
    assert isinstance(loaded.network, Network), "as `classifier.load` says"
    fill(model, loaded.network.model.state_dict(), loaded.source)
    return model.eval()


def _maps(loaded: Loaded, part: Stock, x: Tensor) -> dict[str, np.ndarray]:
    """The maps that a backbone should give, from timm's network."""
    made = Maps(_headless(loaded), loaded.name, part.indices, part.norm).eval()
    with exact():
        return {f"map {i}": m.numpy() for i, m in enumerate(made(x))}


def _left(loaded: Loaded) -> list[str]:
    """What is left behind, one sentence each."""
    found = [note for note in classifier.remarks(loaded) if "left behind" in note or "tensors of the file" in note]
    if loaded.network.num_classes:
        found.append(f"the head of {loaded.network.num_classes} classes and their names are left behind")
    rates = [f"{k}={v}" for k, v in getattr(loaded.network.model, "_model_args", {}).items() if _is_rate(k)]
    return found + ([f"{', '.join(rates)} of pre-training is left behind: set it for training"] if rates else [])


def registering(model: str) -> list[str]:
    """The module of evalkit that registers an architecture with timm, if one does."""
    return sources.of_architecture(classifier.entry(model))


def add_path(file: Path) -> None:
    """Let a config find the package beside it: mm's tools put the folder of the file for the words in braces."""
    lines = "import sys\n\nsys.path.insert(0, r'{{ fileDirname }}')  # for custom_imports\n"
    file.write_text(lines + file.read_text(encoding="utf-8"), encoding="utf-8")


def _to_know(notes: list[str]) -> str:
    return "## To know\n\n" + "\n".join(f"* {markdown(note)}" for note in notes)


def _readme(loaded: Loaded, scope: str, told: dict[str, Any], more: list[str]) -> str:
    facts = [
        f"network: {loaded.name} as {told['backbone']['type']}, maps of strides {told['strides']}",
        f"weights: {classifier.origin(loaded)}, mixup {loaded.method or 'unknown'}",
        f"images: mean {told['preprocessing']['mean']}, std {told['preprocessing']['std']}, RGB",
    ]
    maps = len(told["channels"])
    base, heads = EXAMPLES.get((scope, maps), ("", ""))
    written = f"```py\n{EXAMPLE.format(scope=scope, base=base, heads=heads).strip()}\n```" if base else ""
    use = f"In a config of yours, which lies here or names `backbone.py` by its path:\n\n{written}"
    none = f"It gives maps of {maps} strides; {scope} needs a neck that makes the pyramid of it that its heads read."
    parts = [
        f"# {markdown(loaded.label)}: a backbone for {scope}",
        "\n".join(f"* {markdown(fact)}" for fact in facts),
        "## Load it\n\nIn this folder, or with it on PYTHONPATH, without evalkit:",
        f"```python\n{USAGE.format(scope=scope).strip()}\n```",
        use if base else none,
        *more,
    ]
    return "\n\n".join(parts) + "\n"
