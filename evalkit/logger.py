"""What a run says while it goes: log.jsonl (the record), trackers, and a progress bar or plain lines on the main
process."""

import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .errors import EvalkitError
from .files import append
from .runtime import is_main, parse_json, write_atomic
from .text import plain, say
from .tracking import Tracker, failed, trackers

UNREADABLE = float("inf")  # the step of a line that is none


class Logger:
    """Appends JSON lines to log.jsonl; after a resume lines of later steps are dropped first, since they are done
    again.

    Args:
        run: The run folder.
        start: The step that the run goes on from.
        total: Steps of the whole run.
        track: A tracker besides TensorBoard, one of `tracking.TRACKERS`; None: none.
        config: Every key of the run, which that tracker shows.
    """

    def __init__(
        self, run: Path, start: int, total: int, track: str | None = None, config: Mapping[str, Any] | None = None
    ):
        self.active, self.unread = is_main(), 0  # SIGPIPE once nobody reads what is printed: a request to stop
        if not self.active:
            return
        path = run / "log.jsonl"
        if path.exists():
            lines = path.read_bytes().splitlines()
            steps = [_step(line) for line in lines]
            write_atomic(
                path, lambda f: f.write(b"".join(line + b"\n" for line, step in zip(lines, steps) if step <= start))
            )
            bad = steps[:-1].count(UNREADABLE)  # the last may be half a line, written as the process died
            if bad:
                warnings.warn(f"{path}: {bad} lines that are no log lines were dropped", stacklevel=2)
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the run
        self.shown = trackers(run, start, track, config or {})
        self.start, self.total, self.began = start, total, time.monotonic()
        self.bar: Progress | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
            )
            self.bar.start()
            self.task = self.bar.add_task("train", total=total, completed=start, note="")

    def log(self, step: int, values: dict[str, Any], note: str) -> None:
        """Record `values` after `step` steps and show `note`."""
        if not self.active:
            return
        line = json.dumps({"step": step, **values}, sort_keys=True) + "\n"
        try:
            append(self.file.fileno(), line.encode())
        except OSError as e:
            raise EvalkitError(
                f"cannot write {self.file.name}: {e.strerror}; what was saved is intact: free some space, then continue"
                f" with --resume {Path(self.file.name).parent}"
            ) from e
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        self._hand_on(lambda tracker: tracker.log(step, numbers))
        left = (time.monotonic() - self.began) / max(step - self.start, 1) * (self.total - step)
        note = f"{note}  {_clock(left)} left"
        if self.bar:
            self.bar.update(self.task, completed=step, note=note)
        else:
            self._print(f"step {step}/{self.total}  {note}")

    def check_place(self) -> None:
        """Raise EvalkitError where the run folder is not where it was: a checkpoint would make another one there,
        without what a run goes on by."""
        if self.active and not Path(self.file.name).exists():
            run = Path(self.file.name).parent
            raise EvalkitError(
                f"{self.file.name} is gone: it was moved or removed while the run wrote it, perhaps with its folder;"
                f" put the folder back, then continue with --resume {run}"
            )

    def moved(self, step: int) -> None:
        """`step` steps are done: the bar shows it."""
        if self.active and self.bar:
            self.bar.update(self.task, completed=step)

    def say(self, line: str) -> None:
        """One line to the person watching."""
        if self.active:
            if self.bar:
                self.bar.console.print(plain(line), markup=False, highlight=False)
            else:
                self._print(line)

    def rest(self) -> None:
        """No step follows: the bar goes; values may still be logged."""
        if self.active and self.bar:
            self.bar.stop()
            self.bar = None

    def close(self) -> None:
        self.rest()
        if self.active:
            self._hand_on(lambda tracker: tracker.close())
            self.file.close()

    def _print(self, line: str) -> None:
        try:
            say(line)
        except BrokenPipeError:
            self.unread = signal.SIGPIPE

    def _hand_on(self, to: Callable[[Tracker], None]) -> None:
        """Ask something of every tracker. One that fails ends no training: it is left out from then on, and said."""
        for tracker in list(self.shown):
            try:
                to(tracker)
            except Exception as e:  # whatever a client raises: a server that went away, a full disk
                self.shown.remove(tracker)
                warnings.warn(f"{failed(tracker.name, e)}; log.jsonl has it all", stacklevel=3)


def _step(line: bytes) -> float:
    try:
        step = parse_json(line)["step"]
    except (ValueError, KeyError, TypeError):
        return UNREADABLE
    return step if isinstance(step, int) else UNREADABLE


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
