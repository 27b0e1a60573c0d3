"""Checkpoints: a folder of safetensors weights, a resumable training state and a meta.json with sha256; written whole
or not at all.

    checkpoints/step-000001234/
        model.safetensors      a plain timm state dict: timm.create_model(name, checkpoint_path=...)
        model_ema.safetensors  the same, averaged weights (if the recipe keeps them)
        train_state.pt         optimizer and method state; loads with torch.load(weights_only=True)
        meta.json              architecture, classes, preprocessing, config, sha256 of the files above
    last, best                 links beside checkpoints/

Nothing untrusted is ever unpickled: foreign .pth files are read with weights_only=True.
"""

import io
import json
import os
import re
import shutil
import sys
import warnings
from operator import methodcaller
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from . import weights as weights_files
from . import zoo
from .errors import EvalkitError
from .record_content import short
from .runtime import parse_json, sha256_file, sync_folder, write_atomic

SCHEMA = 1
STATE = "train_state.pt"
STEP = re.compile(r"step-\d{9,}")  # other names beside these are the user's
FILES = {"raw": "model.safetensors", "ema": "model_ema.safetensors"}
WORDS = {"raw": "raw weights", "ema": "averaged weights (ema)"}
META_KINDS: dict[str, Any] = {
    "model": str,
    "model_args": dict,
    "num_classes": int,
    "classes": list,
    "image_size": int,
    "data": dict,
    "config": dict,
    "label": str | None,
    "method": str | None,
}


def save(
    run: Path,
    step: int,
    model: dict[str, Tensor],
    ema: dict[str, Tensor] | None,
    state: dict[str, Any],
    meta: dict[str, Any],
) -> Path:
    """Write run/checkpoints/step-N under a temporary name, make it durable, rename it, point run/last at it. Returns
    the folder.

    Args:
        run: The run folder.
        step: How many steps are done.
        model: The weights that are exported.
        ema: The averaged ones; None: there are none.
        state: What else is needed to go on, tensors and plain values.
        meta: What a reader must know, JSON values.
    """
    folder = run / "checkpoints" / f"step-{step:09d}"
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        weights = {FILES["raw"]: model} | ({FILES["ema"]: ema} if ema is not None else {})
        for name, tensors in weights.items():
            data = safetensors.torch.save(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata={"format": "pt"}
            )
            write_atomic(temporary / name, methodcaller("write", data))
        packed = io.BytesIO()  # on a full disk, torch's own writer reports something else
        torch.save(canonical(state), packed)
        write_atomic(temporary / STATE, lambda f: f.write(packed.getbuffer()))
        sums = {p.name: sha256_file(p) for p in sorted(temporary.iterdir())}
        text = json.dumps({"schema": SCHEMA, **meta, "step": step, "sha256": sums}, indent=1, sort_keys=True)
        write_atomic(temporary / "meta.json", lambda f: f.write(text.encode()))
        if folder.exists():  # the same step again, after a resume: the old one is equal or damaged
            shutil.rmtree(folder)
        os.replace(temporary, folder)
        sync_folder(folder.parent)
        link(run, "last", folder)
    except (OSError, EvalkitError) as e:
        raise EvalkitError(unwritten(e, folder, run)) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def unwritten(e: BaseException, path: Path, run: Path) -> str:
    """The line for a checkpoint that could not be written.

    Args:
        e: The system's error, or what `write_atomic` made of it.
        path: The checkpoint.
        run: The run folder.
    """
    cause = e if isinstance(e, OSError) or e.__cause__ is None else e.__cause__
    why = getattr(cause, "strerror", None) or " ".join(str(cause).split())
    return (
        f"cannot write checkpoint {path}: {why}; what was saved before is intact: free some space, then continue with"
        f" --resume {run}"
    )


def link(run: Path, name: str, folder: Path) -> None:
    """Point the symbolic link run/`name` at `folder` in one rename.

    Args:
        run: The run folder.
        name: Of the link, such as "last".
        folder: What it points at.
    """
    temporary = run / f".{name}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.relative_to(run))
    os.replace(temporary, run / name)
    sync_folder(run)


