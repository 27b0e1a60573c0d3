"""What a data worker hands to the training loop."""

from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch of m images.

    Args:
        x: (m, 3, S, S) uint8.
        y: (m,) int64.
        index: (m,) int64 position in the data set.
        erase: (m, 4) int64 top, left, height, width to fill after normalisation (erasing.erase_boxes); all 0 for
            nothing.
        noise: float32, to fill them with.
        offsets: (m, 3) int64, of images that are cropped on the device (kept.DeviceImages), for which x is (m, 0).
        operations: (m, L) int64, still to be done on the device (TrainTransform.finish).
        values: (m, L) float64, what they take.
        step: The optimizer step that it belongs to.
        group: Of the step's micro-batches, counted over all processes.
        extras: By name, (m, ...).
        reading: Seconds that it took to read the files.
        preparing: And to decode and augment the images.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    erase: Tensor
    noise: Tensor
    offsets: Tensor
    operations: Tensor
    values: Tensor
    step: int
    group: int
    extras: dict[str, Tensor] = field(default_factory=dict)
    reading: float = 0.0
    preparing: float = 0.0

    def pin_memory(self) -> "Batch":
        """Page-locked, as DataLoader asks for it when there is a GPU."""
        return replace(
            self,
            x=self.x.pin_memory(),
            y=self.y.pin_memory(),
            index=self.index.pin_memory(),
            offsets=self.offsets.pin_memory(),
            erase=self.erase.pin_memory(),
            noise=self.noise.pin_memory(),
            extras={k: v.pin_memory() for k, v in self.extras.items()},
        )
