"""Stop requests and agreement between processes: all stop, save or fail at the same step, or none does; and no process
outlives the one it works for."""

import os
import signal
import sys
import threading
import time
from typing import Any

import torch
import torch.distributed as dist

from .runtime import is_main
from .streams import UNREAD
from .text import plain


class Guard:
    """Turns SIGTERM, SIGUSR1, the end of its terminal and the first Ctrl-C into a request to stop after the current
    step; a second Ctrl-C stops at once. Where the end of the terminal is ignored, as nohup has it, it stays so."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)

    def __init__(self, device: torch.device):
        self.device = device
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "Guard":
        heard = [s for s in self.SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
        self.previous = {s: signal.signal(s, self._receive) for s in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self.previous.items():
            signal.signal(s, handler)

    def _receive(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.received = number

    def agree(self, *values: float) -> list[float]:
        """The largest of each value over all processes, on all processes."""
        if not dist.is_initialized():
            return list(values)
        t = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(t, dist.ReduceOp.MAX)
        return t.tolist()


def stopped(number: int, step: int, resume: str) -> int:
    """Say of a run that it was stopped and saved; its exit code.

    Args:
        number: The signal; SIGPIPE: whoever read what it prints has ended.
        step: How many steps are done.
        resume: The command that goes on.
    """
    unread = number == signal.SIGPIPE
    if is_main():
        why = "since nobody reads what it prints any more" if unread else f"by {signal.Signals(number).name}"
        line = f"stopped {why} at step {step}, saved; continue with: {resume}"
        print(plain(line), file=sys.stderr if unread else sys.stdout, flush=True)
        if unread:
            return UNREAD
    return 130 if number == signal.SIGINT else 2


def end_with_parent(parent: int) -> None:
    """Watch the process `parent`, which started this one; when it is gone, this one is killed within a second.

    Without it a data worker that hands a batch to nobody, or a process of a run whose command was killed, stays for
    good."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
