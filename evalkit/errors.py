"""Errors meant for people: one line that says what is wrong and what to do."""

import difflib
from collections.abc import Iterable


class EvalkitError(Exception):
    """A problem the user can mend. The command line prints its message as one line and exits with 1."""


def worker_died(e: BaseException) -> str | None:
    """The line for a data worker that was killed, which torch raises wherever the main process is at that moment."""
    if not (isinstance(e, RuntimeError) and "DataLoader worker (pid" in str(e)):
        return None
    return (
        f"a data worker died ({' '.join(str(e).split())}); is memory or /dev/shm full? Try fewer workers, or workers=0;"
        " a run continues with --resume"
    )


def suggest(name: str, options: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the closest option; the list of options when none is close (at most 12 named).

    Args:
        name: What was given.
        options: What there is.
    """
    options = sorted(map(str, options))
    longer = [o for o in options if o.startswith(name)] if len(name) > 2 else []
    close = sorted(longer, key=len)[:1] or difflib.get_close_matches(name, options, n=1, cutoff=0.55)
    if close:
        return f" Did you mean '{close[0]}'?"
    shown = ", ".join(options[:12]) + (", ..." if len(options) > 12 else ".")
    return f" Choose one of: {shown}" if options else ""


def unknown(kind: str, name: str, options: Iterable[str]) -> EvalkitError:
    """The error for something that does not exist, naming the closest one that does.

    Args:
        kind: What it would be: 'recipe', 'model', 'method', 'key'.
        name: What was given.
        options: What there is.
    """
    return EvalkitError(f"unknown {kind} '{name}'.{suggest(name, options)}")