def canonical(value: Any) -> Any:
    """`value` built anew: equal states make equal files, whichever objects and storages were shared."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {canonical(k): canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([canonical(v) for v in value])
    return sys.intern(value) if isinstance(value, str) else value


def tidy(run: Path, last: Path | None, best: int | None, keep: int) -> None:
    """After a kill between two writes: point `last` and `best` at the checkpoint a run goes on from and at the step it
    says was the best, delete what is left of writes that did not end.

    Args:
        run: The run folder.
        last: The checkpoint that it goes on from; None: it begins anew.
        best: The step of the best evaluation; None: there is none yet.
        keep: How many checkpoints stay.
    """
    for name in ("last", "best"):
        _no_copy(run, name)
    wanted = {"last": last, "best": None if best is None else run / "checkpoints" / f"step-{best:09d}"}
    for name, folder in wanted.items():
        if folder is not None and folder.is_dir():
            if (run / name).resolve() != folder.resolve():
                link(run, name, folder)
        elif (run / name).is_symlink():
            (run / name).unlink()
            if folder is not None:
                warnings.warn(f"{folder}, the best checkpoint so far, is gone; {run / name} went with it", stacklevel=2)
    for path in run.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    prune(run, keep)


def _no_copy(run: Path, name: str) -> None:
    """Where run/`name` is a copy of a checkpoint, as `cp -rL` and disks without links leave it, take it away, or to its
    place among the checkpoints if it is the only one of its step."""
    copy = run / name
    if copy.is_symlink() or not copy.is_dir():
        return
    try:
        meta = verify(copy)
        whole = run / "checkpoints" / f"step-{meta['step']:09d}"
        if not whole.exists():
            whole.parent.mkdir(exist_ok=True)
            os.replace(copy, whole)
        elif verify(whole) == meta:
            shutil.rmtree(copy)
        else:
            raise ValueError("another checkpoint of that step")
    except (EvalkitError, ValueError, KeyError, TypeError) as e:
        raise EvalkitError(
            f"{copy} is a folder where evalkit keeps a link, and no copy of one of {run}'s checkpoints; move it away"
        ) from e
    warnings.warn(f"{copy} was a copy of {whole.name} rather than a link; it is a link again", stacklevel=3)


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the ones that last and best point at; leftovers of crashed
    writes go too.

    Args:
        run: The run folder.
        keep: How many checkpoints stay.
    """
    folders = steps(run)
    kept = {*folders[-keep:], *((run / name).resolve() for name in ("last", "best") if (run / name).exists())}
    for folder in [*folders, *(run / "checkpoints").glob(".step-*.tmp")]:
        if folder.resolve() not in {k.resolve() for k in kept}:
            shutil.rmtree(folder, ignore_errors=True)


def steps(run: Path) -> list[Path]:
    """The checkpoint folders of a run, the oldest first, damaged ones too."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if STEP.fullmatch(path.name))


def verify(folder: Path) -> dict[str, Any]:
    """The meta of a checkpoint folder whose files match their sha256; raises EvalkitError naming what is damaged. A
    training state may be gone: a study drops it when all is measured."""
    try:
        meta = parse_json((folder / "meta.json").read_text(encoding="utf-8"))
        schema, sums = meta.get("schema", SCHEMA), dict(meta["sha256"])
        if FILES["raw"] not in sums or any(Path(name).name != name or len(name) > 100 for name in sums):
            raise ValueError
        if any(key in meta and not isinstance(meta[key], kind) for key, kind in META_KINDS.items()):
            raise TypeError
        names = meta.get("classes", [])
        if meta.get("num_classes", 0) < 0 or not all(isinstance(n, str) for n in names) or len({*names}) < len(names):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise EvalkitError(
            f"{folder} is not a complete checkpoint (meta.json missing or damaged); use another one of its run"
        ) from e
    if schema != SCHEMA:
        raise EvalkitError(
            f"{folder} was written by another version of evalkit (meta.json of schema {short(schema)}, and this one"
            f" reads {SCHEMA}); use that version"
        )
    for name, expected in sums.items():
        if name == STATE and not (folder / name).exists():
            continue
        if not (folder / name).is_file() or sha256_file(folder / name) != expected:
            raise EvalkitError(
                f"{folder / name} is missing or damaged (sha256 differs from meta.json); use another checkpoint of"
                " its run"
            )
    return meta


def newest(run: Path, state: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged checkpoint of a run and its meta, passing over damaged ones with a warning; None if there is
    none.

    Args:
        run: The run folder.
        state: Whether it must hold the training state, to go on from. Raises EvalkitError where there are whole
            checkpoints and none holds it.
    """
    without = None
    for folder in reversed(steps(run)):
        try:
            meta = verify(folder)
            if not state or (folder / STATE).is_file():
                return folder, meta
            without = without or folder
            problem = f"{folder} holds no {STATE}"
        except EvalkitError as e:
            problem = str(e)
        warnings.warn(f"passed over: {problem.partition(';')[0]}", stacklevel=2)
    if without is not None:
        raise EvalkitError(
            f"{without} holds weights but no training state (a study removes it once all is measured), so {run} cannot"
            f" go on; measure it as it is, or begin a training of its own with init={run}"
        )
    return None


