"""Data workers: what they do first, and how the main process learns that one of them died."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from ..errors import EvalkitError
from ..guard import end_with_parent

UNNOTICED_SECONDS = 2.0  # after which the death of a worker is told again to who still waits for it
END = object()


def shield(worker: int) -> None:
    """Ctrl-C, SIGTERM and the end of a terminal often reach the whole process group; the main process decides what
    happens, and needs its batches until then.

    A second SIGTERM ends the worker, so that the main process can still get rid of one that hangs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid)


def checked(loader: DataLoader[Any]) -> Iterator[Any]:
    """What a loader gives; raises what comes back as an EvalkitError, and one for a worker that died."""
    try:
        batches = iter(loader)
        with told_of_deaths(getattr(batches, "_workers", ())) as waits:
            while True:
                waits.set()
                item = next(batches, END)
                waits.clear()
                if item is END:
                    return
                if isinstance(item, EvalkitError):
                    raise item
                yield item
    except (RuntimeError, ConnectionError, EOFError) as e:  # the last two: it died handing over a batch
        if isinstance(e, RuntimeError) and "DataLoader worker (pid" not in str(e):
            raise
        raise EvalkitError(
            f"a data worker died ({' '.join(str(e).split())}); is memory or /dev/shm full? Try fewer workers, or"
            " workers=0"
        ) from e


@contextmanager
def told_of_deaths(workers: Sequence[BaseProcess]) -> Iterator[threading.Event]:
    """Inside, the death of a worker reaches who waits for it, even where torch's own error is lost.

    torch raises it in the main thread as the signal arrives. Python ignores errors in what runs around a fork, or as
    the garbage collector runs; the main thread would then wait for good for the rest of a batch that was half handed
    over. A thread looks after the workers, and raises it anew while the event is set: the main thread waits for a
    batch.

    Args:
        workers: The processes of one DataLoader.
    """
    waits, over = threading.Event(), threading.Event()
    main = threading.main_thread()
    if not workers or threading.current_thread() is not main:  # no other thread gets signals, of torch's neither
        yield waits
        return
    dead: list[int] = []

    def watch() -> None:
        while not over.wait(UNNOTICED_SECONDS):
            if dead and waits.is_set():  # known since the last look
                signal.pthread_kill(main.ident or 0, signal.SIGCHLD)
            dead[:] = [w.pid for w in workers if w.pid is not None and _was_killed(w.pid)]

    def tell(number: int, frame: Any) -> None:
        if callable(before):
            before(number, frame)
        if dead and waits.is_set():
            raise RuntimeError(f"DataLoader worker (pid {dead[0]}) was killed while it handed over a batch")

    before = signal.signal(signal.SIGCHLD, tell)
    threading.Thread(target=watch, name="told of deaths", daemon=True).start()
    try:
        yield waits
    finally:
        over.set()
        if threading.current_thread() is main and signal.getsignal(signal.SIGCHLD) is tell:
            signal.signal(signal.SIGCHLD, before)


def _was_killed(pid: int) -> bool:
    """Whether a child of this process was ended by a signal. Its end is left for torch to find."""
    try:
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # found before
        return False
    return end is not None and end.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
