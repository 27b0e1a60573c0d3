"""What a command prints into: a terminal that may go away, a pipe whose reader may end, or nothing at all."""

import codecs
import errno
import io
import os
import select
import signal
import sys
from typing import Any

from .text import without_signs

SIGNS = "evalkit-signs"  # what a stream does with letters that it lacks
#: The exit code where nobody reads what a command prints any more, that of a program which the signal ends.
UNREAD = 128 + signal.SIGPIPE


class _Terminal(io.FileIO):
    """A terminal. Once it is gone, as for a command that was disowned, what follows goes nowhere."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            _silence(self.fileno())
            return super().write(data)


def prepare() -> None:
    """Make standard output and error fit to be printed into, whatever they are."""
    codecs.register_error(SIGNS, without_signs)
    while (free := os.open(os.devnull, os.O_RDWR)) < 3:  # else the next file has the number of one that is closed, and
        os.set_inheritable(free, True)  # libraries that print write into it
    os.close(free)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None or stream.isatty():  # None: the user closed it
            whole = io.BufferedWriter(_Terminal(number, "w", closefd=False))
            setattr(
                sys, name, io.TextIOWrapper(whole, getattr(stream, "encoding", "utf-8"), SIGNS, line_buffering=True)
            )
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SIGNS)  # a terminal that knows ASCII only, a file name that is no text


def unread() -> list[int]:
    """The numbers of standard output and error whose readers have ended."""
    look = select.poll()
    for number in (1, 2):
        look.register(number, 0)
    return [number for number, event in look.poll(0) if event & select.POLLERR]


def give_up() -> None:
    """Let what is left for readers that have ended go nowhere; Python would complain of it at its end."""
    for number in unread():
        _silence(number)


def _silence(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
