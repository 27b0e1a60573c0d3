"""evalkit commands in forks of a server that has imported everything and computed nothing: each is spared the seconds
of importing. What such a command leaves behind is compared with that of a process of its own in
tests/train/test_resume.py."""

import atexit
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks.killing import command, family, orphans

SERVER = multiprocessing.get_context("forkserver")
IMPORTED = ["evalkit.cli.app", "evalkit.train.run", "benchmarks.killing", "tensorboard.summary"]
SERVER.set_forkserver_preload(IMPORTED)  # when the first fork is asked for


STARTED: list["Command"] = []


@atexit.register
def end_all() -> None:
    """What a test that failed has left waiting: Python would wait for it."""
    for started in STARTED:
        started.kill()


class Command:
    """A command that runs.

    Args:
        words: Those of the command, without `evalkit`.
        out: A file for what it says.
        prepare: Called in the fork before the command; None: nothing is.
    """

    def __init__(self, words: Sequence[str], out: Path, prepare: Callable[[], None] | None = None):
        out.touch()
        self.out = out
        self.process = SERVER.Process(target=_run, args=(list(words), str(out), dict(os.environ), prepare))
        self.process.start()
        STARTED.append(self)

    def text(self) -> str:
        """What it has said so far."""
        return self.out.read_text(encoding="utf-8", errors="replace")

    def wait(self, seconds: float = 600) -> int | None:
        """Its exit code (minus the number of the signal that ended it); None where it still runs after so long."""
        self.process.join(seconds)
        return self.process.exitcode

    def until(self, lines: int, beginning: str) -> bool:
        """Wait for so many lines with such a beginning; False where it ended before.

        Args:
            lines: How many.
            beginning: What they begin with.
        """
        while sum(line.startswith(beginning) for line in self.text().splitlines()) < lines:
            if self.process.exitcode is not None:
                return False
            time.sleep(0.02)
        return True

    def kill(self, alone: bool = False) -> bool:
        """SIGKILL to it and all processes that it launched, until they are gone; False where it had ended by itself.

        Args:
            alone: To it alone: the others have to end by themselves.
        """
        if self.process.exitcode is not None:
            return False
        members = frozen(self.process.pid)  # each leads a group of its own
        for process in members[:1] if alone else members:
            process.kill()
        for process in members[1:] if alone else ():
            process.resume()
        self.process.join()
        left, _ = orphans(set(members[1:]), 600.0)  # they hold the lock of the run folder
        assert not left, "processes outlive the command that launched them"
        return self.process.exitcode == -signal.SIGKILL


def frozen(pid: int | None) -> list[psutil.Process]:
    """The process and all below it, stopped: none of them launches another one that nobody knows."""
    known: set[psutil.Process] = set()
    while new := [process for process in family(pid) if process not in known]:
        for process in new:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                    time.sleep(0.001)
        known.update(new)
    return [process for process in family(pid) if process.status() != psutil.STATUS_ZOMBIE]


def _run(words: list[str], out: str, env: dict[str, str], prepare: Callable[[], None] | None) -> None:
    with open(out, "w", encoding="utf-8") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    os.environ.clear()
    multiprocessing.set_start_method("fork", force=True)  # as outside, for its data workers; here it is the server's
    if prepare is not None:
        prepare()
    command(words, env)


def hold_at(at: int, go: Path) -> None:
    """Make a command wait after the line of this step, or of a later one, until the file is there.

    Args:
        at: The step.
        go: The file.
    """
    from evalkit.logger import Logger

    log = Logger.log

    def wait(self: Logger, step: int, *values: object) -> None:
        log(self, step, *values)
        while step >= at and not go.exists():
            time.sleep(0.01)

    Logger.log = wait


def hold(most: int) -> None:
    """Make a command wait after so many lines of steps, until it is killed."""
    from evalkit.logger import Logger

    log, lines = Logger.log, 0

    def count(self: Logger, step: int, *values: object) -> None:
        nonlocal lines
        log(self, step, *values)
        lines += 1
        while lines >= most:
            time.sleep(3600)

    Logger.log = count
