"""Run folders: a new one starts with its resolved config, a stopped one continues by it, and one process at a time
works in it."""

import contextlib
import fcntl
import io
import os
import platform
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from . import config, keys
from .errors import EvalkitError

T = TypeVar("T", bound=keys.Keys)
LOCK = "run.lock"
ALMOST_FULL = 2**20  # bytes that are left of a disk
SAVED = ("checkpoints", "crash", "results.jsonl")  # what a run folder is kept for


def refuse(run: Path) -> None:
    """Raise EvalkitError for a folder that holds a run."""
    if (run / "config.yaml").exists():
        raise EvalkitError(f"{run} already holds a run; continue it with --resume {run}, or choose another --out")


def start(run: Path, cfg: Any) -> None:
    """Put the resolved config of a new run into its folder.

    Args:
        run: The folder.
        cfg: The resolved config of the run.
    """
    config.save(cfg, run / "config.yaml")


def make(folder: Path) -> None:
    """Make a folder for results if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise EvalkitError(f"cannot create {folder}: {e.strerror}; choose another --out") from e


def check_links(run: Path) -> None:
    """Raise EvalkitError for a folder on a file system without symbolic links, at its first checkpoint otherwise.

    `last` and `best` of a training are such links."""
    probe = run / f".link.{os.getpid()}.tmp"
    try:
        probe.symlink_to("nothing")
        probe.unlink()
    except OSError as e:
        raise EvalkitError(
            f"{run} cannot hold a symbolic link ({e.strerror or e}), as `last` and `best` of a training are; choose an"
            " --out on another file system"
        ) from e


def full(folder: str | Path) -> bool:
    """Whether the disk of a folder has hardly any space left."""
    return shutil.disk_usage(folder).free < ALMOST_FULL


@contextlib.contextmanager
def claimed(run: Path, job: str, *, new: bool) -> Iterator[None]:
    """Inside, the run folder belongs to this process, the main one of its command.

    A new folder must not hold a run; it goes away again with an error before anything was saved in it. Raises
    EvalkitError where another process works in the folder. The kernel gives the folder free when the process ends,
    however it ends.

    Args:
        run: the folder, made if it is new.
        job: what runs, for the message that another process gets.
        new: whether a run begins here.
    """
    made = [p for p in (run, *run.parents) if not p.exists()]  # the innermost first
    before = list(run.iterdir()) if not made else []
    lock = None
    try:
        if new:
            refuse(run)
            make(run)
        lock = _lock(run, job)
        if new:
            refuse(run)  # another process may have been quicker
        yield
    except BaseException as e:
        unnamed = lock and isinstance(e, OSError) and e.filename is None and full(run)
        if lock and new and run.is_dir() and not any((run / name).exists() for name in SAVED) and not _logged(run):
            _remove(run, before)
        if unnamed and isinstance(e, OSError):  # of a file that a library keeps there
            raise OSError(e.errno, e.strerror, str(run)) from e
        raise
    finally:
        with contextlib.suppress(OSError):
            if lock:
                (run / LOCK).unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()  # those that stayed empty
        if lock:
            lock.close()


def _logged(run: Path) -> bool:
    log = run / "log.jsonl"
    return log.exists() and log.stat().st_size > 0


def _remove(run: Path, before: list[Path]) -> None:
    """Delete what a run that never began left behind; what was there `before` stays."""
    for path in run.iterdir():
        if path not in before:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _lock(run: Path, job: str) -> IO[str]:
    """The open lock file of a run folder. A lock of the process, not of the file: data workers do not inherit it."""
    path, host = run / LOCK, platform.node()
    while True:
        try:
            file = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 - held open as long as the run
        except (OSError, io.UnsupportedOperation) as e:
            advice = (
                f"remove {path}"
                if os.path.lexists(path) and not path.is_file()
                else "make it writable, or choose another --out"
            )
            raise EvalkitError(f"cannot write to {run}: {e.strerror or e}; {advice}") from e
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as e:
            file.close()
            raise EvalkitError(
                f"{run} is in use by {_holder(path)}; wait until that has ended, or stop it, then try again"
            ) from e
        except OSError as e:
            warnings.warn(
                f"{run} lies on a file system without locks ({e.strerror}); see to it that no other process works in"
                " it",
                stacklevel=3,
            )
            return file
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            break
        file.close()  # the process that held it was just ending
    file.seek(0)
    held = file.read().split("\n")[0]
    if held and not held.startswith(f"{host} "):
        file.close()
        raise EvalkitError(
            f"{run} is in use by {_holder(path)}, or was when that machine stopped; if nothing works in it there any"
            f" more, remove {path} and try again"
        )
    try:
        file.truncate(0)
        file.write(f"{host} {os.getpid()} {job}\n")
        file.flush()
    except OSError as e:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it tries again
            file.close()
        raise EvalkitError(f"cannot write {path}: {e.strerror}; free some space or choose another --out") from e
    return file


def _holder(path: Path) -> str:
    try:
        host, process, job = path.read_text(encoding="utf-8", errors="replace").split("\n")[0].split(" ", 2)
    except (OSError, ValueError):
        return "another process"
    return f"`evalkit {job}`, process {process} on {host}"


def resumed(schema: type[T], run: Path, overrides: Iterable[str]) -> T:
    """The run's own config with some keys overridden.

    Args:
        schema: The class of the keys.
        run: The run folder.
        overrides: `key=value` of keys that change not one bit of what is computed; others are refused.
    """
    if not (run / "config.yaml").is_file():
        raise EvalkitError(f"{run} is not a run folder (no config.yaml); give the folder that the command wrote")
    execution = keys.named(schema, "execution")
    for override in overrides:
        key = override.partition("=")[0].partition(".")[0]
        if key not in execution and key in keys.of(schema):
            raise EvalkitError(
                f"key '{key}' cannot change on resume, it would change the run; only {', '.join(sorted(execution))} can"
            )
    return config.load(schema, run / "config.yaml", list(overrides))
