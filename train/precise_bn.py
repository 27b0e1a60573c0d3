"""Batch-norm statistics of the weights as they are, not a running average over weights as they were."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from evalkit.data.batch import Batch
from evalkit.data.loading import Order, steps_per_epoch, train_batches
from evalkit.runtime import derive_key, derive_rng, rank, world_size

from .batchnorm import BatchNormStatistics
from .mixups.base import Context
from .session import Session


@torch.no_grad()
def precise_statistics(s: Session, forward: Callable[[Context, Batch], Any], context: Callable[..., Context]) -> None:
    """Replace the running statistics of every batch-norm layer by the mean, over the batches of `precise_bn` training
    images, of each micro-batch's mean and (unbiased) variance: precise BN (Wu and Johnson, arXiv:2105.07576, section 3)
    as OpenMixup's PreciseBNHook. The images go through the training pass, augmented and mixed; as many whole batches
    are taken as go into `precise_bn` and an epoch, at least one. A momentum encoder's statistics are renewed too, by
    its last kind of pass.

    Differs from OpenMixup in the images: it takes the first of the epoch's order again, here they have an order of
    their own.

    Args:
        s: The run, after an optimizer step.
        forward: Makes the training pass of a micro-batch.
        context: (step, group, extras of the batch) -> the method's context.
    """
    cfg = s.cfg
    if cfg.precise_bn is None:
        return
    per_epoch = steps_per_epoch(len(s.train_images), cfg.batch_size)
    steps = max(1, min(cfg.precise_bn // cfg.batch_size, per_epoch))
    order = Order(
        derive_key(cfg.seed, "precise", s.step) % 2**63, cfg.batch_size, cfg.micro_batch, steps / per_epoch, cfg.repeats
    )
    batches = train_batches(
        s.source,
        s.train_transform,
        order,
        rank=rank(),
        world=world_size(),
        workers=cfg.workers,
        extras=s.method.loader_extras,
    )
    together = 1 if cfg.mix_draws == "group" else cfg.batch_size // cfg.micro_batch // cfg.accumulate
    for batch in batches:
        rng = derive_rng(cfg.seed, "precise", s.step, batch.step, batch.group // together)
        forward(replace(context(s.step - 1, batch.group, batch.extras), rng=rng), batch)
    encoders = (getattr(module, "statistics", None) for module in s.method.modules())
    for statistics in (s.batchnorm, *(e for e in encoders if isinstance(e, BatchNormStatistics))):
        statistics.step(renew=True)
