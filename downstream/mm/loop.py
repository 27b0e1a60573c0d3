"""Train by an mm config: a loop of our own over the parts that mmengine builds.

The order of the images, their augmentation and dropout are functions of (seed, step, place in the batch), so a run that
was killed and resumed takes the same steps as one that was not.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, Runner

from evalkit.errors import EvalkitError
from evalkit.files import append
from evalkit.guard import Guard
from evalkit.logger import Logger
from evalkit.runtime import is_main, parse_json, rank, world_size, write_atomic

from . import checkpoints
from .feed import Places, Seeded, feed, seed_everything

VALIDATED, BEST = "val.jsonl", "best.pth"


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""


@LOOPS.register_module()
class EvalkitLoop(BaseLoop):
    """A training loop that logs, saves, measures, and ends when a signal asks for it.

    Args:
        runner: What the loop belongs to.
        dataloader: The training loader, or the config of one.
        run: The run folder.
        seed: The seed of order and augmentation.
        max_iters: Steps in all.
        every: Steps between two of: "log" lines, "checkpoint"s, "epoch"s (for schedulers and hooks that count them;
            None: the run is one), "val" measurements (None: there are none).
        keep: How many checkpoints stay.
        accumulate: Parts that a step's images are computed in.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        run: str,
        seed: int,
        max_iters: int,
        every: dict[str, int | None],
        keep: int,
        accumulate: int = 1,
    ):
        super().__init__(runner, dataloader)
        self.folder, self.seed, self.max_iters = Path(run), seed, max_iters
        self.log_steps, self.checkpoint_steps, self.keep = every["log"] or 1, every["checkpoint"] or 1, keep
        self.accumulate, self.val_steps = accumulate, every["val"]
        self.epoch_steps = every["epoch"] or max_iters
        self.max_epochs = -(-max_iters // self.epoch_steps)
        self._epoch = 0
        self._iter = 0  # what Runner.resume sets
        self.held: list[torch.nn.Module] = []  # stay in evaluation
        self.validate: Callable[[], tuple[dict[str, float], str]] | None = None  # (metrics, words); the first decides
        self.track: str | None = None  # a tracker, which shows the config
        self.config: dict[str, Any] = {}
        self.log: Logger | None = None  # open until whoever built the loop has told it the result

    @property
    def iter(self) -> int:
        return self._iter

    @property
    def epoch(self) -> int:
        return self._iter // self.epoch_steps

    def batches(self) -> Iterator[Any]:
        """Batches from the current step on. Skipping costs the order alone: no image is read for it."""
        built = self.dataloader
        return feed(
            built,
            Seeded(built.dataset, self.seed),
            batch_sampler=Places(built.batch_sampler, self._iter),
        )

    def run(self) -> None:
        runner, batches = self.runner, self.batches()
        device = next(runner.model.parameters()).device
        self.log = log = Logger(self.folder, self._iter, self.max_iters, self.track, self.config)
        self._forget_later()
        window, shown, loss, due = time.monotonic(), self._iter, {}, False
        accumulated = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        forget_norms(runner)
        bad_so_far = torch.zeros((), dtype=torch.bool, device=device)
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        self._train_mode()
        with Guard(device) as guard:
            try:
                if self._iter and self._measures(self._iter):  # saved, but perhaps killed before it was measured
                    self._validate()
                    window = time.monotonic()
                while self._iter < self.max_iters:
                    batch = next(batches)
                    rate = runner.optim_wrapper.get_lr()["lr"][0]
                    seed_everything(self.seed, "model", self._iter, rank())
                    runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batch)
                    loss = self._step(batch)
                    runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=loss)
                    self._iter += 1
                    bad_so_far |= ~torch.isfinite(loss["loss"])

                    last = self._iter == self.max_iters
                    if self._iter % self.epoch_steps == 0 and not last:
                        runner.call_hook("after_train_epoch")
                        runner.call_hook("before_train_epoch")

                    due = due or self._iter % self.checkpoint_steps == 0
                    # gradients that are still gathered stand in no checkpoint
                    whole = last or self._iter % accumulated == 0
                    save_now = whole and (last or due)
                    log_now = last or self._iter % self.log_steps == 0
                    val_now = whole and self._measures(self._iter)
                    # asking the others, or a GPU for the loss, costs a wait
                    alone = world_size() == 1 and device.type == "cpu"
                    if not (alone or save_now or log_now or val_now or self._iter % 10 == 0):
                        continue
                    bad, stop = guard.agree(bool(bad_so_far), guard.received or log.unread)
                    if bad:
                        raise EvalkitError(
                            f"the loss was not finite at step {self._iter} or before; lower lr or set clip_grad=1.0,"
                            " then start again in another folder"
                        )
                    if log_now:
                        now = time.monotonic()
                        values = {name: float(value.detach()) for name, value in loss.items()} | {"lr": rate}
                        values["seconds_per_step"] = round((now - window) / (self._iter - shown), 4)
                        log.log(
                            self._iter,
                            values,
                            f"loss {values['loss']:.3f}  lr {rate:.1e}  {values['seconds_per_step']:.2f} s/step",
                        )
                        window, shown = now, self._iter
                    if save_now or (stop and whole):
                        log.check_place()
                        checkpoints.save(runner, self.folder, self._iter, self.keep)
                        due = False
                    if val_now:
                        self._validate()
                        window, shown = time.monotonic(), self._iter
                    if stop and whole and not last:
                        raise Stopped(int(stop))
            finally:
                log.rest()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")

    def _step(self, batch: Any) -> dict[str, torch.Tensor]:
        """One optimizer step; the mean of the losses of its parts."""
        runner, wrapper = self.runner, self.runner.optim_wrapper
        if self.accumulate == 1:
            found: dict[str, torch.Tensor] = runner.model.train_step(batch, optim_wrapper=wrapper)
            return found
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        size = len(batch["inputs"]) // self.accumulate
        total: dict[str, torch.Tensor] = {}
        for k in range(self.accumulate):
            part = {name: values[k * size : (k + 1) * size] for name, values in batch.items()}
            # gradients are added up over processes once, with the last part
            wait = (
                runner.model.no_sync()
                if k + 1 < self.accumulate and hasattr(runner.model, "no_sync")
                else nullcontext()
            )
            with wait:
                with wrapper.optim_context(runner.model):
                    data = model.data_preprocessor(part, True)
                    losses = runner.model(**data, mode="loss")
                loss, told = model.parse_losses(losses)
                wrapper.backward(loss / self.accumulate)
            for name, value in told.items():
                total[name] = total.get(name, 0.0) + value.detach() / self.accumulate
        wrapper.step()
        wrapper.zero_grad()
        return total

    def _train_mode(self) -> None:
        self.runner.model.train()
        for module in self.held:
            module.eval()

    def tell(self, metrics: dict[str, float], words: str) -> None:
        """Log what was measured of the weights as they are, each number by its name after val_.

        Args:
            metrics: Its numbers.
            words: The same for the person watching.
        """
        assert self.log is not None, "the loop has run"
        self.log.log(self._iter, {f"val_{name}": v for name, v in metrics.items() if math.isfinite(v)}, words)

    # ---- measuring on the way

    def _measures(self, step: int) -> bool:
        """Whether a step is followed by a measurement; the last one is measured by the run itself."""
        return bool(self.val_steps) and step % (self.val_steps or 1) == 0 and step != self.max_iters

    def _forget_later(self) -> None:
        """Drop measurements of steps that are done, or measured, again."""
        path = self.folder / VALIDATED
        if is_main() and path.exists():
            end = self._iter + (not self._measures(self._iter))
            lines = [(line, _line(line).get("step")) for line in path.read_bytes().splitlines()]
            if damaged := sum(not isinstance(step, int) for _, step in lines):
                warnings.warn(f"{path}: {damaged} lines that are no measurement were left out", stacklevel=2)
            kept = [line for line, step in lines if isinstance(step, int) and step < end]
            write_atomic(path, lambda f: f.write(b"".join(line + b"\n" for line in kept)))

    def _validate(self) -> None:
        """Measure, and keep the weights if no measurement before was better."""
        assert self.validate is not None, "whoever builds the loop says how to measure"
        found, words = self.validate()
        self.tell(found, words)
        self._train_mode()
        if not is_main():
            return
        path, (name, value) = self.folder / VALIDATED, next(iter(found.items()))
        before = path.read_bytes().splitlines() if path.exists() else []
        with open(path, "ab", buffering=0) as f:
            append(f.fileno(), (json.dumps({"step": self._iter, **found}) + "\n").encode())
        if all(not value <= best for line in before if isinstance(best := _line(line).get(name), int | float)):
            checkpoints.save_best(self.runner, self.folder / BEST, self._iter)


def forget_norms(runner: Runner) -> None:
    """mmengine reads the norm of clipped gradients back in every step, for a log that is not kept here: the host would
    wait for a GPU."""
    clip = getattr(runner.optim_wrapper, "clip_func", None)
    if clip is not None:

        def clipped(*args: Any, **kwargs: Any) -> None:  # what is returned would be turned into a Python number
            clip(*args, **kwargs)

        runner.optim_wrapper.clip_func = clipped


def _line(line: bytes) -> dict[str, Any]:
    """A line of val.jsonl; {} for one that is damaged."""
    try:
        found = parse_json(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}