def find_folder(path: str | Path) -> Path | None:
    """The checkpoint folder that `path` means: itself, that of `zoo:NAME`, or the newest undamaged one of a run folder;
    None if it is none of these."""
    path = zoo.located(path)
    if path.name == "best" and path.is_symlink():
        return _best(path)
    if (path / "meta.json").is_file():
        return path
    found = newest(path) if (path / "checkpoints").is_dir() else None
    return found[0] if found else None


def _best(link: Path) -> Path:
    """The folder that run/best means: a run that was killed before it moved the link says in its newest checkpoint
    where that belongs."""
    found = newest(link.parent)
    step = found[1].get("best", {}).get("step") if found and isinstance(found[1].get("best", {}), dict) else None
    folder = link.parent / "checkpoints" / f"step-{step:09d}" if isinstance(step, int) else link.resolve()
    if not folder.is_dir() or folder.resolve() == link.resolve():
        return link.resolve()
    warnings.warn(
        f"{link} points at {link.resolve().name}, but the best checkpoint is {folder.name}: that is read", stacklevel=4
    )
    return folder


def read_meta(path: str | Path) -> dict[str, Any]:
    """What a checkpoint, a run folder or one of the Hugging Face Hub says of itself; {} for a weights file, which says
    nothing. Raises EvalkitError for what is not there or damaged."""
    path = zoo.located(path)
    if not path.exists():
        raise EvalkitError(f"no such checkpoint: {path}")
    folder = find_folder(path) if path.is_dir() else None
    if folder is None and (path / weights_files.HUB_CONFIG).is_file():
        return weights_files.hub_meta(path)
    return verify(folder) if folder else {}


def load_state(folder: Path) -> Any:
    """The training state of a checkpoint folder, as it was written: the caller checks what it holds."""
    return weights_files.read_torch(folder / STATE)


def read_weights(path: str | Path, weights: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Read (state_dict, meta, sha256); nothing is executed.

    The key "weights" of meta says which were read; meta is {} for files that do not name them. Files: see
    `evalkit.weights`.

    Args:
        path: A checkpoint or run folder, `zoo:NAME`, a .safetensors file, a torch file, or a folder that timm wrote for
            the Hugging Face Hub.
        weights: "raw", "ema", or None for the averaged weights where a checkpoint holds them.
    """
    path = zoo.located(path)
    if path.is_dir():
        folder = find_folder(path)
        if folder is None and (path / weights_files.HUB_CONFIG).is_file():
            return weights_files.read_hub(path, weights)
        if folder is None:
            raise EvalkitError(
                f"{path} holds no complete checkpoint; give a checkpoint folder, a run folder or a weights file"
            )
        meta = verify(folder)
        if weights is None:
            weights = "ema" if FILES["ema"] in meta["sha256"] else "raw"
        name = FILES[weights]
        if name not in meta["sha256"]:
            raise EvalkitError(f"{folder} holds no averaged (ema) weights; use weights=raw")
        return (
            weights_files.read_safetensors(folder / name),
            meta | {"weights": weights, "chosen": []},
            meta["sha256"][name],
        )
    return weights_files.read_file(path, weights)
