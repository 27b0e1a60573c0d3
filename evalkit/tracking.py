"""Where the values of log.jsonl are shown besides: TensorBoard always, Weights & Biases or MLflow where a run asks for
them, each through its own client, the same name for the same value."""

import json
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from .errors import EvalkitError
from .files import parse_json, write_atomic
from .text import plain

FILE = "track.json"  # which run of a tracker a run folder is, so that a resume goes on in it
PROJECT = "evalkit"
TRACKERS = {
    "wandb": "Weights & Biases; WANDB_MODE=offline keeps everything in the run folder",
    "mlflow": "MLflow, at MLFLOW_TRACKING_URI; file:DIR with MLFLOW_ALLOW_FILE_STORE=true keeps everything here",
}


class Tracker(Protocol):
    """Something that shows numbers over steps.

    Args:
        name: What a person knows it by.
    """

    name: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show the values after `step` optimizer steps."""

    def close(self) -> None:
        """Send what is left."""


def trackers(run: Path, start: int, track: str | None, config: Mapping[str, Any]) -> list[Tracker]:
    """TensorBoard for the run folder `run`, and the tracker it asks for.

    Args:
        run: The run folder, whose name and id the tracker's run has.
        start: The step a resume begins at.
        track: One of TRACKERS, or None.
        config: Every key of the run, shown beside it.

    Raises EvalkitError where the client is not installed or refuses to begin.
    """
    found: list[Tracker] = []
    try:
        found.append(_TensorBoard(run, start))
    except Exception as e:  # a full disk, as its own files' errors
        warnings.warn(f"{failed(_TensorBoard.name, e)}; log.jsonl has it all", stacklevel=2)
    if track is not None:
        makers: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"wandb": _Wandb, "mlflow": _MLflow}
        try:
            found.append(makers[track](run, config))
        except ImportError as e:
            raise EvalkitError(f"track={track} needs its client; install it with: pip install 'evalkit[track]'") from e
        except EvalkitError:
            raise
        except Exception as e:  # whatever a client raises: no login, no server, no disk
            line = " ".join(str(e).split()) or type(e).__name__
            raise EvalkitError(f"track={track}: {line}; or train without track=") from e
    return found


def failed(name: str, e: BaseException) -> str:
    """What a tracker that failed is said to do.

    Args:
        name: The tracker's.
        e: What its client raised.
    """
    return f"{name} shows nothing from here on ({' '.join(str(e).split()) or type(e).__name__})"


class _TensorBoard:
    name = "TensorBoard"

    def __init__(self, run: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self.before, threading.excepthook = threading.excepthook, self._met
        # it drops that step and what follows; a resume does those behind `start` again, as log.jsonl has it
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()
        threading.excepthook = self.before

    def _met(self, e: threading.ExceptHookArgs) -> None:
        """Pass on what a thread met. What TensorBoard's writer did, a full disk, the next call raises too."""
        if not type(e.thread).__module__.startswith("tensorboard."):
            self.before(e)


class _Wandb:
    name = "Weights & Biases"

    def __init__(self, run: Path, config: Mapping[str, Any]):
        import wandb

        self.run = wandb.init(
            project=PROJECT,
            dir=str(run),
            id=_known(run, "wandb"),
            resume="allow",
            name=plain(run.name),
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        # a resume shows steps again that were done after the checkpoint: the step is a value of its own
        self.run.define_metric("*", step_metric="step")
        _remember(run, "wandb", self.run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step, **values})

    def close(self) -> None:
        self.run.finish()


class _MLflow:
    name = "MLflow"

    def __init__(self, run: Path, config: Mapping[str, Any]):
        import os

        from mlflow import MlflowClient
        from mlflow.entities import Param

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise EvalkitError("track=mlflow needs to know where: set MLFLOW_TRACKING_URI to your server's address")
        self.client = MlflowClient()
        known = _known(run, "mlflow")
        if known is None:
            experiment = self.client.get_experiment_by_name(PROJECT)
            where = experiment.experiment_id if experiment else self.client.create_experiment(PROJECT)
            self.id: str = self.client.create_run(where, run_name=plain(run.name)).info.run_id
            params = [Param(key, str(value)) for key, value in config.items()]
            self.client.log_batch(self.id, params=params)
            _remember(run, "mlflow", self.id)
        else:
            self.id = known
            self.client.update_run(self.id, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.id)


def _known(run: Path, tracker: str) -> str | None:
    try:
        found = parse_json((run / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = found.get(tracker) if isinstance(found, dict) else None
    return known if isinstance(known, str) else None


def _remember(run: Path, tracker: str, id: str) -> None:
    try:
        found = parse_json((run / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    text = json.dumps({**(found if isinstance(found, dict) else {}), tracker: id})
    write_atomic(run / FILE, lambda f: f.write(text.encode()))
