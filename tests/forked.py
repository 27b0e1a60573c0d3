"""evalkit commands in forks of a server that has imported everything and computed nothing: each is spared the seconds
of importing. What such a command leaves behind is compared with that of a process of its own in
tests/train/test_resume.py."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.killing import command, family, orphans

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["evalkit.cli.app", "evalkit.train.run", "benchmarks.killing", "tensorboard.summary"])


class Command:
    """A command that runs.

    Args:
        words: Those of the command, without `evalkit`.
        out: A file for what it says.
    """

    def __init__(self, words: Sequence[str], out: Path):
        out.touch()
        self.out = out
        self.process = SERVER.Process(target=_run, args=(list(words), str(out), dict(os.environ)))
        self.process.start()

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

    def kill(self) -> bool:
        """SIGKILL to it and all processes that it launched, until they are gone; False where it had ended by itself."""
        ended = self.process.exitcode is not None
        members = [] if ended else family(self.process.pid)  # each leads a group of its own
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.join()
        orphans(set(members[1:]), 30.0)  # they hold the lock of the run folder
        time.sleep(1.0)  # and so do data workers that began this moment, which end half a second after their parent
        return not ended


def _run(words: list[str], out: str, env: dict[str, str]) -> None:
    with open(out, "w", encoding="utf-8") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    os.environ.clear()
    multiprocessing.set_start_method("fork", force=True)  # as outside, for its data workers; here it is the server's
    command(words, env)
