"""What a network costs: parameters and multiply-adds of a forward pass, counted without weights or data."""

import functools
import json
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..errors import EvalkitError
from .build import check_arguments
from .network import create


class Cost(NamedTuple):
    """What a network costs.

    Args:
        parameters: How many it has.
        macs: Multiply-adds of the forward pass of one image (papers call them FLOPs).
    """

    parameters: int
    macs: int


def cost(name: str, size: int, num_classes: int, **arguments: Any) -> Cost:
    """The cost of an architecture.

    Counted on the meta device, so that a network of a billion parameters takes no memory. Raises EvalkitError for an
    unknown architecture, or where it does not take such images.

    Args:
        name: Of the architecture.
        size: Pixels per side of an image.
        num_classes: How many classes it tells apart.
        arguments: Of its constructor.
    """
    return _cost(name, size, num_classes, json.dumps(arguments, sort_keys=True))


@functools.cache
def _cost(name: str, size: int, num_classes: int, arguments: str) -> Cost:
    given = json.loads(arguments)
    check_arguments(name, given)  # they may be those of a file
    try:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            network = create(name, num_classes=num_classes, **given).eval()
            network.model(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError, OverflowError) as e:
        why = str(e).splitlines()[:1] or [type(e).__name__]
        raise EvalkitError(f"model '{name}' does not take images of {size} x {size} pixels ({why[0]})") from e
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)
