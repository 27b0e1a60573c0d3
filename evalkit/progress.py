"""How far a long pass is, for the person who waits."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from .runtime import is_main
from .text import plain

LINE_SECONDS = 30.0  # between two lines where there is no terminal


@contextlib.contextmanager
def progress(what: str | None, total: int) -> Iterator[Callable[[int], None]]:
    """advance(n): a bar on a terminal, else a line every half minute, on standard error of the first process.

    Args:
        what: Names the pass; None: silent.
        total: When it is done.
    """
    if what is None or not is_main():
        yield lambda n: None
    elif sys.stderr is not None and sys.stderr.isatty():  # None: the user closed it
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(plain(what), total=total)
            yield lambda n: bar.advance(task, n)
    else:
        yield _lines(what, total)


def _lines(what: str, total: int) -> Callable[[int], None]:
    start = last = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal last, done
        done, now = done + n, time.monotonic()
        if now - last >= LINE_SECONDS:
            rate, last = done / (now - start), now
            print(
                f"{plain(what)}: {min(done, total)}/{total} images, {rate:.1f} images/s,"
                f" {max(0, total - done) / rate:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    return advance
