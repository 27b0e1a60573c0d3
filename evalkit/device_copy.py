"""Arrays on their way to a device and back, without the host waiting for them."""

import numpy as np
import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU copies it from page-locked memory while the host goes on.

    Args:
        tensor: In the host's memory, page-locked or not.
        device: Where it goes.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


class Fetched:
    """Results of many passes on their way from a device: a copy is asked for after every few passes, and nothing waits
    for it until `arrays` is called.

    Args:
        together: Passes whose results are copied at once.
    """

    def __init__(self, together: int = 16):
        self.together = together
        self.waiting: list[Tensor] = []  # on the device
        self.coming: list[tuple[Tensor, torch.cuda.Event | None]] = []  # in page-locked memory, from that event on
        self.there: list[np.ndarray] = []

    def add(self, result: Tensor) -> None:
        """Take the result of a pass, (n, ...) on the device."""
        self.waiting.append(result)
        if len(self.waiting) == self.together:
            self._copy()
            while len(self.coming) > 2:  # page-locked memory is scarce; the oldest has long been there
                self._arrive()

    def _copy(self) -> None:
        if not self.waiting:
            return
        result = torch.cat(self.waiting)
        event = torch.cuda.Event() if result.is_cuda else None
        self.coming.append((result.to("cpu", non_blocking=True), event))
        if event is not None:
            event.record(torch.cuda.current_stream(result.device))
        self.waiting.clear()

    def _arrive(self) -> None:
        result, event = self.coming.pop(0)
        if event is not None:
            event.synchronize()
        self.there.append(np.array(result.numpy()))

    def arrays(self) -> list[np.ndarray]:
        """All results so far, as arrays that follow one another. Waits for the device."""
        self._copy()
        while self.coming:
            self._arrive()
        return self.there
