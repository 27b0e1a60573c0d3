"""A classifier as timm loads it, with a README or, for the Hugging Face Hub, with a model card."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from .. import checkpoint, models, results, zoo
from ..accuracy import results_folder
from ..data import EMBEDDED, SIZE
from ..data.transforms import validation_transform
from ..errors import EvalkitError
from ..inference import exact
from ..models import Loaded, Network
from ..preparation import recipe_of
from ..protocols import Protocols
from . import card, clean, sources
from .folder import README, new_folder, tell

WEIGHTS, CONFIG = "model.safetensors", "config.json"
OTHERS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")  # of timm's own weights
PROBE = "import torch; found = {'logits': model(torch.from_numpy(given['images'])).numpy()}"


def load(spec: str, keys: Mapping[str, Any]) -> Loaded:
    """The classifier that is exported. Raises EvalkitError for one that timm could not make.

    Args:
        spec: As `models.load` takes it.
        keys: `model`, `model_args` and `weights`.
    """
    if (Path(spec) / "source.json").is_file():
        raise EvalkitError(
            f"{spec} is the run of a transfer, with a head of another kind; use --to mmseg or --to mmdet"
        )
    loaded = models.load(spec, **keys)
    assert isinstance(loaded.network, Network), "read from a file or by name"
    family = timm.model_entrypoint(loaded.name.partition(".")[0]).__module__.partition(".")[0]
    if family not in ("timm", "evalkit"):
        raise EvalkitError(
            f"model '{loaded.name}' is registered by '{family}', which an export cannot take along; only timm's and"
            " evalkit's networks can be exported"
        )
    return loaded


def export(
    spec: str, form: str, out: Path, keys: Mapping[str, Any], protocols: Protocols, citations: Mapping[str, str]
) -> list[str]:
    """Write the folder `out` and try it; sentences for the person watching. Raises EvalkitError, and leaves nothing,
    where timm does not load it or gives other logits.

    Args:
        spec: A run or checkpoint folder, a weights file or a timm name.
        form: "timm" or "hf".
        out: A new folder.
        keys: `model`, `model_args` and `weights`.
        protocols: What the metrics of records are.
        citations: Method -> BibTeX of its paper.
    """
    loaded = load(spec, keys)
    network = loaded.network
    assert isinstance(network, Network), "as `load` says"
    size = network.input_size
    given = np.random.default_rng(0).standard_normal((2, 3, *size), dtype=np.float32)
    with exact():
        own = {"logits": network(torch.from_numpy(given)).logits.numpy()}
    notes = remarks(loaded)
    with new_folder(out) as folder:
        prepared = data_config(loaded)
        write_weights(folder, loaded, prepared)
        sources.write(folder, sources.of_architecture(entry(loaded.name)))
        told = card.Told(
            f"{loaded.label}: {loaded.name}",
            facts(loaded, prepared),
            usage(loaded),
            recipe_of(loaded),
            measured(loaded),
            protocols,
            notes,
            [citations[name] for name in (loaded.method or "").split("+") if citations.get(name)],
        )
        front = card.metadata(told, loaded.label, loaded.method) if form == "hf" else ""
        (folder / README).write_text(front + card.text(told), encoding="utf-8")
        difference = clean.largest(own, clean.run(folder, PROBE, {"images": given}))
        tell(folder, form=form, **source(loaded), largest_difference=difference, notes=notes)
    words = f"timm alone gives the same logits, largest difference {difference:.1e}"
    return [*notes, f"{out}: {loaded.name}, {checkpoint.WORDS[loaded.weights]}; {words}"]


def source(loaded: Loaded) -> dict[str, Any]:
    """Which weights an export is of."""
    return {"model": loaded.name, "source_sha256": loaded.sha256, "weights": loaded.weights}


def origin(loaded: Loaded) -> str:
    """The same in words."""
    file = f"sha256 of their file {loaded.sha256}" if loaded.sha256 else "those that timm publishes"
    return f"{checkpoint.WORDS[loaded.weights]}, {file}"


def entry(name: str) -> str:
    """The module that registers an architecture with timm."""
    module: str = timm.model_entrypoint(name.partition(".")[0]).__module__
    return module


def remarks(loaded: Loaded) -> list[str]:
    """What is left behind, changed or to be known, one sentence each."""
    found = list(models.describe(loaded.report))
    network, sums = loaded.network, loaded.meta.get("sha256", {})
    for name, file in checkpoint.FILES.items():
        if name != loaded.weights and file in sums:
            found.append(f"the checkpoint's {checkpoint.WORDS[name]} are left behind; weights={name} exports those")
    if "train_state.pt" in sums:
        found.append("the state of optimizer and mixup is left behind: training goes on with evalkit alone")
    if hasattr(network.model, "head_dist"):
        found.append("the network has two heads, of classes and of distillation; its logits are their mean")
    if network.num_classes == 0:
        found.append("the network has no head; it gives features")
    elif loaded.classes is None:
        found.append("the checkpoint does not name its classes, so neither does the export")
    if not recipe_of(loaded):
        found.append("how the weights were trained is not known; images are prepared as timm does for this model")
    if getattr(network, "patch_size", None):
        found.append("class attention is read by evalkit and is no output of timm's model")
    if entry(loaded.name).partition(".")[0] == "evalkit":
        found.append(f"timm has no {loaded.name}: {sources.PACKAGE} registers it and must be imported first")
    return found


def data_config(loaded: Loaded) -> dict[str, Any]:
    """How images are prepared, in timm's words: as the run of the weights prepares its validation images."""
    network, recipe = loaded.network, recipe_of(loaded)
    found = {"input_size": (3, *network.input_size), "mean": network.mean, "std": network.std}
    if not recipe:
        return found
    try:
        transform = validation_transform(recipe, SIZE if recipe.get("data") in EMBEDDED else None)
    except EvalkitError as e:  # which advises keys that an export has not
        raise EvalkitError(
            f"{loaded.source} does not say how its run prepared validation images ({e.__cause__!r}), which an export"
            " needs; export a checkpoint whose meta.json holds its whole recipe"
        ) from e
    resize = transform.size if transform.native else transform.resize
    share = transform.size / resize
    if math.floor(transform.size / share) != resize:  # timm divides and rounds down
        share = math.nextafter(share, 0)
    return found | {"crop_pct": share, "crop_mode": "center", "interpolation": transform.interpolation}


