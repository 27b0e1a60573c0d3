"""Stop requests and agreement between processes: all stop, save or fail at the same step, or none does; and no process
outlives the one it works for."""

import os
import signal
import threading
import time
from typing import Any

import torch
import torch.distributed as dist


class Guard:
    """Turns SIGTERM, SIGUSR1 and the first Ctrl-C into a request to stop after the current step; a second Ctrl-C stops
    at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, device: torch.device):
        self.device = device
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "Guard":
        self.previous = {s: signal.signal(s, self._receive) for s in self.SIGNALS}
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


def end_with_parent(parent: int) -> None:
    """Watch the process `parent`, which started this one; when it is gone, this one is killed within a second.

    Without it a data worker that hands a batch to nobody, or a process of a run whose command was killed, stays for
    good."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
