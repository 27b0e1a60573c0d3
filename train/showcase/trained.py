"""A method as a training run left it: its mix block, and the network that it asks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evalkit import checkpoint, models
from evalkit.errors import EvalkitError
from evalkit.models import Network

from ..mixups import MixMethod, from_config
from ..settings import check_code, settle
from . import stand_in


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds.

    Args:
        net: The network that was trained, in evaluation mode.
        method: The mixup it was trained with, with what it learned.
        name: Its name.
    """

    net: Network
    method: MixMethod
    name: str

    def named(self, name: str) -> MixMethod:
        """The method `name` set up with the trained network: the run's own with all that it learned, any other in its
        default preset."""
        return self.method if name == self.name else stand_in.method(name, self.net)

    @torch.no_grad()
    def classes(self, pixels: Tensor) -> Tensor:
        """(B,) what the network takes uint8 images (B, 3, S, S) for, which need not be of its classes."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.net.mean, self.net.std))
        return self.net((pixels / 255 - mean) / std).logits.argmax(1)


def load(spec: str, device: torch.device, given: str = "") -> Trained:
    """Network and method of a run or checkpoint folder of `evalkit train`, or of `zoo:NAME`. Raises EvalkitError for
    anything else.

    Args:
        spec: A run or checkpoint folder, or `zoo:NAME`.
        device: Where they go.
        given: Methods that the command line names: a folder's own code is run only if it is one of them.
    """
    folder = checkpoint.find_folder(spec)
    if folder is None:
        raise EvalkitError(f"{spec} is no run or checkpoint folder of `evalkit train`, so it holds no method")
    loaded = models.load(str(folder), weights="raw")
    recipe = loaded.meta.get("config", {})
    if "mixup" not in recipe:
        raise EvalkitError(f"{folder} does not say with which mixup it was trained, so it holds no method")
    check_code(recipe["mixup"], [given], str(folder), "--methods ")
    state: dict[str, Any] = {"method": {}, "network": None}
    if (folder / checkpoint.STATE).exists():  # not in the zoo, whose methods learned nothing
        state = checkpoint.load_state(folder)
    try:  # runs of before this was done by the recipe
        chosen = settle({"applied": [], "methods": {}} | recipe, (), recipe).get("mixup", recipe["mixup"])
    except (TypeError, AttributeError, KeyError, ValueError) as e:
        raise EvalkitError(f"{folder} is damaged: the settings of its mixup in meta.json are none") from e
    net, method = loaded.network, from_config(chosen)
    assert isinstance(net, Network), "read from a file"
    method.setup(net)
    try:
        method.load_state_dict(state["method"])
        if state["network"] is not None:  # the exported network is another one than the trained one
            net.model.load_state_dict(state["network"])
    except (KeyError, RuntimeError) as e:
        raise EvalkitError(f"{folder} does not hold the state of its method ({str(e).splitlines()[0]})") from e
    name = chosen if isinstance(chosen, str) else "choice" if "choice" in chosen else chosen["name"]
    return Trained(net.to(device).eval(), method.to(device).eval(), name)
