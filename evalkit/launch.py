"""Run a command in several processes, of this machine or of several: torchrun with the errors of the processes reduced
to one line."""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from .errors import GONE, EvalkitError
from .nodes import Meeting
from .streams import UNREAD

# environment variable: the folder in which each process of a launch leaves its exit code and error
FOLDER = "EVALKIT_LAUNCH"
PARENT = "EVALKIT_PARENT"  # the process that launched them
# Python finds evalkit where this process found it, and nothing in the working directory: no torch.py of the user's
COMMAND = ["-P", "-c", "import sys; sys.path.append({root!r}); from evalkit.cli import main; main()"]
FAILED = 1
AFTER_FAILURE = 30.0  # seconds that torchrun gives the others to end when one has failed, whatever it is told


def spawn(processes: int, argv: list[str], meeting: Meeting | None = None) -> int:
    """Run an evalkit command in several processes and return the exit code of the first; raises EvalkitError with the
    first error.

    Args:
        processes: How many on this machine, one for each GPU.
        argv: The command's words, without `evalkit`.
        meeting: Where they join those of other machines that do the same; None: there are none.
    """
    # here, so that a process of a launch does without
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {FOLDER: folder, PARENT: str(os.getpid())}
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "60")  # a run that is stopped writes a checkpoint first
        logging.disable(logging.ERROR)  # torchrun's own account of what failed
        stopped, failures = None, {}
        command = [word.format(root=str(Path(__file__).resolve().parents[1])) for word in COMMAND]
        where = meeting.options() if meeting else ["--standalone"]
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # by nohup, of which torchrun knows nothing
            where.append("--signals-to-handle=SIGTERM,SIGINT,SIGQUIT")
        # torchrun would die of it, and its processes with it, before they had saved
        before = signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        try:
            run(parse_args([*where, f"--nproc-per-node={processes}", "--no-python", sys.executable, *command, *argv]))
        except SignalException as e:
            stopped = int(e.sigval)
        except RendezvousError as e:
            assert meeting is not None, "a machine alone meets nobody"
            raise EvalkitError(
                f"the {meeting.nodes} nodes did not meet at {meeting.endpoint} ({' '.join(str(e).split())}); start the"
                " same command on each, and give a --rendezvous HOST:PORT that all of them reach"
            ) from e
        except ChildFailedError as e:
            failures = e.failures
        finally:
            signal.signal(signal.SIGUSR1, before)
            logging.disable(logging.NOTSET)
            del os.environ[FOLDER], os.environ[PARENT]
        files = [path for path in Path(folder).iterdir() if path.stat().st_size]  # empty: killed as it wrote
        files.sort(key=lambda p: p.stat().st_mtime_ns)
        ends = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        waited = time.time() - files[0].stat().st_mtime if files else 0.0
    # Killed from outside: the cause of what the others say about their connection to it. Those that torchrun ended,
    # since another failed, end by SIGTERM, or by SIGKILL when it has waited.
    told, stopped_by_us = {end["rank"] for end in ends}, {-signal.SIGTERM}
    if waited >= min(AFTER_FAILURE, float(os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])):
        stopped_by_us.add(-signal.SIGKILL)
    for rank, failure in sorted(failures.items()):
        if rank not in told and failure.exitcode not in stopped_by_us:
            how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
            if failure.exitcode == -signal.SIGABRT:  # by the library of the exchanges, whose own words are above
                raise EvalkitError(
                    f"process {rank} of {processes} was aborted by a library (its words stand above), and the others"
                    " were stopped; most often the processes exchange different things, since code of yours, a mixup"
                    " perhaps, calls torch.distributed in some of them only, or one of them hangs"
                )
            raise EvalkitError(
                f"process {rank} of {processes} ended with {how} without an error of its own, and the others were"
                " stopped; if memory ran out, use fewer processes or a smaller micro_batch"
            )
    if any(end["code"] == UNREAD for end in ends):
        return UNREAD
    errors = [end["message"] for end in ends if end["code"] == FAILED]
    if errors:  # the first is the cause; others are mostly about the connection to the process that was gone
        raise EvalkitError(min(errors, key=lambda error: error.startswith(GONE)))
    if stopped is not None and len(ends) < processes:
        return 128 + stopped
    return min(((end["rank"], end["code"]) for end in ends), default=(0, FAILED))[1]


def launched() -> bool:
    """Whether this process was started by `spawn`."""
    return FOLDER in os.environ


def watch_parent() -> None:
    """In a process of a launch, by `spawn` or by torchrun itself: end when what launched it is gone."""
    from .guard import end_with_parent

    if launched() or "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(int(os.environ.get(PARENT, os.getppid())))


def leave_group(code: int) -> None:
    """Leave the process group at the end of a process, of our launch or of the user's own torchrun.

    Threads of a group that outlive the interpreter abort the process now and then, and torchrun then kills the others,
    which may still be writing results. After an error the others wait for this process: torchrun ends them.

    Args:
        code: The exit code of this process.
    """
    if code in (0, 2):
        from .runtime import leave_processes

        leave_processes()


def leave(code: int, message: str) -> int:
    """In a process of a launch: put down how it ended; returns the status for torchrun, which kills the other processes
    on any but 0.

    Args:
        code: The exit code of this process.
        message: The error, if it failed.
    """
    rank = int(os.environ["RANK"])
    Path(os.environ[FOLDER], str(rank)).write_text(
        json.dumps({"rank": rank, "code": code, "message": message}), encoding="utf-8"
    )
    return FAILED if code in (FAILED, UNREAD) else 0


def without_options(argv: list[str], *options: str) -> list[str]:
    """Words of a command less '--option VALUE' and '--option=VALUE' of some options.

    Args:
        argv: The words.
        options: With their dashes.
    """
    out, skip = [], False
    for word in argv:
        if skip or word.startswith(tuple(f"{option}=" for option in options)):
            skip = False
        elif word in options:
            skip = True
        else:
            out.append(word)
    return out
