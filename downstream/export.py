"""`evalkit export --to mmseg|mmdet`: a folder that mmsegmentation's or mmdetection's own tools load without evalkit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit import __version__, results
from evalkit.checkpoint import WORDS
from evalkit.errors import EvalkitError
from evalkit.export import card, clean, sources
from evalkit.export.folder import README, new_folder, tell
from evalkit.files import sha256_file
from evalkit.ordered import each_once
from evalkit.protocols import Protocols
from evalkit.records import Record
from evalkit.text import markdown
from evalkit.weights import read_torch

from . import begun, literal
from .config import SCOPES
from .export_backbone import BACKBONE, STAND_IN, add_path, registering
from .export_backbone import export as export_backbone
from .mm import require
from .run import BASE
from .stock_config import classes, scope_of, to_stock

CONFIG, WEIGHTS = "config.py", "model.pth"
APIS = {"mmseg": ("inference_model", "init_model"), "mmdet": ("inference_detector", "init_detector")}
SHOWN = (72, 104)  # height and width of the image that is tried
# what mm's own function says of an image, and what the parts of the network gave before boxes were chosen
PROBES = {
    "mmseg": "found = {'logits': inference_model(model, given['image']).seg_logits.data.numpy()}",
    "mmdet": """
import torch
from mmengine.dataset import Compose
from mmdet.utils import get_test_pipeline_cfg
steps = get_test_pipeline_cfg(model.cfg.copy())
steps[0].type = "mmdet.LoadImageFromNDArray"
sample = Compose(steps)({"img": given["image"], "img_id": 0})
batch = model.data_preprocessor({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, False)
left, parts = [model(batch["inputs"], batch["data_samples"], mode="tensor")], []
while left:
    value = left.pop()
    if isinstance(value, torch.Tensor):
        parts.append(value.float().flatten())
    elif isinstance(value, (list, tuple)):
        left += value
    elif isinstance(value, dict):
        left += value.values()
result = inference_detector(model, given["image"]).pred_instances
found = {"outputs of the heads": torch.cat(parts).numpy(), "boxes": result.bboxes.numpy()}
found |= {"scores": result.scores.numpy(), "labels": result.labels.numpy()}
""",
}
USAGE = """
from evalkit_export import ext

ext.install()  # stands in for the compiled operators that mmcv-lite lacks; a compiled mmcv needs none
from {scope}.apis import {infer}, {init}

model = {init}("config.py", "model.pth", device="cpu")
"""


@dataclass(frozen=True)
class Run:
    """A transfer that is exported.

    Args:
        folder: The run.
        file: The checkpoint.
        sha256: Of the checkpoint.
        weights: raw or ema.
        state: The state dict.
        config: The mm config.
        notes: What is left behind.
        records: What the run measured of these weights; nothing of others than its last, averaged where it averages.
    """

    folder: Path
    file: Path
    sha256: str
    weights: str
    state: dict[str, Tensor]
    config: dict[str, Any]
    notes: list[str]
    records: list[Record]


def export(spec: str, scope: str, out: Path, keys: Mapping[str, Any], protocols: Protocols) -> list[str]:
    """Write the folder `out` and try it; sentences for the person watching. Raises EvalkitError, and leaves nothing,
    where mm does not load it or gives other outputs.

    Args:
        spec: The run of a transfer or a checkpoint file in it; or a classifier, of which the backbone is exported.
        scope: mmseg or mmdet.
        out: A new folder.
        keys: `model`, `model_args` and `weights`.
        protocols: What the metrics of records are.
    """
    folder = run_of(Path(spec))
    if folder is None:
        require(scope)
        return export_backbone(spec, scope, out, keys, protocols)
    if keys["model"] or keys["model_args"]:
        raise EvalkitError(f"{spec} is the run of a transfer, which knows its architecture; leave model= out")
    require(scope)
    return _transfer(read_run(folder, Path(spec), keys["weights"]), scope, out, protocols)


def run_of(path: Path) -> Path | None:
    """The folder of the transfer that `path` is, or whose checkpoint it is; None if it is neither."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "source.json").is_file() and (folder / "mm_config.py").is_file():
            return folder
    return None


def read_run(folder: Path, path: Path, weights: str | None) -> Run:
    """A checkpoint of a transfer, the newest one for its folder. Raises EvalkitError.

    Args:
        folder: The run.
        path: The run, or the checkpoint file.
        weights: raw or ema; None: what the run measures.
    """
    file = path
    if path.is_dir():
        from .mm.checkpoints import newest

        found = newest(folder)
        if found is None:
            raise EvalkitError(f"{folder} has no checkpoint yet; continue it with --resume")
        file = found[0]
    content, sha256 = read_torch(file), sha256_file(file)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise EvalkitError(f"{file} is no checkpoint of a transfer; name the run's folder")
    notes = ["the state of the optimizer is left behind"] if "optimizer" in content else []
    averaged = content.get("ema_state_dict")  # mmengine swaps: these are the raw ones, state_dict the average
    if weights == "ema" and averaged is None:
        raise EvalkitError(f"{file} holds no averaged (ema) weights; use weights=raw")
    which = "raw" if averaged is None or weights == "raw" else "ema"
    if averaged is not None:
        other = "raw" if which == "ema" else "ema"
        notes.append(f"the checkpoint's {WORDS[other]} are left behind; weights={other} exports those")
        if which == "raw":
            state = {k.removeprefix("module."): v for k, v in averaged.items() if k.startswith("module.")}
    config = literal.read(folder / "mm_config.py")
    step, steps = (content.get("meta") or {}).get("iter"), (config.get("train_cfg") or {}).get("max_iters")
    early = isinstance(step, int) and isinstance(steps, int) and step < steps
    if early:
        notes.append(f"these are the weights of step {step} of {steps}, before the end of the run")
    known, path = [], folder / results.FILE
    if path.is_file() and not early and (averaged is None or which == "ema"):
        known = [r for r in results.latest(results.scan([path])[0]) if r["task"] == "transfer"]
    return Run(folder, file, sha256, which, state, config, notes, known)


def imported(folder: Path) -> list[str]:
    """The modules of mm that the config of a run imports. Raises EvalkitError for those of the user's."""
    from .mm import stock

    if not (folder / BASE).is_file():
        return []
    names = [str(name) for name in stock.load(folder / BASE, trusted=True).get("custom_imports", [])]
    if own := [name for name in names if name.partition(".")[0] not in SCOPES]:
        raise EvalkitError(f"the config of {folder} imports {', '.join(own)}, which an export cannot take along")
    return names


def _transfer(run: Run, scope: str, out: Path, protocols: Protocols) -> list[str]:
    from .mm import tried
    from .mm.engine import save_config

    theirs = scope_of(run.config)
    if theirs != scope:
        raise EvalkitError(f"{run.folder} is a transfer for {theirs}, not {scope}; use --to {theirs}")
    config, changed = to_stock(run.config, scope)
    notes = each_once([*run.notes, *changed, *_outside(config)])
    names = classes(run.config)
    image = np.random.default_rng(0).integers(0, 256, (*SHOWN, 3), dtype=np.uint8)
    with new_folder(out) as folder:
        backbone = config["model"]["backbone"]
        brought = [BACKBONE, *registering(backbone["model"])]
        imports = sources.imports(brought)
        imports["custom_imports"]["imports"] += imported(run.folder)
        save_config(config | imports, folder / CONFIG)
        add_path(folder / CONFIG)
        meta = {"dataset_meta": {"classes": names, "palette": tried.palette(len(names))}, "evalkit": __version__}
        torch.save({"state_dict": run.state, "meta": meta}, folder / WEIGHTS)
        sources.write(folder, [STAND_IN, *brought])
        (folder / README).write_text(_readme(run, scope, names, notes, protocols), encoding="utf-8")
        model = tried.own_model(run.config, run.state, config, scope)
        own = tried.outputs(scope, PROBES[scope], model, image)
        difference = clean.largest(own, clean.run(folder, PROBES[scope], {"image": image}))
        which = {"source_sha256": run.sha256, "weights": run.weights, "model": backbone["model"]}
        tell(folder, form=scope, **which, largest_difference=difference, notes=notes)
    words = f"{scope} alone gives the same outputs, largest difference {difference:.1e}"
    return [*notes, f"{out}: {backbone['model']} and heads, {WORDS[run.weights]} of {run.file.name}; {words}"]


def _outside(config: dict[str, Any]) -> list[str]:
    """Where the config's data lie, which the export does not take along."""
    places = {config[loader]["dataset"].get("data_root") for loader in ("test_dataloader",)}
    return [f"images are not taken along: the config looks for them in {place}" for place in places if place]


def _readme(run: Run, scope: str, names: Sequence[str], notes: Sequence[str], protocols: Protocols) -> str:
    infer, init = APIS[scope]
    source = asdict(begun.source(run.folder))
    head = "decode_head" if scope == "mmseg" else "roi_head"
    config = run.config["model"]
    kind = config[head]["type"] if isinstance(config.get(head), dict) and "type" in config[head] else config["type"]
    facts = [
        f"network: {source['model']} with {kind}, {len(names)} classes: {', '.join(names[:20])}"
        + (", ..." if len(names) > 20 else ""),
        f"weights: {WORDS[run.weights]} of {run.file.name}, sha256 {run.sha256}",
        f"pre-trained: {source['label']}, mixup {source['method'] or 'unknown'}, sha256 {source['sha256']}",
        f"images: mean {config['data_preprocessor']['mean']}, std {config['data_preprocessor']['std']}, RGB",
    ]
    parts = [
        f"# {markdown(source['label'])} for {scope}",
        "\n".join(f"* {markdown(fact)}" for fact in facts),
        "## Load it\n\nIn this folder, or with it on PYTHONPATH, without evalkit:",
        f"```python\n{USAGE.format(scope=scope, infer=infer, init=init).strip()}\n```",
        f'`{infer}(model, "image.jpg")` then gives what is in an image. `config.py` is a whole config, also for the'
        " tools that train and test; it adds this folder to the places that Python imports from.",
        card.measured(run.records, protocols),
        "## To know\n\n" + "\n".join(f"* {markdown(note)}" for note in notes),
    ]
    return "\n\n".join(parts) + "\n"
