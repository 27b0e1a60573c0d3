"""Checkpoints of a transfer: mm's own files, each beside its sha256, written whole or not at all.

checkpoints/step-000001234.pth          loads with weights_only=True, and in mm's own tools
checkpoints/step-000001234.pth.sha256   what `sha256sum -c` reads
"""

import contextlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from evalkit.checkpoint import canonical, unwritten
from evalkit.errors import EvalkitError
from evalkit.runtime import is_main, sha256_file, sync_folder, write_atomic

SUFFIX = ".sha256"
OWN = re.compile(rf"step-\d{{9,}}\.pth({SUFFIX})?|\..*")  # other names beside these are the user's


@HOOKS.register_module()
class SlimCheckpointHook(Hook):
    """Keeps mmengine's log buffers, clock and paths out of checkpoints: what is left loads with weights_only=True, and
    is the same in equal runs. Counters of the run stand in the file's meta, its config beside it in mm_config.py."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
        for key in ("time", "experiment_name", "cfg"):
            checkpoint["meta"].pop(key, None)
        whole = {key: canonical(checkpoint[key]) for key in sorted(checkpoint)}
        checkpoint.clear()
        checkpoint.update(whole)


def save(runner: Runner, run: Path, step: int, keep: int) -> None:
    """A checkpoint of the current step: written under another name, made durable, renamed; then the oldest go.

    Args:
        runner: What trains: its model, optimizer and schedules are saved.
        run: The run folder.
        step: How many steps are done.
        keep: How many checkpoints stay.
    """
    folder = run / "checkpoints"
    partial, path = folder / ".partial", folder / f"step-{step:09d}.pth"
    with _saved(path, partial, run):
        folder.mkdir(exist_ok=True)
        runner.save_checkpoint(str(folder), partial.name, meta={"epoch": 0, "iter": step}, by_epoch=False)
        if not is_main():
            return
        _flush(partial)
        line = f"{sha256_file(partial)}  {path.name}\n"
        write_atomic(path.with_name(path.name + SUFFIX), lambda f: f.write(line.encode()))
        os.replace(partial, path)
        sync_folder(folder)
    prune(run, path, keep)


def prune(run: Path, last: Path, keep: int) -> None:
    """Delete old checkpoints, and what is left of writes and deletions that did not end.

    Args:
        run: The run folder.
        last: The checkpoint that is gone on from; newer ones stay.
        keep: How many stay of those up to `last`.
    """
    folder = run / "checkpoints"
    whole = sorted(path for path in folder.glob("step-*.pth") if OWN.fullmatch(path.name))
    kept = {p.name for p in [*[p for p in whole if p <= last][-keep:], *[p for p in whole if p > last]]}
    for path in [*folder.glob("step-*.pth*"), *folder.glob(".*"), *run.glob(".*.tmp")]:
        if OWN.fullmatch(path.name) and path.name.removesuffix(SUFFIX) not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def save_best(runner: Runner, path: Path, step: int) -> None:
    """The weights of the current step, the best so far, in the place of those before.

    Args:
        runner: What holds the model.
        path: The file, replaced.
        step: The step that the weights are of.
    """
    partial = path.with_name(f".{path.name}.partial")
    with _saved(path, partial, path.parent):
        runner.save_checkpoint(
            str(path.parent),
            partial.name,
            save_optimizer=False,
            save_param_scheduler=False,
            meta={"iter": step},
            by_epoch=False,
        )
        _flush(partial)
        os.replace(partial, path)
        sync_folder(path.parent)


@contextlib.contextmanager
def _saved(path: Path, partial: Path, run: Path) -> Iterator[None]:
    """Around the writing of a checkpoint: what there is of one that could not be written goes."""
    try:
        yield
    except (OSError, EvalkitError) as e:
        if is_main():
            partial.unlink(missing_ok=True)
            if not path.exists():
                path.with_name(path.name + SUFFIX).unlink(missing_ok=True)
        raise EvalkitError(unwritten(e, path, run)) from e


def _flush(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def newest(run: Path) -> tuple[Path, int] | None:
    """The newest undamaged checkpoint of a run and its step, passing over damaged ones with a warning; None if there is
    none."""
    for path in sorted((run / "checkpoints").glob("step-*.pth"), reverse=True):
        told = path.with_name(path.name + SUFFIX)
        digits = path.stem.partition("-")[2]
        if not told.is_file():
            warnings.warn(f"{path} has no {SUFFIX} file beside it, so whether it is whole cannot be told", stacklevel=2)
        elif not told.read_bytes().startswith(sha256_file(path).encode()):
            warnings.warn(f"passed over: {path} is damaged (its sha256 differs)", stacklevel=2)
            continue
        if digits.isdecimal():
            return path, int(digits)
    return None
