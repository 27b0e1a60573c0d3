"""Build and evaluate what an mm config describes: mmengine's Runner makes the parts, `loop` trains them."""

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
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner

from evalkit.errors import EvalkitError, explained
from evalkit.progress import progress
from evalkit.runtime import world_size, write_atomic

from ..config import TransferConfig
from . import (
    backbone,  # noqa: F401  (registers it)
    loop,  # noqa: F401
    optim,
)
from .feed import Items, feed
from .loop import Stopped as Stopped
from .stock import said


class QuietRunner(Runner):
    """mmengine's Runner without a word on standard output about the file it resumes from; freezes the neck where the
    config asks for it (`evalkit_freeze_neck`), before gradients are shared."""

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        self.held = optim.hold_neck(model) if self.cfg.get("evalkit_freeze_neck") else []
        return super().wrap_model(model_wrapper_cfg, model)

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
            "find_unused_parameters": config.pop("find_unused_parameters", False),
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
    with quiet(), in_one_line("the parts of the config do not build"):
        runner = QuietRunner.from_cfg(Config(config))
        plain_model(runner).data_preprocessor._non_blocking = True  # nobody waits for images in page-locked memory
        runner.train_loop.held = runner.held  # mmengine builds it when it is first asked for, and the data with it
    return runner


@contextlib.contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """An error of mmengine's parts as an EvalkitError of one line that begins with `what`."""
    try:
        yield
    except (EvalkitError, Stopped, OSError):
        raise
    except Exception as e:
        raise EvalkitError(explained(e) or f"{what} ({said(e)}); EVALKIT_DEBUG=1 shows where") from e


@contextlib.contextmanager
def logged(runner: Runner) -> Iterator[None]:
    """Around training and measuring: the log is closed behind them, whatever happens."""
    try:
        yield
    finally:
        if runner.train_loop.log is not None:
            runner.train_loop.log.close()


def save_config(config: dict[str, Any], path: Path) -> None:
    """The mm config as a Python file that mm's own tools read.

    Args:
        config: The mm config as plain containers.
        path: The file.
    """
    write_atomic(path, lambda f: f.write(Config(config).pretty_text.encode()))


def loop_config(cfg: TransferConfig, run: Path, steps: int, epoch_steps: int | None = None) -> dict[str, Any]:
    """`train_cfg` of an mm config.

    Args:
        cfg: The keys.
        run: The run folder.
        steps: Steps in all.
        epoch_steps: Steps of an epoch; None: nothing counts epochs.
    """
    return {
        "type": "EvalkitLoop",
        "run": str(run),
        "seed": cfg.seed,
        "max_iters": steps,
        "every": {
            "log": cfg.log_steps,
            "checkpoint": cfg.checkpoint_steps,
            "epoch": epoch_steps,
            "val": cfg.val_steps,
        },
        "keep": cfg.keep,
        "accumulate": cfg.accumulate,
    }


# ---- evaluation


def plain_model(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


@contextlib.contextmanager
def averaged(runner: Runner) -> Iterator[None]:
    """The moving average in the place of the weights, if the run keeps one."""
    hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    for hook in hooks:
        hook.before_test_epoch(runner)
    try:
        yield
    finally:
        for hook in hooks:
            hook.after_test_epoch(runner)


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
    told = progress("evaluating" + (", test-time augmentation" if tta else ""), len(built.dataset))
    with averaged(runner), in_one_line("the network cannot be tested"), told as advance:
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
    with averaged(runner):
        return [sample(model.test_step(pseudo_collate([data[int(i)]]))[0]) for i in where]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on standard output: mm and pycocotools print tables and "creating index..." there."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
