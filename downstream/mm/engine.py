"""Train and evaluate by an mm config: mmengine's Runner builds the parts, a loop of our own drives them, evalkit logs
and saves.

The order of the images, their augmentation and dropout are functions of (seed, step, place in the batch), so a run that
was killed and resumed takes the same steps as one that was not.
"""

import contextlib
import copy
import io
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import mmengine.device.utils
import numpy as np
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS, LOOPS, MODELS
from mmengine.runner import BaseLoop, Runner

from evalkit.errors import EvalkitError
from evalkit.guard import Guard
from evalkit.logger import Logger
from evalkit.progress import progress
from evalkit.runtime import rank, world_size, write_atomic

from . import (
    backbone,  # noqa: F401  (registers it)
    checkpoints,
)
from .feed import Items, Places, Seeded, feed, seed_everything


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""


# ---- training


@LOOPS.register_module()
class EvalkitLoop(BaseLoop):
    """A training loop that logs, saves, and ends when a signal asks for it.

    Args:
        runner: What the loop belongs to.
        dataloader: The training loader, or the config of one.
        run: The run folder.
        seed: The seed of order and augmentation.
        max_iters: Steps in all.
        log_steps: Steps between two lines of the log.
        checkpoint_steps: Steps between two checkpoints.
        keep: How many checkpoints stay.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        run: str,
        seed: int,
        max_iters: int,
        log_steps: int,
        checkpoint_steps: int,
        keep: int,
    ):
        super().__init__(runner, dataloader)
        self.folder, self.seed, self.max_iters = Path(run), seed, max_iters
        self.log_steps, self.checkpoint_steps, self.keep = log_steps, checkpoint_steps, keep
        self.epoch = self._epoch = 0
        self.max_epochs = 1
        self._iter = 0  # what Runner.resume sets

    @property
    def iter(self) -> int:
        return self._iter

    def batches(self) -> Iterator[Any]:
        """Batches from the current step on. Skipping costs the order alone: no image is read for it."""
        built = self.dataloader
        return feed(
            built,
            Seeded(built.dataset, self.seed),
            batch_sampler=Places(built.batch_sampler, self._iter),
            pin_memory=torch.cuda.is_available(),
        )

    def run(self) -> None:
        runner, batches = self.runner, self.batches()
        device = next(runner.model.parameters()).device
        log = Logger(self.folder, self._iter, self.max_iters)
        window, shown, loss, due = time.monotonic(), self._iter, {}, False
        accumulated = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        runner.model.train()
        with Guard(device) as guard:
            try:
                while self._iter < self.max_iters:
                    batch = next(batches)
                    rate = runner.optim_wrapper.get_lr()["lr"][0]
                    seed_everything(self.seed, "model", self._iter, rank())
                    runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batch)
                    loss = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
                    runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=loss)
                    self._iter += 1

                    last = self._iter == self.max_iters
                    due = due or self._iter % self.checkpoint_steps == 0
                    # gradients that are still gathered stand in no checkpoint
                    whole = last or self._iter % accumulated == 0
                    save_now = whole and (last or due)
                    log_now = last or self._iter % self.log_steps == 0
                    # asking the others costs a wait
                    if world_size() > 1 and not (save_now or log_now or self._iter % 10 == 0):
                        continue
                    bad, stop = guard.agree(not bool(torch.isfinite(loss["loss"])), guard.received or 0)
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
                        checkpoints.save(runner, self.folder, self._iter, self.keep)
                        due = False
                    if stop and whole and not last:
                        raise Stopped(int(stop))
            finally:
                log.close()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")


class QuietRunner(Runner):
    """mmengine's Runner without a word on standard output about the file it resumes from."""

    def load_or_resume(self) -> None:
        try:
            with quiet():
                super().load_or_resume()
        except (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, UnpicklingError) as e:
            raise EvalkitError(
                f"{self._load_from} is damaged or of another run; remove it, and the run resumes from the checkpoint"
                " before it"
            ) from e

    def load_checkpoint(self, filename: str, map_location: Any = "cpu", strict: bool = True, **options: Any) -> Any:
        """As mmengine's, but a tensor that is missing is an error."""
        return super().load_checkpoint(filename, map_location, strict, **options)


