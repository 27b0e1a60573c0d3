"""The pages on methods: what each class says of itself, what it does to two photographs, what it was recorded to
cost."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

from evalkit.train.mixups import METHODS, MixMethod
from evalkit.train.showcase import overview

from . import pictures
from .markup import code, contents, facts, literal, page, safe, table

RECORDS = Path(__file__).parent.parent.parent / "benchmarks" / "results"
ALONE = "mixup_bench.json"
STEPS = ("method_cost.json", "method_cost_others.json", "method_cost_resnet18.json")
GPU = "gpu_h200.json"


def pages() -> dict[str, str]:
    """Name -> text."""
    return {"methods": index(), **{f"methods/{name}": method_page(name, cls) for name, cls in METHODS.items()}}


def index() -> str:
    """All methods in one table."""
    alone = record(ALONE)
    rows = [
        (f"[{name}](methods/{name})", family, "nothing" if needs == "-" else needs, cost(name), paper)
        for name, family, needs, paper, _ in overview.rows()
    ]
    return page(
        [
            "# Methods",
            "A method says how training images and their labels are mixed: `evalkit train RECIPE mixup=NAME`. Each page"
            " has formula, pictures, arguments, cost and what differs from paper and code; `evalkit mixup list NAME`"
            " prints the same. `evalkit mixup preview` makes such pictures of your own images; these are of two:",
            pictures.originals(),
            f"Cost: milliseconds for a batch over those of copying it, {alone['batch']} images of {alone['size']}"
            f" pixels on {hardware(alone)}, without passes through networks, as `benchmarks/results/{ALONE}` recorded"
            " it (–: not recorded); each page has the cost of a whole training step.",
            table(("method", "family", "needs", "cost", "paper"), rows),
            contents(f"methods/{name}" for name in METHODS),
        ]
    )


def method_page(name: str, cls: type[MixMethod]) -> str:
    """All about a method.

    Args:
        name: Of METHODS.
        cls: Its class.
    """
    about = [("family", cls.family), ("needs", cls.needs or "nothing"), ("extra passes per step", cls.extra_passes)]
    about += [("takes", {"vit": "ViTs only", "cnn": "CNNs only"}[cls.takes])] if cls.takes != "any" else []
    about += [("waits for the device", cls.waits)] if cls.waits else []
    arguments = [(f"`{key}`", kind, f"`{given}`", words) for key, kind, given, words in overview.described(cls)]
    presets = [
        (f"`{preset}`", ", ".join(f"`{k}={v}`" for k, v in given.items()))
        for preset, given in cls.PRESETS.items()
        if given
    ]
    return page(
        [
            f"# {name}",
            docstring(cls),
            facts(about),
            "## What it does",
            pictures.strip(name),
            "## Arguments" if arguments else "",
            f"`mixup={name}` takes it as it is, `mixup.KEY=VALUE` changes an argument."
            + (f" `mixup={{name: {name}, preset: PRESET}}` takes a preset." if presets else ""),
            table(("argument", "type", "default", "meaning"), arguments) if arguments else "",
            table(("preset", "sets"), presets) if presets else "",
            "## Cost",
            cost_table(name),
            "## To cite" if cls.bibtex else "",
            code(inspect.cleandoc(cls.bibtex), "bibtex") if cls.bibtex else "",
            "What was compared with the official code, and how closely: [Ledger](../../ledger).",
        ]
    )


def docstring(cls: type) -> str:
    """The docstring of a class without its `Args:` block, which a table replaces."""
    text = inspect.cleandoc(cls.__doc__ or "")
    return literal(re.sub(r"(?ms)^Args:\n.*?(?=\n\S|\Z)", "", text))


def record(name: str) -> Any:
    """A recorded measurement."""
    return json.loads((RECORDS / name).read_text(encoding="utf-8"))


def hardware(measured: Any) -> str:
    """What a measurement ran on, in words."""
    environment = measured["environment"]
    device = environment["device"]
    return f"{environment['threads']} CPU cores" if device == "cpu" else f"an {device}"


def cost(name: str) -> str:
    """The ratio of mixing to copying the batch, where it was recorded."""
    found = record(ALONE)["methods"].get(name)
    return f"{found['ratio_to_clone']:.2f}" if found else "–"


def cost_table(name: str) -> str:
    """Every recorded cost of a method with its record; a sentence where there is none."""
    rows = []
    alone = record(ALONE)
    if name in alone["methods"]:
        what = f"mixing alone over copying the batch: {alone['batch']} images of {alone['size']} pixels"
        rows.append((what, hardware(alone), cost(name), f"`{ALONE}`"))
    for file in STEPS:
        steps = record(file)
        if name in steps["methods"]:
            what = f"training step over one without mixing: {steps['model']}, batch {steps['batch']}"
            rows.append((what, hardware(steps), f"{steps['methods'][name]['ratio']:.2f}", f"`{file}`"))
    gpu = record(GPU)
    found = gpu["parts"]["methods"].get(name)
    if isinstance(found, dict):
        what = "training step over one without mixing: deit_small_patch16_224, batch 128, bf16"
        rows.append((what, hardware(gpu), f"{found['relative']:.2f}", f"`{GPU}`"))
    if not rows:
        return "Not recorded."
    return page(
        [
            table(("cost", "on", "ratio", "record"), rows),
            "Each as recorded once, below `benchmarks/results`; `evalkit mixup bench` and `evalkit bench step` measure"
            " it on your machine.",
        ]
    ) + (f"\n{safe(found)[:1].upper()}{safe(found)[1:]} on the GPU." if isinstance(found, str) else "")
