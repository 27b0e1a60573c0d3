"""`fsdp=true`: weights, gradients, optimizer state and averaged weights split over the processes (PyTorch's FSDP2), for
networks that one GPU does not hold.

Between passes a process holds its share of each tensor, rows of the first dimension. A block is put together for its
forward pass, again for its backward one, and its gradients are averaged and split as soon as they are whole. What is
outside of blocks (embeddings, the head) is whole from the forward pass to the backward one. Files hold whole tensors.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.runtime import is_main, world_size

from .config import TrainConfig
from .mixups.base import MixMethod

LISTS = (nn.ModuleList, nn.Sequential)
PASSES = ("class_attention", "patch_attention", "saliency", "feature_map")  # of a network, besides its forward


def check(cfg: TrainConfig, network: Network, method: MixMethod) -> None:
    """Args:
        cfg: The recipe, which asks for fsdp.
        network: Its network, whole.
        method: Its mixup, set up.

    Raises EvalkitError for a run whose network cannot be split, or would not be trained as it is unsplit.
    """
    if world_size() == 1:
        raise EvalkitError("fsdp=true splits the network over processes, but there is one: add --gpus N, at least 2")
    if any(True for _ in method.parameters()):
        raise EvalkitError(
            f"fsdp=true splits the network alone, but mixup {cfg.mixup} has weights of its own beside it; leave fsdp"
            " out, or take another mixup"
        )
    if method.own_passes == "layers":
        raise EvalkitError(
            f"fsdp=true puts the network together for whole passes, but mixup {cfg.mixup} runs layers by themselves;"
            " leave fsdp out, or take another mixup"
        )
    if cfg.mix_draws == "group" and (method.own_passes != "none" or method.skips_passes):
        raise EvalkitError(
            f"fsdp=true needs the same passes in all processes, but draws of mixup {cfg.mixup} may decide about some;"
            " set mix_draws=step"
        )
    if not blocks(network.model) or any(p.ndim == 0 for p in network.parameters()):
        raise EvalkitError(
            f"fsdp=true splits a network by the blocks it keeps in lists, and each tensor by its rows, but model"
            f" '{cfg.model}' has no such blocks, or weights that are single numbers; leave fsdp out, or take another"
            " model"
        )


def split_run(cfg: TrainConfig, method: MixMethod, networks: list[Network], device: torch.device) -> Network:
    """Split the networks of a run; gives the copy of them without weights that `gathered` takes. Raises EvalkitError
    for what cannot be split.

    Args:
        cfg: The recipe.
        method: Its mixup, set up.
        networks: The network that is trained, and that of its averaged weights, if any.
        device: Where the process trains.
    """
    check(cfg, networks[0], method)
    empty = without_weights(networks[0], device)
    for network in networks:
        split(network, device)
    return empty


def blocks(module: nn.Module) -> list[nn.Module]:
    """The parts that are put together one at a time: modules of several layers in a list, the smallest ones that still
    hold half of what is around them."""
    found: list[nn.Module] = []
    for child in module.children():
        inside = blocks(child)
        in_list = isinstance(module, LISTS) and not isinstance(child, LISTS) and any(True for _ in child.children())
        if inside and 2 * count(inside) >= count([child]):
            found += inside
        elif in_list and count([child]):
            found.append(child)
    return found


def count(modules: Iterable[nn.Module]) -> int:
    """Numbers in the weights of some modules together."""
    return sum(p.numel() for module in modules for p in module.parameters())


def split(network: Network, device: torch.device) -> None:
    """Leave this process its share of a network's weights, on its device.

    Args:
        network: The network, whole and the same in every process; on the CPU, where a device does not hold it.
        device: Where the process trains.
    """
    # here and below: a training that splits nothing would wait seconds for these modules
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world_size(),))
    for block in blocks(network.model):
        block.register_forward_hook(_own_memory)
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, reshard_after_forward=False)
    for name in PASSES:
        register_fsdp_forward_method(network, name)


def _own_memory(_module: nn.Module, _args: Any, out: Any) -> Tensor | None:
    """A block's output in memory of its own: FSDP's hooks get lost where a view is changed in place."""
    return out.clone() if isinstance(out, Tensor) and out._base is not None else None


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its share, in the same memory, or all of it where it is not split."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(value: Any) -> Any:
    """`value`, tensors in dictionaries and lists, with each tensor that is split put together: in the main process, on
    the CPU. All processes call it; the others get None for these tensors."""
    if isinstance(value, dict):
        return {k: whole(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(v) for v in value)
    if hasattr(value, "full_tensor"):
        tensor = value.detach().full_tensor()
        return tensor.cpu() if is_main() else None
    return value


def share(tensor: Any, own: Tensor) -> Any:
    """A whole tensor split as `own` is; as it came where `own` is not split or has another shape.

    Args:
        tensor: The whole tensor, the same in every process.
        own: A tensor of this process.
    """
    from torch.distributed.tensor import DTensor

    if not isinstance(own, DTensor) or not isinstance(tensor, Tensor) or tensor.shape != own.shape:
        return tensor
    rows = -(-len(tensor) // world_size())
    part = tensor[rows * dist.get_rank() :][:rows].to(own.device, copy=True)
    return DTensor.from_local(part, own.device_mesh, own.placements, shape=own.shape, stride=own.stride())


def shares(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict of whole tensors, split as the model's is.

    Args:
        weights: The whole state dict.
        model: A model that is split.
    """
    own = model.state_dict()
    return {name: share(tensor, own[name]) if name in own else tensor for name, tensor in weights.items()}


def optimizer_shares(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict of whole tensors, split as its parameters are.

    Args:
        state: The whole state dict.
        optimizer: The optimizer of parameters that are split.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    split = {
        i: {name: share(value, parameters[i]) for name, value in values.items()} for i, values in state["state"].items()
    }
    return {**state, "state": split}


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all gradients together.

    Args:
        gradients: The gradients, each split over the processes.
    """
    squared = torch.nn.utils.get_total_norm([local(g) for g in gradients]).square()
    dist.all_reduce(squared)
    return squared.sqrt()


# ---- a whole network, for passes that are not training


def without_weights(network: Network, device: torch.device) -> Network:
    """A copy of a network that has all but its weights, see `gathered`.

    Args:
        network: The network, whole.
        device: Where the copy is used.
    """
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))
    _forget(copied)
    return copied


@contextmanager
def gathered(network: Network, empty: Network | None) -> Iterator[Network]:
    """Inside: the network, whole, for any passes without training; all processes enter it together. A network that is
    not split is given as it is.

    Args:
        network: The network.
        empty: What `without_weights` made of it; None: it is not split.
    """
    if empty is None:
        yield network
        return
    weights = network.model.state_dict()
    empty.model.load_state_dict(
        {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in weights.items()}, assign=True
    )
    try:
        yield empty
    finally:
        _forget(empty)


def _forget(network: nn.Module) -> None:
    for module in network.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False))
