"""Errors meant for people: one line that says what is wrong and what to do."""

import difflib
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

GONE = "another process of this run ended before it was done"  # what others say of a process that failed
# how torch says that the processes of a run hold different networks
OTHER_PARAMETERS = ("of the same param in process", "expects same model across all ranks")
LIBRARIES = ("site-packages", "dist-packages")


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


def explained(e: BaseException) -> str | None:
    """The line for an error of torch whose cause is known, wherever the program is at that moment."""
    if isinstance(e, ValueError) and "more than 1 value per channel" in str(e):
        return (
            "batch norm has one value to normalise: a forward pass of a single image ends in features of 1 x 1; give"
            " each pass more images (train: micro_batch=2 or more; transfer: a smaller accumulate)"
        )
    if isinstance(e, RuntimeError) and "gloo" in str(e) and "Connection closed by peer" in str(e):
        return (
            f"{GONE}, without an error of its own; code of yours that ends a process (sys.exit) must end none of"
            " several"
        )
    if isinstance(e, RuntimeError) and ("Timed out waiting" in str(e) or "collective mismatch" in str(e)):
        return (
            f"the processes of this run wait for one another, or exchange different things ({str(e).split('] ')[-1]});"
            " one of them hangs, or code of yours, a mixup perhaps, calls torch.distributed in some of them only; what"
            " was saved is intact and continues with --resume"
        )
    if isinstance(e, RuntimeError) and "finished reduction in the prior iteration" in str(e):
        return (
            "the loss of a process did not depend on every parameter that is trained; a method's loss must come of the"
            " same pass through the network in each process, and a method whose own parameters take part in some steps"
            " only says so by `uses_all_parameters = False`"
        )
    if isinstance(e, RuntimeError) and any(words in str(e) for words in OTHER_PARAMETERS):
        return (
            "the processes of this run have parameters of other shapes or numbers; a method must make the same ones in"
            " each process, and train or freeze them alike, whatever its rank is"
        )
    if isinstance(e, RuntimeError) and "does not require grad and does not have a grad_fn" in str(e):
        return (
            "the loss depends on no weight that is trained: code of yours, a mixup perhaps, froze the network or left"
            " gradients switched off"
        )
    if isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(e):
        return "memory ran out; give a smaller forward_batch, batch_size or micro_batch, or fewer workers"
    return worker_died(e)


def in_short(e: BaseException) -> str:
    """An error that nobody thought of: its type, the first line of what it says, and where it is in the user's own
    code, as 'KeyError: 'x' (mine.py, line 12, in mix)'."""
    text = (str(e).strip() or "no message").splitlines()[0]
    place = own_code(e)
    return f"{type(e).__name__}: {text}" + (f" ({place})" if place else "")


def own_code(e: BaseException) -> str | None:
    """The last place on an error's way that is neither evalkit's nor of a library; None where there is none."""
    found, standard = None, sysconfig.get_paths()["stdlib"]
    for frame, line in traceback.walk_tb(e.__traceback__):
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        theirs = file.startswith(("<", standard)) or not set(Path(file).parts).isdisjoint(LIBRARIES)
        if not theirs and module.partition(".")[0] != "evalkit":
            found = f"{Path(file).name}, line {line}, in {frame.f_code.co_name}"
    return found


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
