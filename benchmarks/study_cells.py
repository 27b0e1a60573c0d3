"""Builds every distinct training of the studies that ship (network, recipe, method) and takes one real step of it.

    python benchmarks/study_cells.py [--json FILE] [--study NAME ...] [--minutes N] [--again]

A step is the loop's own: the method with all its passes, forward, backward, update, at the recipe's image size, in
single precision on the CPU, with 2 images of noise. Of a choice, every branch but Mixup and CutMix takes one, or the
first. Teachers and weights to start from are random networks of the same architecture here, and the result says so.
The file is written after each training, cheap networks first; a second call goes on where the first one stopped.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalkit import config, data, models
from evalkit.data.images import ArrayImages
from evalkit.data.known import size_of
from evalkit.errors import EvalkitError
from evalkit.models.cost import cost
from evalkit.runtime import derive_rng, environment, write_atomic
from evalkit.study import spec
from evalkit.train import helpers, loop, session
from evalkit.train.config import TrainConfig
from evalkit.train.mixups.base import MixMethod
from evalkit.train.mixups.choice import Choice
from evalkit.train.mixups.cutmix import CutMix
from evalkit.train.mixups.mixup import Mixup
from evalkit.train.mixups.parts.teacher import Teacher

RESULT = Path(__file__).parent / "results" / "study_cells.json"
BATCH, IMAGENET = 2, 1000
# what makes another step; the schedule, the seed and the data's place do not
KEYS = ("model", "model_args", "image_size", "mixup", "loss", "bce_reduction", "label_smoothing", "opt", "opt_args")
KEYS += ("clip_grad", "ema", "distill_teacher", "distill_type", "init")


def trainings(studies: list[str]) -> dict[str, tuple[TrainConfig, list[str]]]:
    """Key of a step -> its configuration and the cells that it stands for, cheap networks first.

    Args:
        studies: Names.
    """
    found: dict[str, tuple[TrainConfig, list[str]]] = {}
    for name in studies:
        study = spec.load(name)
        for cell in study.cells:
            if cell.weights:  # published weights, transferred or measured as they are: nothing is trained
                continue
            if cell.excluded or cell.values.get("seed", "0") != "0" or not study.published:
                continue
            cfg = config.load(TrainConfig, cell.recipe, [*cell.overrides(), "data_dir=nowhere"])
            own = config.to_dict(cfg)
            key = json.dumps({k: own[k] for k in KEYS} | {"classes": classes_of(cfg)}, sort_keys=True)
            found.setdefault(key, (cfg, []))[1].append(f"{name}/{cell.name}")
    macs = {k: cost(c.model, c.image_size, classes_of(c), **c.model_args).macs for k, (c, _) in found.items()}
    return {key: found[key] for key in sorted(found, key=lambda key: (macs[key], key))}


def classes_of(cfg: TrainConfig) -> int:
    """Of the recipe's data set; ImageNet where it is a folder."""
    size = size_of(cfg.data, cfg.train_split)
    return size[1] if size else IMAGENET


def step(cfg: TrainConfig, said: list[str]) -> dict[str, Any]:
    """One step of each method of the configuration: losses, and seconds for all.

    Args:
        cfg: The training.
        said: Gets a line for each network whose weights are random here.
    """
    count, began = classes_of(cfg), time.perf_counter()
    if cfg.init is not None:
        said.append(f"random weights in place of {cfg.init}")
    own = replace(cfg, init=None, batch_size=BATCH, micro_batch=BATCH, accumulate=1, bn_batch=None, workers=0)
    own = replace(own, amp="none", augment="none", auto_augment=None, color_jitter=0.0, erasing=0.0, repeats=1)
    images = noise(cfg.image_size, count, "train"), noise(cfg.image_size, count, "val")
    s = session.build(own, torch.device("cpu"), images)
    said += [
        f"random weights in place of {teacher.spec}" for teacher in helpers.teachers(s.method, s.trainee.distillation)
    ]
    context, batch = loop.context_maker(s, 10**6), next(loop.batch_iterator(s, 0))
    before = [p.detach().clone() for p in s.network.model.parameters()]
    losses = {}
    for name, branch in branches(s.method).items():
        if branch is not s.method:
            object.__setattr__(s.method, "pick", lambda ctx, branch=branch: branch.pick(ctx))
        loss = loop.forward(s, s.trainee, context(s.step, 0, batch.extras), replace(batch, step=s.step))
        loss.backward()
        loop.update(s, context(s.step, None), measured=False)
        s.step += 1
        losses[name] = float(loss)
    if not all(math.isfinite(value) for value in losses.values()):
        raise EvalkitError(f"a loss is not finite: {losses}")
    moved = sum(not torch.equal(a, b) for a, b in zip(before, s.network.model.parameters(), strict=True))
    if not moved:
        raise EvalkitError("no parameter of the network moved")
    return {"loss": losses, "moved": f"{moved} of {len(before)} tensors", "seconds": time.perf_counter() - began}


