"""--gpus and --nodes: a command in several processes."""

import os
import sys
from typing import Annotated, TypeGuard

import typer

from ..errors import EvalkitError
from ..nodes import Meeting, meeting

Gpus = Annotated[
    int | None,
    typer.Option(min=1, help="processes to run in, one per GPU (without GPUs: on the CPU)", show_default=False),
]
Nodes = Annotated[
    int | None,
    typer.Option(min=1, help="machines that train together, this command on each", show_default="those of srun"),
]
Rendezvous = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="with --nodes: one of the machines, a free port", show_default="found in srun"
    ),
]


def several(gpus: int | None) -> TypeGuard[int]:
    """Whether to start processes: not for one, and not within one that was started already."""
    return gpus is not None and gpus > 1 and "WORLD_SIZE" not in os.environ


def spawn(gpus: int) -> int:
    """This command line in `gpus` processes; its exit code. Raises EvalkitError for more than there are GPUs."""
    return _start(gpus, None)


def across(gpus: int | None, nodes: int | None, rendezvous: str | None) -> int | None:
    """This command line in `gpus` processes on each of `nodes` machines; its exit code, or None for a single process,
    which this one is. Raises EvalkitError as `spawn` and `nodes.meeting`.

    Args:
        gpus: Processes of each machine, one for each GPU; None: not given.
        nodes: How many machines; None: not given.
        rendezvous: Where the processes of all machines meet, HOST:PORT; None: not given.
    """
    if "WORLD_SIZE" in os.environ:
        return None
    found = meeting(nodes, rendezvous)
    return _start(gpus or 1, found) if found or several(gpus) else None


def _start(gpus: int, found: Meeting | None) -> int:
    import torch

    from ..launch import spawn as start
    from ..launch import without_options

    if torch.cuda.is_available() and gpus > torch.cuda.device_count():
        raise EvalkitError(f"--gpus {gpus} asked for, but there are {torch.cuda.device_count()}; see `evalkit doctor`")
    return start(gpus, without_options(sys.argv[1:], "--gpus", "--nodes", "--rendezvous"), found)
