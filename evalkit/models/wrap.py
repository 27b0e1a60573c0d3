"""Any Python callable as a model that the protocols can evaluate."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..errors import EvalkitError
from .load import Loaded

TOLERANCE = 0.02  # of the largest logit, by which rounding may move one


class Wrapped(nn.Module):
    """What the protocols ask of a network, around a function.

    Args:
        fn: Normalised images (B, 3, S, S) to logits (B, K).
        name: How records name it.
        num_classes: K, outputs of the function.
        input_size: S, pixels per side.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Any],
        name: str,
        num_classes: int,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        self.model = fn  # registered, moved and hashed where it is a module
        self.name, self.num_classes, self.input_size = name, num_classes, (input_size, input_size)
        self.mean, self.std = tuple(mean), tuple(std)
        self.patch_size: int | None = None
        self.looked_at = False

    def forward(self, x: Tensor) -> Tensor:
        if self.looked_at or len(x) < 2:
            return self._logits(x)
        given = x.detach().clone()
        logits, self.looked_at = self._logits(x), True
        self._look(given, x, logits)
        return logits

    def _look(self, given: Tensor, x: Tensor, logits: Tensor) -> None:
        """Raise EvalkitError where images were changed in place, or where some of them get other logits beside
        others: of a network in training mode, for one."""
        if not torch.equal(given, x):
            raise EvalkitError(f"model {self.name} changes the images that it is given in place; let it change a copy")
        half = len(x) // 2
        with torch.no_grad():
            beside = self._logits(torch.cat([given[:half], given[:half], given[: len(x) - 2 * half]]))[:half]
        first = logits.detach()[:half].float()
        if float((beside.float() - first).abs().max()) > TOLERANCE * float(first.abs().max()):
            raise EvalkitError(
                f"model {self.name} gives other logits for the same images in another batch; is a network of it in"
                " training mode (call eval()), or are they random?"
            )

    def _logits(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        if not isinstance(logits, Tensor) or logits.shape != (len(x), self.num_classes):
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise EvalkitError(
                f"model {self.name} must return logits of shape ({len(x)}, {self.num_classes}), one column per class,"
                f" but gave {got}"
            )
        if not logits.is_floating_point():
            raise EvalkitError(f"model {self.name} must return logits that are floats, but gave {logits.dtype}")
        return logits

    def class_attention(self, x: Tensor, **kwargs: Any) -> NoReturn:
        raise EvalkitError(
            f"model {self.name} is a plain callable without class attention; choose another saliency= (dino, a"
            " checkpoint or file.npz)"
        )


def wrap(
    fn: Callable[[Tensor], Tensor],
    *,
    name: str,
    classes: Sequence[str],
    input_size: int = 224,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    version: str | None = None,
) -> Loaded:
    """A function as a model. By default it gets pixels in [0, 1]. Raises ValueError where `version` is missing or a
    class is named twice.

    Args:
        fn: Images (B, 3, S, S) float32 on the device of the run -> logits (B, K). A torch module is put into eval mode.
        name: How records name it.
        classes: The K names of its outputs in order, WordNet ids for the ImageNet sets
            (`evalkit.models.imagenet_classes()`).
        input_size: S, pixels per side.
        mean: What is taken off pixels in [0, 1], per channel.
        std: What they are divided by, per channel.
        version: Identifies its weights: results of an earlier run are used again where it is the same. A torch module
            is identified by its weights; anything else needs one.
    """
    if len(set(classes)) < len(classes):
        raise ValueError(
            f"Expected argument `classes` to be unique, but {len(classes)} names hold only {len(set(classes))}"
            " different ones"
        )
    module = isinstance(fn, nn.Module)
    if version is None and not module:
        raise ValueError(
            "Expected argument `version` to be a text that identifies the weights behind a plain function, but got None"
        )
    network = Wrapped(fn, name, len(classes), input_size, mean, std).eval()
    sha256 = None if version is None else hashlib.sha256(f"{name}\n{version}".encode()).hexdigest()
    return Loaded(network, name, list(classes), sha256, name, None, name, "raw")
