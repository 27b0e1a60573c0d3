"""What a step of the training loop costs beside a bare PyTorch step of the same network, on one CPU thread.

    python benchmarks/loop_overhead.py --out benchmarks/results/loop_overhead.json

DeiT-T at 64 pixels, and the network of the demo, each without an average of the weights and with one. The bare step is
forward, cross-entropy, backward and the same optimizer on a batch that is there as floating-point numbers already. The
loop is `evalkit.train.loop.fit`, as a run goes through it, on the same batch again and again as a data worker hands it
over; logs, looks at the loss and signals are in it. After each of its steps comes a bare one, so that both see the same
machine; what is measured is CPU time, so that other work matters little. Goals without an average: 1.03 for DeiT-T,
1.05 for the demo's network.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit import config
from evalkit.logger import Logger
from evalkit.runtime import environment, write_atomic
from evalkit.train import loop, session
from evalkit.train.config import TrainConfig
from evalkit.train.resolve import resolve
from evalkit.train.showcase import step_bench

CPU = torch.device("cpu")
NETWORKS = {
    "DeiT-T, 64 pixels": (["model=deit_tiny_patch16_224", "model_args={img_size: 64}", "image_size=64"], 16, 1.03),
    "the demo's": ([], 64, 1.05),
}


def recipe(words: list[str], batch: int, steps: int) -> TrainConfig:
    """The demo's recipe without mixing, for so many steps.

    Args:
        words: What replaces its own values.
        batch: Images of a step.
        steps: How many.
    """
    own = ["mixup=vanilla", "augment=none", "auto_augment=null", "threads=1", "device=cpu", "workers=0", "erasing=0"]
    cfg = config.load(TrainConfig, "digits", [*own, f"batch_size={batch}", f"micro_batch={batch}", *words])
    return resolve(replace(cfg, epochs=steps, eval_epochs=float(steps), methods={}), CPU, steps)


def measure(words: list[str], batch: int, steps: int, repeats: int) -> list[float]:
    """Loop over bare, the median of the paired steps of each of several stretches.

    Args:
        words: What replaces values of the recipe.
        batch: Images of a step.
        steps: Of a stretch.
        repeats: Stretches, after a first one that warms up.
    """
    cfg = recipe(words, batch, 1 + steps * (repeats + 1))
    images = tuple(step_bench.synthetic(cfg.image_size, batch, split) for split in ("train", "val"))
    s, other = session.build(cfg, CPU, images), session.build(cfg, CPU, images)
    given = next(loop.batch_iterator(s, 0))
    x, y = loop.prepare(other, given, loop.context_maker(other, 1)(0, 0))
    other.network.model.train()
    ratios: list[float] = []
    ended = [time.process_time()]

    def bare_step(x: Tensor, y: Tensor) -> None:
        loss = torch.nn.functional.cross_entropy(other.network.model(x), y, label_smoothing=cfg.label_smoothing)
        loss.backward()
        other.optimizer.step()
        other.optimizer.zero_grad(set_to_none=True)

    class Paired(Logger):
        def moved(self, step: int) -> None:
            super().moved(step)
            of_loop = time.process_time() - ended[0]
            began = time.process_time()
            bare_step(x, y)
            ended[0] = time.process_time()
            ratios.append(of_loop / (ended[0] - began))

    def the_same(s: session.Session, start: int) -> Any:
        return (replace(given, step=step) for step in itertools.count(start))

    with tempfile.TemporaryDirectory() as run:
        loop_logger, loop_batches = loop.Logger, loop.batch_iterator
        loop.Logger, loop.batch_iterator = Paired, the_same  # type: ignore[misc]
        try:
            loop.fit(s, Path(run))
        finally:
            loop.Logger, loop.batch_iterator = loop_logger, loop_batches  # type: ignore[misc]
    stretches = np.array(ratios[1 : 1 + steps * (repeats + 1)]).reshape(repeats + 1, steps)
    return [float(value) for value in np.median(stretches, axis=1)[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="of a stretch")
    parser.add_argument("--repeats", type=int, default=5, help="stretches")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for (name, (words, batch, goal)), ema in itertools.product(NETWORKS.items(), ("null", "0.99")):
        ratios = measure([*words, f"ema={ema}"], batch, args.steps, args.repeats)
        row = {"median": statistics.median(ratios), "range": [min(ratios), max(ratios)], "batch": batch}
        found[name if ema == "null" else f"{name}, averaged weights"] = row | {"goal": goal if ema == "null" else None}
        print(f"{name}, ema={ema}: {row['median']:.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)
    if args.out:
        made = {"loop_over_bare": found, "steps": args.steps, "repeats": args.repeats, "environment": environment()}
        write_atomic(args.out, lambda f: f.write((json.dumps(made, indent=1) + "\n").encode()))


if __name__ == "__main__":
    main()
