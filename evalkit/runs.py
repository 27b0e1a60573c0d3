"""Run folders: a new one starts with its resolved config, a stopped one continues by it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from . import config, keys
from .errors import EvalkitError

T = TypeVar("T", bound=keys.Keys)


def refuse(run: Path) -> None:
    """Raise EvalkitError for a folder that holds a run."""
    if (run / "config.yaml").exists():
        raise EvalkitError(f"{run} already holds a run; continue it with --resume {run}, or choose another --out")


def start(run: Path, cfg: Any) -> None:
    """A new run folder with the resolved config; refuses one that holds a run."""
    refuse(run)
    make(run)
    config.save(cfg, run / "config.yaml")


def make(folder: Path) -> None:
    """Make a folder for results if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise EvalkitError(f"cannot create {folder}: {e.strerror}; choose another --out") from e


def resumed(schema: type[T], run: Path, overrides: Iterable[str]) -> T:
    """The run's own config with keys overridden that change not one bit of what is computed."""
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