def build(
    config: dict[str, Any], run: Path, *, scope: str, seed: int, device: torch.device, checkpoint: Path | None
) -> Runner:
    """The Runner of an mm config, ready to train.

    Args:
        config: The mm config as plain containers.
        run: The run folder.
        scope: "mmseg" or "mmdet", where parts are looked up by name.
        seed: The seed of the run.
        device: Where it trains.
        checkpoint: The folder it goes on from; None: from the start.
    """
    import_module(f"{scope}.utils").register_all_modules(init_default_scope=True)
    import_module(f"{__package__}.{scope.removeprefix('mm')}")
    config = {key: copy.deepcopy(value) for key, value in config.items() if not key.startswith(("test_", "tta_"))}
    if checkpoint is not None:
        config["model"]["backbone"]["checkpoint"] = None  # the run's own weights are the ones that count
    config |= {
        "work_dir": str(run / "mm"),
        "default_scope": scope,
        "experiment_name": f"{run.name}-{time.time_ns()}",  # mmengine keeps one world per name and process
        "launcher": "pytorch" if world_size() > 1 else "none",
        "log_level": "ERROR",
        "randomness": {"seed": seed},
        "model_wrapper_cfg": {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "device_ids": None if device.type == "cpu" else [device.index],
        },
        "env_cfg": {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}},
        "default_hooks": {"timer": None, "logger": None, "checkpoint": None, "sampler_seed": None},
        "custom_hooks": [*config["custom_hooks"], {"type": "SlimCheckpointHook"}],
        "resume": checkpoint is not None,
        "load_from": None if checkpoint is None else str(checkpoint),
    }
    mmengine.device.utils.DEVICE = device.type  # mmengine takes a GPU wherever there is one
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with quiet():
        runner = QuietRunner.from_cfg(Config(config))
        _ = runner.train_loop  # mmengine builds it when it is first asked for, and the data with it
    return runner


def save_config(config: dict[str, Any], path: Path) -> None:
    """The mm config as a Python file that mm's own tools read.

    Args:
        config: The mm config as plain containers.
        path: The file.
    """
    write_atomic(path, lambda f: f.write(Config(config).pretty_text.encode()))


def loop_config(
    run: Path, *, seed: int, steps: int, log_steps: int, checkpoint_steps: int, keep: int
) -> dict[str, Any]:
    """`train_cfg` of an mm config.

    Args:
        run: The run folder.
        seed: The seed of order and augmentation.
        steps: Steps in all.
        log_steps: Steps between two lines of the log.
        checkpoint_steps: Steps between two checkpoints.
        keep: How many checkpoints stay.
    """
    return {
        "type": "EvalkitLoop",
        "run": str(run),
        "seed": seed,
        "max_iters": steps,
        "log_steps": log_steps,
        "checkpoint_steps": checkpoint_steps,
        "keep": keep,
    }


# ---- evaluation


def plain_model(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


@torch.no_grad()
def evaluate(runner: Runner, config: dict[str, Any], *, tta: bool = False) -> dict[str, Any]:
    """What the config's `test_evaluator` says of its `test_dataloader`.

    Args:
        runner: What holds the model.
        config: The mm config as plain containers.
        tta: Whether images are seen at several scales, through `tta_model` and `tta_pipeline`.
    """
    model = plain_model(runner)
    for buffer in model.buffers() if world_size() > 1 else ():
        # batch normalisation has other statistics in every process; those of the first are the ones saved
        dist.broadcast(buffer, 0)
    loader = copy.deepcopy(config["test_dataloader"])
    if tta:
        loader["dataset"]["pipeline"] = config["tta_pipeline"]
        model = MODELS.build(Config(config["tta_model"] | {"module": None}).to_dict() | {"module": model})
    model.eval()
    with quiet():
        built = Runner.build_dataloader(Config(loader).to_dict())
        evaluator: Evaluator = runner.build_evaluator(Config({"e": config["test_evaluator"]}).e)
        evaluator.dataset_meta = built.dataset.metainfo
    data = feed(built, Items(built.dataset), batch_size=built.batch_size, sampler=built.sampler)
    with progress("evaluating" + (", test-time augmentation" if tta else ""), len(built.dataset)) as advance:
        for batch in data:
            evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
            advance(built.batch_size * world_size())
    with quiet():
        return evaluator.evaluate(len(built.dataset))


@torch.no_grad()
def samples(runner: Runner, config: dict[str, Any], count: int) -> list[Any]:
    """Images of `test_dataloader`, evenly spaced, each with truth and prediction as the task's sheet shows them.

    Args:
        runner: What holds the model.
        config: The mm config as plain containers.
        count: How many images.
    """
    model = plain_model(runner).eval()
    with quiet():
        data = DATASETS.build(Config(config["test_dataloader"]["dataset"]).to_dict())
    where = np.linspace(0, len(data) - 1, min(count, len(data))).astype(int)
    sample = import_module(f"{__package__}.{runner.default_scope.scope_name.removeprefix('mm')}").sample
    return [sample(model.test_step(pseudo_collate([data[int(i)]]))[0]) for i in where]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on standard output: mm and pycocotools print tables and "creating index..." there."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
