import pytest
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import SGD

from evalkit.train.config import TrainConfig
from evalkit.train.schedules import learning_rate


def cfg(**kw):
    return TrainConfig(model="m", data="digits", epochs=kw.pop("epochs", 30), batch_size=10, micro_batch=10, lr=kw.pop("lr", 1e-3), **kw)


@pytest.mark.parametrize("by", ["step", "epoch"])
def test_cosine_equals_timm(by):
    """The official DeiT schedule is timm's CosineLRScheduler with warm-up."""
    per_epoch, c = 7, cfg(min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=5, schedule_by=by)
    scale = per_epoch if by == "step" else 1
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=c.lr)
    timm = CosineLRScheduler(optimizer, t_initial=30 * scale, lr_min=c.min_lr, warmup_t=5 * scale, warmup_lr_init=c.warmup_lr)
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
