"""Run a command in several processes on this machine: torchrun with the errors of the processes reduced to one line."""

import json
import logging
import os
import tempfile
from pathlib import Path

from .errors import EvalkitError

# environment variable: the folder in which each process of a launch leaves its exit code and error
FOLDER = "EVALKIT_LAUNCH"
FAILED = 1


def spawn(processes: int, argv: list[str]) -> int:
    """Run `python -m evalkit *argv` in `processes` processes and return the exit code of the first; raises EvalkitError
    with the first error."""
    # here, so that a process of a launch does without
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "60")  # a run that is stopped writes a checkpoint first
        logging.disable(logging.ERROR)  # torchrun's own account of what failed
        stopped = died = None
        try:
            run(parse_args(["--standalone", f"--nproc-per-node={processes}", "-m", "evalkit", *argv]))
        except SignalException as e:
            stopped = int(e.sigval)
        except ChildFailedError as e:
            rank, failure = e.get_first_failure()
            died = (
                f"process {rank} of {processes} ended with"
                f" {failure.signal_name() if failure.exitcode < 0 else f'exit code {failure.exitcode}'}"
            )
        finally:
            logging.disable(logging.NOTSET)
            del os.environ[FOLDER]
        ends = [
            json.loads(path.read_text()) for path in sorted(Path(folder).iterdir(), key=lambda p: p.stat().st_mtime_ns)
        ]
    errors = [end["message"] for end in ends if end["code"] == FAILED]
    if errors:  # the first is the cause; those after it are mostly about the connection to the process that was gone
        raise EvalkitError(errors[0])
    if died:
        raise EvalkitError(
            f"{died} without an error of its own; if memory ran out, use fewer processes or a smaller micro_batch"
        )
    if stopped is not None and len(ends) < processes:
        return 128 + stopped
    return next((end["code"] for end in ends if end["rank"] == 0), FAILED)


def launched() -> bool:
    """Whether this process was started by `spawn`."""
    return FOLDER in os.environ


def leave(code: int, message: str) -> int:
    """In a process of a launch: put down how it ended; returns the status for torchrun, which kills the other processes
    on any but 0."""
    # nobody waits for anybody any more: threads of a process group that outlive the interpreter abort the process now
    # and then
    if code in (0, 2):
        from .runtime import leave_processes

        leave_processes()
    rank = int(os.environ["RANK"])
    Path(os.environ[FOLDER], str(rank)).write_text(json.dumps({"rank": rank, "code": code, "message": message}))
    return FAILED if code == FAILED else 0


def without_option(argv: list[str], option: str) -> list[str]:
    """`argv` less '--option VALUE' or '--option=VALUE'."""
    out, skip = [], False
    for word in argv:
        if skip or word.startswith(f"{option}="):
            skip = False
        elif word == option:
            skip = True
        else:
            out.append(word)
    return out