def branches(method: MixMethod) -> dict[str, MixMethod]:
    """The methods whose step is taken: of a choice all but Mixup and CutMix, or its first.

    Args:
        method: Of the recipe.
    """
    if not isinstance(method, Choice):
        return {type(method).__name__: method}
    special = [part for part in method.branches if type(part) not in (Mixup, CutMix)] or list(method.branches)[:1]
    return {type(part).__name__: part for part in special}


def noise(size: int, classes: int, split: str) -> data.Images:
    """A batch of noise with labels among `classes`.

    Args:
        size: Pixels per side.
        classes: How many.
        split: Name of the split.
    """
    pixels = derive_rng("study-cells", split).integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
    names = [f"{split}/{i}" for i in range(BATCH)]
    return ArrayImages("noise", names, np.arange(BATCH), [str(c) for c in range(classes)], pixels)


def random_teacher(self: Teacher) -> Any:
    """Stands in for `Teacher.load`: the architecture that the teacher's name begins with, without its weights."""
    if self.network is None:
        self.network = models.create(self.model or str(self.spec).partition(".")[0], num_classes=IMAGENET)
        self.network.eval().requires_grad_(False)
    return self.network


def main() -> None:
    """Read the arguments, take what steps are missing, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT, help="the result, which a second call adds to")
    parser.add_argument("--study", nargs="*", help="these studies alone")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no step after so many minutes")
    parser.add_argument("--again", action="store_true", help="take the steps of before again")
    words = parser.parse_args()
    Teacher.load = random_teacher  # type: ignore[method-assign]  # weights cannot be had here
    began, wanted = time.monotonic(), trainings(words.study or spec.names())
    done = {} if words.again or not words.json.exists() else json.loads(words.json.read_text())["steps"]
    steps = {key: done[key] for key in wanted if key in done and "error" not in done[key]}
    for number, (key, (cfg, cells)) in enumerate(wanted.items()):
        if key in steps or (time.monotonic() - began) / 60 > words.minutes:
            continue
        said: list[str] = []
        try:
            result = step(cfg, said)
        except EvalkitError as e:
            result = {"error": str(e)}
        steps[key] = {"recipe": cfg.model, "cells": cells, "random": said, **result}
        how = result.get("error") or f"loss {result['loss']}, {result['seconds']:.1f} s"
        print(f"{number + 1} of {len(wanted)}: {cells[0]}: {how}", flush=True)
        _write(words.json, steps, wanted)
    _write(words.json, steps, wanted)
    failed, left = sum("error" in made for made in steps.values()), len(wanted) - len(steps)
    print(f"{len(steps) - failed} of {len(wanted)} trainings took a step, {failed} failed, {left} left")


def _write(path: Path, steps: dict[str, Any], wanted: dict[str, tuple[TrainConfig, list[str]]]) -> None:
    for key in steps:
        steps[key]["cells"] = wanted[key][1]
    cells = {"cells": sum(len(names) for _, names in wanted.values()), "trainings": len(wanted)}
    cells |= {"cells_stepped": sum(len(made["cells"]) for made in steps.values() if "error" not in made)}
    facts = environment(torch.device("cpu"))
    made = {"benchmark": "study_cells", "batch": BATCH, **cells, "environment": facts, "steps": steps}
    write_atomic(path, lambda f: f.write((json.dumps(made, indent=1) + "\n").encode()))


if __name__ == "__main__":
    main()
