"""The largest micro-batch that memory holds: `auto_micro_batch`, tried once when a run begins."""

import gc
from dataclasses import replace

import torch

from evalkit import data
from evalkit.data.kept import local_processes
from evalkit.errors import EvalkitError
from evalkit.runtime import available_memory, gather_objects, world_size

from . import loop, session
from .config import TrainConfig
from .mixups.choice import Choice

STEPS = 3  # of a trial: in the second one the optimizer has its state
SPARE = 0.05  # share of a GPU's memory that is left: for fragments, and for libraries that take some later
OF_A_CPU = 0.5  # share of the memory that is free which one step may fill: data workers and other programs want some


def settle_micro_batch(cfg: TrainConfig, device: torch.device, images: tuple[data.Images, data.Images]) -> TrainConfig:
    """The recipe with a micro-batch that fits on the device, the largest divisor of its own that does, and
    `auto_micro_batch` off, with a sentence in `picked` where it is smaller than the recipe's; every process gets the
    same one.

    On a GPU whole steps are tried, uncompiled. On a CPU, which has no clean way of running out, the tensors that a
    forward pass keeps for the backward one are counted, and set against the memory that is free.

    Args:
        cfg: The recipe, its sizes settled.
        device: Where the run begins.
        images: For training and validation.

    Raises EvalkitError where not even one divisor fits.
    """
    if not cfg.auto_micro_batch:
        return cfg
    if cfg.bn_batch is not None:
        raise EvalkitError(
            "auto_micro_batch does not go with bn_batch, which says how many images are normalised together; give"
            " micro_batch=N or bn_batch=null"
        )
    fits = FitsGPU(cfg, device, images) if device.type == "cuda" else FitsCPU(cfg, device, images)
    wanted = cfg.micro_batch
    for size in (n for n in range(wanted, 0, -1) if wanted % n == 0):
        if all(gather_objects(fits(size))):
            break
    else:
        raise EvalkitError("memory does not hold a step of a single image; take a smaller model or image_size")
    if size == wanted:
        return replace(cfg, auto_micro_batch=False)
    line = (
        f"micro_batch={size}: memory does not hold a step of {wanted} images; these {size} are mixed with one another"
        " and share batch-norm statistics"
    )
    return replace(cfg, auto_micro_batch=False, micro_batch=size, picked=[*cfg.picked, line])


class FitsGPU:
    """Whether steps with a micro-batch of so many images run on this process's GPU.

    Args:
        cfg: The recipe.
        device: The GPU.
        images: For training and validation.
    """

    def __init__(self, cfg: TrainConfig, device: torch.device, images: tuple[data.Images, data.Images]):
        self.cfg, self.device, self.images = replace(cfg, workers=0, cache="none"), device, images

    def __call__(self, size: int) -> bool:
        free, total = torch.cuda.mem_get_info(self.device)
        there = free + torch.cuda.memory_reserved(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            gradients = take_steps(replace(self.cfg, micro_batch=size), self.device, self.images)
            ran = True
        except torch.OutOfMemoryError:
            ran, gradients = False, 0
        # outside the handler: the error holds the frames, and these the tensors
        taken = torch.cuda.max_memory_reserved(self.device) + (gradients if world_size() > 1 else 0)
        gc.collect()
        torch.cuda.empty_cache()
        return ran and taken <= there - SPARE * total


def take_steps(cfg: TrainConfig, device: torch.device, images: tuple[data.Images, data.Images]) -> int:
    """Some steps of a run with one micro-batch each, nothing exchanged with other processes; the bytes of the
    gradients, of which DDP keeps a copy.

    Args:
        cfg: The recipe.
        device: Where it runs.
        images: For training and validation.
    """
    s = session.build(cfg, device, images)
    session.lay_out(s)
    context, batch = loop.context_maker(s, s.total_steps), next(loop.batch_iterator(s, 0))
    branches = branches_of(s)
    for step in range(max(STEPS, 1 + len(branches))):
        ctx = replace(context(step, 0, batch.extras), draws=branches[step % len(branches)])
        loss = loop.forward(s, s.trainee, ctx, replace(batch, step=step))
        s.scaler.scale(loss).backward()
        s.optimizer.step()
        s.optimizer.zero_grad(set_to_none=True)
    return sum(p.numel() * p.element_size() for p in s.trainee.parameters() if p.requires_grad)


def branches_of(s: session.Session) -> list[dict[str, int] | None]:
    """The draws that take each branch of a choice once; for another method none are injected."""
    return [{"branch": i} for i in range(len(s.method.methods))] if isinstance(s.method, Choice) else [None]


class FitsCPU:
    """Whether what a step with so many images keeps for its backward pass is at most `OF_A_CPU` of the memory that is
    free, as few images and the rule of three tell.

    Args:
        cfg: The recipe.
        device: The CPU.
        images: For training and validation.
    """

    def __init__(self, cfg: TrainConfig, device: torch.device, images: tuple[data.Images, data.Images]):
        free = available_memory()
        if free is None:
            raise EvalkitError("this system does not say how much memory is free; give micro_batch=N")
        self.room = OF_A_CPU * free / local_processes()
        few = next(n for n in range(min(2, cfg.micro_batch), cfg.micro_batch + 1) if cfg.micro_batch % n == 0)
        s = session.build(replace(cfg, micro_batch=few, workers=0, cache="none"), device, images)
        self.per_image = kept_for_backward(s) / few

    def __call__(self, size: int) -> bool:
        return size * self.per_image <= self.room


def kept_for_backward(s: session.Session) -> int:
    """Bytes of the tensors that a forward pass of one micro-batch keeps for the backward one, besides the weights; of a
    choice that of the branch which keeps most.

    Args:
        s: A run.
    """
    kept: dict[int, int] = {}
    weights = {t.untyped_storage().data_ptr() for t in (*s.trainee.parameters(), *s.trainee.buffers())}

    def keep(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    batch, most = next(loop.batch_iterator(s, 0)), 0
    ctx = loop.context_maker(s, s.total_steps)(0, 0, batch.extras)
    for draws in branches_of(s):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = loop.forward(s, s.trainee, replace(ctx, draws=draws), batch)
        del loss
        most = max(most, sum(kept.values()))
    return most
