import math

import pytest
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import SGD

from evalkit import config
from evalkit.train.config import TrainConfig
from evalkit.train.schedules import learning_rate


def cfg(**kw):
    return TrainConfig(
        model="m",
        data="digits",
        epochs=kw.pop("epochs", 30),
        batch_size=10,
        micro_batch=10,
        lr=kw.pop("lr", 1e-3),
        **kw,
    )


@pytest.mark.parametrize("by", ["step", "epoch"])
def test_cosine_equals_timm(by):
    """The official DeiT schedule is timm's CosineLRScheduler with warm-up."""
    per_epoch, c = 7, cfg(min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=5, schedule_by=by)
    scale = per_epoch if by == "step" else 1
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=c.lr)
    timm = CosineLRScheduler(
        optimizer, t_initial=30 * scale, lr_min=c.min_lr, warmup_t=5 * scale, warmup_lr_init=c.warmup_lr
    )
    rate = learning_rate(c, per_epoch)
    for step in range(30 * per_epoch):
        timm.step(step if by == "step" else step // per_epoch)
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_step_schedule_by_hand():
    rate = learning_rate(cfg(lr=0.1, epochs=100, schedule="step", decay_epochs=[30, 60], decay_rate=0.1), 10)
    assert [rate(s) for s in (0, 299, 300, 599, 600, 999)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_constant_and_warm_up_by_hand():
    rate = learning_rate(cfg(lr=1.0, warmup_epochs=2, warmup_lr=0.2, schedule="constant"), 10)
    assert [rate(s) for s in (0, 10, 20, 299)] == pytest.approx([0.2, 0.6, 1.0, 1.0])


def mmcv_rate(step, per_epoch, epochs, lr, min_lr, warmup_epochs, ratio):
    """mmcv's CosineAnnealing by epoch under its linear warm-up by iteration, as its hook computes them."""
    regular = min_lr + (lr - min_lr) * (1 + math.cos(math.pi * (step // per_epoch) / epochs)) / 2
    if step >= warmup_epochs * per_epoch:
        return regular
    return regular * (1 - (1 - step / (warmup_epochs * per_epoch)) * (1 - ratio))


@pytest.mark.parametrize("recipe", ["rsb-a2", "rsb-a3"])
def test_rsb_recipes_warm_up_by_step_as_mmcv(recipe):
    """By epoch, the first one would be trained at a learning rate of nothing."""
    c = config.load(TrainConfig, recipe, ["data_dir=x"])
    rate = learning_rate(c, 10)
    for step in range(10 * c.epochs):
        assert rate(step) == pytest.approx(mmcv_rate(step, 10, c.epochs, c.lr, c.min_lr, 5, 1e-5), rel=0.01)
    assert rate(9) > 0.15 * c.lr


def test_warm_up_by_epoch_under_a_cosine_by_step():
    rate = learning_rate(cfg(lr=1.0, warmup_epochs=2, warmup_by="epoch"), 10)
    assert [rate(s) for s in (0, 9, 10, 19)] == pytest.approx([0.0, 0.0, 0.5, 0.5]) and rate(25) < rate(24) < 1


@pytest.mark.parametrize("by", ["step", "epoch"])
def test_cool_down_equals_timm(by):
    """TransMix and XCiT train get_cycle_length() + cooldown_epochs of timm's scheduler: 310 epochs for 300."""
    per_epoch, c = 3, cfg(epochs=40, cooldown_epochs=10, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=5, schedule_by=by)
    scale = per_epoch if by == "step" else 1
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=c.lr)
    timm = CosineLRScheduler(
        optimizer, t_initial=30 * scale, lr_min=1e-5, warmup_t=5 * scale, warmup_lr_init=1e-6, t_in_epochs=True
    )
    ours = learning_rate(c, per_epoch)
    for step in range(40 * per_epoch):
        timm.step(step if by == "step" else step // per_epoch)
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert ours(30 * per_epoch) == ours(40 * per_epoch - 1) == 1e-5