def write_weights(folder: Path, loaded: Loaded, prepared: dict[str, Any]) -> None:
    """model.safetensors and config.json, by timm's own writer.

    Args:
        folder: Where they go.
        loaded: The classifier.
        prepared: How images are prepared.
    """
    model: Any = loaded.network.model
    labels = {"label_names": loaded.classes} if loaded.classes else {}
    timm.models.save_for_hf(model, str(folder), model_config=labels, safe_serialization=True, data_config=prepared)
    if loaded.source == loaded.name:  # timm's own weights: what it says of them holds
        return
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key in OTHERS:
        config["pretrained_cfg"].pop(key, None)
    (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def usage(loaded: Loaded) -> list[tuple[str, str]]:
    """How timm loads it, by a sentence and Python each."""
    stem = entry(loaded.name).rpartition(".")[2]
    ours = entry(loaded.name).partition(".")[0] == "evalkit"
    first = f"import {sources.PACKAGE}.{stem}  # registers {loaded.name}\n" if ours else ""
    args = dict(getattr(loaded.network.model, "_model_args", {})) | {"num_classes": loaded.network.num_classes}
    words = ", ".join(f"{k}={v!r}" for k, v in args.items())
    name = loaded.name.partition(".")[0]
    return [
        (
            "The network:",
            f'import timm\n{first}\nmodel = timm.create_model("{name}", {words}, checkpoint_path="{WEIGHTS}").eval()',
        ),
        (
            "The same with class names, normalisation and input size, from which timm makes the transform:",
            f'import timm\n{first}\nmodel = timm.create_model("local-dir:.", pretrained=True).eval()\n'
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        ),
    ]


def facts(loaded: Loaded, prepared: dict[str, Any]) -> list[tuple[str, str]]:
    """What the network is.

    Args:
        loaded: The classifier.
        prepared: How images are prepared.
    """
    network, meta = loaded.network, loaded.meta
    count = sum(p.numel() for p in network.parameters())
    found = [
        ("network", f"{loaded.name}, {count:,} parameters, {network.num_classes} classes"),
        ("images", f"{network.input_size[0]} x {network.input_size[1]}, mean {network.mean}, std {network.std}"),
    ]
    if "crop_pct" in prepared:
        resize = math.floor(prepared["input_size"][1] / prepared["crop_pct"])
        how = f"shorter side {resize} ({prepared['interpolation']}), centre {prepared['input_size'][1]}"
        found.append(("preparation", how))
    found.append(("weights", origin(loaded)))
    if loaded.method:
        found.append(("mixup", loaded.method))
    recipe, data = recipe_of(loaded), meta.get("data") or {}
    if recipe:
        named = meta.get("recipe") or "none of evalkit's, as below"
        found.append(("recipe", f"{named}{', to its end on the published data' if loaded.published else ''}"))
        found.append(("trained on", f"{data.get('name')}, fingerprint {data.get('fingerprint')}"))
        found.append(("began from", str(recipe.get("init") or "initial weights")))
    return found


def measured(loaded: Loaded) -> list[dict[str, Any]]:
    """The newest records of these weights in the folder of their run."""
    source = zoo.located(loaded.source)
    path = results_folder(source, loaded.label) / results.FILE
    if not source.is_dir() or not path.is_file():
        return []
    return [r for r in results.latest(results.scan([path])[0]) if r["checkpoint_sha256"] == loaded.sha256]
