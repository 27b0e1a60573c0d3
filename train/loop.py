"""The training loop, top to bottom.

Batches, augmentation, mixing, dropout and the learning rate are functions of (seed, step, position) only. So a run that
was killed and resumed, or runs with other worker or process counts, takes the very same steps.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from evalkit import checkpoint
from evalkit.data.batch import Batch
from evalkit.data.erasing import erase_boxes
from evalkit.data.kept import DeviceImages
from evalkit.data.loading import Order, steps_per_epoch, train_batches
from evalkit.errors import EvalkitError
from evalkit.guard import Guard
from evalkit.logger import Logger
from evalkit.runtime import derive_rng, is_main, rank, seed_torch, world_size, write_atomic

from . import fsdp, measure, session, snapshot
from .ema import decay_at
from .feed import Feed
from .losses import BinaryCrossEntropy, soft_cross_entropy, soft_target
from .mixups.base import Context
from .precise_bn import precise_statistics
from .schedules import learning_rate
from .session import Session

CHECK_STEPS = 10  # between two looks at the loss: asking a GPU for it, or the other processes, costs a wait
AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""


def fit(s: Session, run: Path) -> None:
    """Train from `s.step` to the end; checkpoints and logs go to `run`. Raises Stopped after a signal, EvalkitError
    when the loss is lost.

    Args:
        s: The run, at the step where it goes on.
        run: The run folder.
    """
    cfg, device, world = s.cfg, s.device, world_size()
    per_epoch, total = steps_per_epoch(len(s.train_images), cfg.batch_size), s.total_steps
    rate = learning_rate(cfg, per_epoch)
    group_rates = [
        learning_rate(replace(cfg, **group.get("schedule", {})), per_epoch) for group in s.optimizer.param_groups
    ]
    local_groups = cfg.batch_size // cfg.micro_batch // world
    eval_steps = max(1, round(cfg.eval_epochs * per_epoch))
    moments = (total, CHECK_STEPS, eval_steps, cfg.log_steps, cfg.checkpoint_steps or total)

    session.lay_out(s)
    module: torch.nn.Module = s.trainee
    alone: Callable[[], AbstractContextManager[Any]] = nullcontext  # around a pass after which nothing is exchanged yet
    if world > 1 and not cfg.fsdp:  # which exchanges in each pass: whole gradients would not fit
        # Batch-norm statistics are averaged by BatchNormStatistics; a method's own parameters may take no part in some
        # steps.
        unused = not s.method.uses_all_parameters and any(True for _ in s.method.parameters())
        module = DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=unused)
        alone = module.no_sync

    feed = Feed(batch_iterator(s, s.step))
    context = context_maker(s, total)
    log = Logger(run, s.step, total, cfg.track, asdict(cfg))
    bad_step = torch.full((), total, device=device)  # first step with a loss that is not finite
    first, began = s.step, time.monotonic() - s.seconds
    window, shown, saved_at = time.monotonic(), s.step, time.monotonic()
    with Guard(device) as guard:
        try:
            while s.step < total:
                lr = rate(s.step)
                for group, group_rate in zip(s.optimizer.param_groups, group_rates):
                    group["lr"] = group_rate(s.step) * group.get("lr_scale", 1.0)

                step_loss = torch.zeros((), device=device)
                for i in range(local_groups):
                    batch = next(feed)
                    with nullcontext() if i == local_groups - 1 else alone():
                        loss = forward(s, module, context(s.step, batch.group, batch.extras), batch) / local_groups
                        s.scaler.scale(loss).backward()
                    step_loss += loss.detach()

                due = time.monotonic() - saved_at > 60 * cfg.checkpoint_minutes
                # a lone process knows without asking that it is to save or to stop
                looked_at = any((s.step + 1) % n == 0 for n in moments) or (
                    world == 1 and (due or guard.received is not None)
                )
                if s.step == first:
                    check_reached(s)
                norm = update(s, context(s.step, None), measured=looked_at)
                healthy = step_loss.isfinite()
                if norm is not None and not s.scaler.is_enabled():  # a scaler skips steps that overflow
                    healthy = healthy & norm.isfinite()
                bad_step = torch.where(healthy, bad_step, bad_step.clamp(max=s.step))
                s.step += 1
                log.moved(s.step)

                last = s.step == total
                if cfg.precise_bn is not None and (s.step % per_epoch == 0 or last):
                    precise_statistics(s, lambda ctx, batch: forward(s, s.trainee, ctx, batch), context)
                evaluate_now = s.step % eval_steps == 0 or last
                save_now = last or (cfg.checkpoint_steps is not None and s.step % cfg.checkpoint_steps == 0)
                if not looked_at or norm is None:
                    continue
                # What is true in any process is true in all: they exchange the largest value of each. For the first bad
                # step, of which the smallest is wanted, that is its distance from the end; 0 where no step was bad.
                bad_from_end, stop, due = guard.agree(total - int(bad_step), guard.received or log.unread, due)
                if bad_from_end:
                    give_up(s, run, total - int(bad_from_end))
                if s.step % cfg.log_steps == 0 or last:
                    now = time.monotonic()
                    values = {
                        "epoch": round(s.step / per_epoch, 4),
                        "loss": float(step_loss),
                        "lr": lr,
                        "grad_norm": float(norm),
                        "images_per_second": round((s.step - shown) * cfg.batch_size / (now - window), 1),
                        "data_wait": round(feed.waited / (now - window), 4),
                        "reading_ms": round(1000 * feed.reading / feed.images, 3),
                        "preparing_ms": round(1000 * feed.preparing / feed.images, 3),
                    }
                    values |= measure.shown(s)
                    log.log(
                        s.step,
                        values,
                        f"epoch {values['epoch']:.1f}  loss {values['loss']:.3f}  {values['images_per_second']:.0f}"
                        " images/s",
                    )
                    if advice := feed.turn(cfg, now - window, "the GPU" if device.type == "cuda" else "the run", world):
                        log.say(advice)
                    window, shown = now, s.step
                improved = False
                if evaluate_now:
                    s.scores = {name: measure.accuracy(s, network) for name, network in s.networks().items()}
                    if last and s.method.eval_network(s.network) is not s.network:
                        s.scores["trained"] = measure.accuracy(s, s.network)
                    top1 = s.scores["raw"]["top1"]
                    s.history.append(top1)
                    improved = top1 > s.best.get("top1", -1.0)
                    if improved:
                        s.best = {"top1": top1, "step": s.step}
                    values = {f"val_{k}_{name}": v for name, scores in s.scores.items() for k, v in scores.items()}
                    log.log(
                        s.step,
                        values,
                        f"validation top-1 {100 * top1:.2f} %"
                        + "".join(
                            f", {session.WEIGHTS[k]} {100 * v['top1']:.2f} %" for k, v in list(s.scores.items())[1:]
                        ),
                    )
                if improved or save_now or due or stop:
                    s.seconds = time.monotonic() - began
                    log.check_place()
                    folder = snapshot.save(s, run)
                    if folder is not None:
                        if improved:
                            checkpoint.link(run, "best", folder)
                        checkpoint.prune(run, cfg.keep)
                    saved_at = time.monotonic()
                if stop and not last:
                    raise Stopped(int(stop))
        finally:
            log.close()


def check_reached(s: Session) -> None:
    """Raise EvalkitError after a backward pass that gave no weight of the network a gradient."""
    if not any(p.grad is not None for p in s.network.parameters()):
        raise EvalkitError(
            f"the loss of {type(s.method).__name__} depends on no weight of the network, so nothing would be trained;"
            " make it of the network's output, without detach()"
        )


def update(s: Session, ctx: Context, measured: bool) -> Tensor | None:
    """Change the weights by the gradients, and what follows from the weights. Returns the norm of the gradients where
    it is clipped or to be `measured`.

    Args:
        s: The run, whose parameters hold gradients.
        ctx: The context of the step's last micro-batch, for the method's own updates.
        measured: Whether the norm of the gradients is wanted for the log.
    """
    s.scaler.unscale_(s.optimizer)
    norm = None
    if measured or s.cfg.clip_grad is not None:
        total_norm = fsdp.total_norm if s.cfg.fsdp else torch.nn.utils.get_total_norm
        norm = total_norm([p.grad for p in s.trainee.parameters() if p.grad is not None])
    if norm is not None and s.cfg.clip_grad is not None:
        torch.nn.utils.clip_grads_with_norm_(s.trainee.parameters(), s.cfg.clip_grad, norm)
    s.scaler.step(s.optimizer)
    s.scaler.update()
    s.optimizer.zero_grad(set_to_none=True)
    s.batchnorm.step()
    s.method.after_step(ctx, s.network)
    if s.ema:
        per_epoch = steps_per_epoch(len(s.train_images), s.cfg.batch_size)
        s.ema.update(s.method.eval_network(s.network), decay_at(s.cfg, per_epoch)(s.step))
    return norm


def batch_iterator(s: Session, start: int) -> Iterator[Batch]:
    """This process's micro-batches from step `start` on.

    Args:
        s: The run.
        start: The optimizer step that comes first.
    """
    cfg = s.cfg
    return train_batches(
        s.source,
        s.train_transform,
        Order(cfg.seed, cfg.batch_size, cfg.micro_batch, cfg.epochs, cfg.repeats),
        start_step=start,
        rank=rank(),
        world=world_size(),
        workers=cfg.workers,
        extras=s.method.loader_extras,
    )


def context_maker(s: Session, total: int) -> Callable[..., Context]:
    """(step, group, extras of the batch) -> the method's context; the draws are keyed by what was published, never by
    process or micro-batch count.

    Args:
        s: The run.
        total: Optimizer steps of the whole run.
    """
    cfg, network, device = s.cfg, s.network, s.device
    groups_per_accumulation = cfg.batch_size // cfg.micro_batch // cfg.accumulate
    criterion = soft_cross_entropy if cfg.loss == "ce" else BinaryCrossEntropy(cfg.bce_threshold, cfg.bce_reduction)
    mean, std = torch.tensor(network.mean, device=device), torch.tensor(network.std, device=device)

    def make(step: int, group: int | None, extras: Mapping[str, Tensor] | None = None) -> Context:
        key = ("after", step) if group is None else ("mix", step, group // groups_per_accumulation)
        if group is not None and cfg.mix_draws == "group":
            key += (group,)
        return Context(
            step=step,
            total_steps=total,
            rng=derive_rng(cfg.seed, *key),
            target=lambda y: soft_target(y, network.num_classes, cfg.label_smoothing),
            criterion=criterion,
            mean=mean,
            std=std,
            extras={name: value.to(device, non_blocking=True) for name, value in (extras or {}).items()},
        )

    return make


def forward(s: Session, module: torch.nn.Module, ctx: Context, batch: Batch) -> Tensor:
    """Loss of one micro-batch in training mode.

    Args:
        s: The run, for precision and device.
        module: The trainee, or what DDP made of it.
        ctx: The method's context.
        batch: Images (B, C, H, W) and labels (B,) as `prepare` gives them.
    """
    cfg = s.cfg
    if not (
        s.trainee.training and s.network.model.training
    ):  # going through all modules in every step costs a millisecond of the host
        s.trainee.train()
    x, y = prepare(s, batch, ctx)
    seed_torch(cfg.seed, "model", batch.step, batch.group)  # dropout, stochastic depth
    dtype = AMP_DTYPES[cfg.amp]
    with s.batchnorm.micro_batch(), torch.autocast(s.device.type, dtype=dtype, enabled=dtype is not None):
        loss: Tensor = module(ctx, x, y)
    if not (s.network.training and s.network.model.training):
        raise EvalkitError(
            f"{type(s.method).__name__} leaves the network in evaluation mode; it must put it back with net.train()"
        )
    return loss


def uploaded(s: Session, batch: Batch) -> Tensor:
    """The images of a micro-batch on the device, (m, 3, S, S) uint8.

    Args:
        s: The run.
        batch: A micro-batch as the loader gives it.
    """
    if isinstance(s.source, DeviceImages):
        return s.source.cropped(batch.index, batch.offsets)
    return batch.x.to(s.device, non_blocking=True)


def prepare(s: Session, batch: Batch, ctx: Context) -> tuple[Tensor, Tensor]:
    """Upload a micro-batch, finish its augmentation on the device, normalise it, erase.

    Args:
        s: The run.
        batch: A micro-batch as the loader gives it.
        ctx: The method's context, whose generator erases.
    """
    x = s.train_transform.finish(uploaded(s, batch), batch.operations.numpy(), batch.values.numpy()).float().div_(255)
    x = (x - ctx.mean[:, None, None]) / ctx.std[:, None, None]
    if s.cfg.erasing:
        boxes, noise = (part.to(s.device, non_blocking=True) for part in (batch.erase, batch.noise))
        x = erase_boxes(x, boxes, noise)
    if s.cfg.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, batch.y.to(s.device, non_blocking=True)


def give_up(s: Session, run: Path, step: int) -> None:
    """The loss of `step` was not finite: save that batch, then stop. Checkpoints are older than the step, so they are
    clean.

    Args:
        s: The run.
        run: The run folder.
        step: The step whose loss was not finite.
    """
    folder = run / "crash"
    batch = next(batch_iterator(s, step))
    if is_main():
        arrays: dict[str, Any] = {
            "x": uploaded(s, batch).cpu().numpy(),
            "y": batch.y.numpy(),
            "index": np.asarray(batch.index),
            "step": step,
        }
        write_atomic(folder / f"step-{step:09d}.npz", lambda f: np.savez(f, **arrays))
    raise EvalkitError(
        f"the loss was not finite at step {step}; its first micro-batch is in {folder}, checkpoints before it are"
        f" intact; begin a new run with a lower lr, clip_grad=1.0 or amp=none, from its weights if you like: init={run}"
    )
