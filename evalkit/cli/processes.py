"""--gpus: a command in several processes."""

import os
import sys
from typing import Annotated, TypeGuard

import typer

from ..errors import EvalkitError

Gpus = Annotated[
    int | None,
    typer.Option(min=1, help="processes to run in, one per GPU (without GPUs: on the CPU)", show_default=False),
]


def several(gpus: int | None) -> TypeGuard[int]:
    """Whether to start processes: not for one, and not within one that was started already."""
    return gpus is not None and gpus > 1 and "WORLD_SIZE" not in os.environ


def spawn(gpus: int) -> int:
    """This command line in `gpus` processes; its exit code. Raises EvalkitError for more than there are GPUs."""
    import torch

    from ..launch import spawn as start
    from ..launch import without_option

    if torch.cuda.is_available() and gpus > torch.cuda.device_count():
        raise EvalkitError(f"--gpus {gpus} asked for, but there are {torch.cuda.device_count()}; see `evalkit doctor`")
    return start(gpus, without_option(sys.argv[1:], "--gpus"))
