"""Distillation through a token: the equations with numbers worked out by hand, a step by hand, and what a run keeps of
its teacher."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evalkit import checkpoint, config, models
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.train import create, loop, session, snapshot, train_step
from evalkit.train.config import TrainConfig
from evalkit.train.distill import Distillation
from evalkit.train.losses import distillation_loss
from evalkit.train.mixups.parts.teacher import Teacher

from .mixups.fakes import context
from .mixups.saliency_fakes import TeacherNet

STUDENT = "deit_tiny_distilled_patch16_224"
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


@pytest.fixture(name="net")
def _net():
    torch.manual_seed(0)
    net = models.create(STUDENT, num_classes=3, **SMALL)
    nn.init.normal_(net.model.head.weight), nn.init.normal_(net.model.head_dist.weight)
    return net


def test_losses_by_hand():
    """Student softmax (1/4, 3/4), teacher class 0: ln 4. At tau = 2 the teacher is (1/4, 3/4) and the student (1/2,
    1/2)."""
    assert distillation_loss(
        torch.tensor([[0.0, math.log(3)]]), torch.tensor([[5.0, 1.0]]), "hard"
    ).item() == pytest.approx(math.log(4))
    teacher, student = torch.tensor([[0.0, 2 * math.log(3)]] * 2), torch.tensor([[1.0, 1.0], [7.0, 7.0]])
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    # the mean over the batch
    assert distillation_loss(student, teacher, "soft", 2.0).item() == pytest.approx(4 * divergence)
    with torch.autocast("cpu", torch.bfloat16):
        half = distillation_loss(student.bfloat16(), teacher.bfloat16(), "soft", 2.0)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(4 * divergence, rel=0.02)
    with pytest.raises(ValueError, match="Expected argument `kind` to be 'hard' or 'soft', but got 'warm'"):
        distillation_loss(student, teacher, "warm")


def test_heads_apart_in_training_and_together_in_evaluation(net):
    x = torch.randn(2, 3, 32, 32)
    tokens = net.model.forward_features(x)
    cls, dist = net.model.head(tokens[:, 0]), net.model.head_dist(tokens[:, 1])
    assert net.train()(x).distilled is None
    torch.testing.assert_close(net(x).logits, (cls + dist) / 2)
    net.train_distilled()
    for ask in ({}, {"features": True}, {"attention": True}):
        out = net(x, **ask)
        torch.testing.assert_close(out.logits, cls)
        torch.testing.assert_close(out.distilled, dist)
    assert net.saliency(x, torch.tensor([0, 1])).shape == (2, 32, 32) and net.class_attention(x)[0].shape == (2, 16)
    torch.testing.assert_close(net.eval()(x).logits, (cls + dist) / 2)
    assert net(x).distilled is None
    torch._dynamo.reset()
    net.train().compile(backend="eager", fullgraph=True)
    out = net(x, attention=True)
    torch.testing.assert_close(out.logits, cls)
    torch.testing.assert_close(out.distilled, dist)


def test_a_model_without_distillation_head_is_refused():
    with pytest.raises(EvalkitError, match="model 'vit_nano_patch4_32' has no distillation head; take one"):
        models.create("vit_nano_patch4_32", num_classes=3).train_distilled()


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_step_by_hand(net, kind):
    """TransMix's loss on the class head, the teacher's on the distillation head; the teacher sees the mixed images as
    it is used to."""
    net.train().train_distilled()
    teacher = TeacherNet(classify=lambda x: 3 * x.mean((2, 3)))
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 1])
    method, ctx = create("transmix"), context(3, smoothing=0.1, draws={"box": (4, 20, 8, 32), "partner": [3, 2, 1, 0]})
    loss = train_step(ctx, net, method, x, y, Distillation(Teacher(teacher), kind, 0.3, 2.0))

    mixed = x.clone()
    mixed[:, :, 4:20, 8:32] = x.flip(0)[:, :, 4:20, 8:32]
    pixels = mixed * ctx.std.view(3, 1, 1) + ctx.mean.view(3, 1, 1)
    torch.testing.assert_close(teacher.seen[-1], (pixels - 0.5) / 0.25)
    wanted = 3 * ((pixels - 0.5) / 0.25).mean((2, 3))
    out = net(mixed, attention=True)
    base = train_step(ctx, net, method, x, y)
    if kind == "hard":
        extra = -F.log_softmax(out.distilled, 1).gather(1, wanted.argmax(1, keepdim=True)).mean()
    else:
        p, q = (wanted / 2).softmax(1), (out.distilled / 2).softmax(1)
        extra = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(loss, 0.7 * base + 0.3 * extra)

    loss.backward()
    assert all(p.grad is not None for p in net.parameters()) and teacher.weight.grad is None
    head, dist = net.model.head.weight.grad.clone(), net.model.head_dist.weight.grad.clone()
    net.zero_grad()
    base.backward()
    torch.testing.assert_close(head, 0.7 * net.model.head.weight.grad)
    assert net.model.head_dist.weight.grad is None and dist.abs().sum() > 0


def test_patchmix_and_features_go_with_it(net):
    net.train().train_distilled()
    teacher = Teacher(TeacherNet(classify=lambda x: x.mean((2, 3))))
    loss = train_step(
        context(3),
        net,
        create("patchmix", "paper", grid=2),
        torch.randn(2, 3, 32, 32),
        torch.tensor([0, 2]),
        Distillation(teacher),
    )
    assert loss.isfinite()


# ---- runs


def recipe(teacher, *overrides):
    args = json.dumps(SMALL)
    # 5 steps
    common = [
        "epochs=1",
        "batch_size=225",
        "micro_batch=225",
        "threads=1",
        "workers=0",
        "device=cpu",
        "log_steps=1",
        "eval_epochs=9",
    ]
    own = [
        f"model={STUDENT}",
        f"model_args={args}",
        f"distill_teacher={teacher}",
        "mixup=transmix",
        "checkpoint_steps=3",
        "keep=3",
    ]
    return config.load(TrainConfig, "digits", [*common, *own, *overrides])


def test_a_run_keeps_nothing_of_its_teacher_but_its_hash(finished, tmp_path):
    s = session.build(recipe(finished), torch.device("cpu"))
    own = {k.removeprefix("network.") for k in s.trainee.state_dict()}
    assert own == set(s.network.state_dict())
    count = sum(p.numel() for g in s.optimizer.param_groups for p in g["params"])
    assert count == sum(p.numel() for p in s.network.parameters())
    teacher = s.trainee.distillation.teacher.network
    assert (
        isinstance(teacher, Network) and not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    )
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    loop.fit(s, tmp_path)
    assert s.step == 5 and all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    sha = checkpoint.read_weights(finished)[2]
    for step in (3, 5):
        (meta,) = (
            m for m in map(checkpoint.verify, (f.parent for f in tmp_path.rglob("meta.json"))) if m["step"] == step
        )
        assert meta["teachers"] == {str(finished): sha} and meta["config"]["distill_teacher"] == str(finished)
    exported = checkpoint.read_weights((tmp_path / "last").resolve(), "raw")[0]
    assert set(exported) == set(s.network.model.state_dict())


def test_a_resumed_run_is_the_same(finished, tmp_path):
    cfg = recipe(finished, "distill_type=soft", "model_args.drop_path_rate=0.2", "ema=0.9")
    (tmp_path / "whole").mkdir(), (tmp_path / "resumed").mkdir()
    whole = session.build(cfg, torch.device("cpu"))
    loop.fit(whole, tmp_path / "whole")
    (middle,) = (f.parent for f in (tmp_path / "whole").rglob("meta.json") if json.loads(f.read_text())["step"] == 3)
    resumed = session.build(cfg, torch.device("cpu"))
    snapshot.restore(resumed, middle)
    loop.fit(resumed, tmp_path / "resumed")
    for a, b in ((whole.network, resumed.network), (whole.ema.network, resumed.ema.network)):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert whole.ema.network.eval()(torch.zeros(1, 3, 32, 32)).distilled is None


def test_off_without_teacher_or_by_type(finished):
    for overrides in (["distill_type=none"], ["distill_teacher=null"]):
        s = session.build(recipe(finished, *overrides), torch.device("cpu"))
        assert (
            s.trainee.distillation is None
            and not s.network.model.distilled_training
            and not snapshot.meta(s)["teachers"]
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distill_teacher=null", "distill_type=soft"], "distill_type=soft needs distill_teacher=NAME"),
        (["distill_type=firm"], "distill_type"),
        (["distill_alpha=1.5"], "'distill_alpha' must lie between 0 and 1"),
        (["distill_tau=0"], "'distill_tau' must be larger than 0"),
        (["mixup=manifold"], "mixup manifold mixes features; take a method that mixes images"),
        (["data=fashion-mnist"], "teacher .* knows 10 classes, which are not the 10 of fashion-mnist"),
        (["image_size=64", "model_args.img_size=64"], "takes images of 32 x 32 pixels only, but image_size=64"),
        (["model=vit_nano_patch4_32"], "has no distillation head"),
    ],
)
def test_what_does_not_go_together(finished, overrides, message, monkeypatch):
    if "data=fashion-mnist" in overrides:
        digits = {split: session.data.load("digits", split) for split in ("train", "val")}
        for images in digits.values():
            images.classes = [f"thing {c}" for c in images.classes]
        monkeypatch.setattr(session.data, "load", lambda _, split, **__: digits[split])
    with pytest.raises(EvalkitError, match=message):
        cfg = recipe(finished, *overrides)
        cfg.check()
        session.build(cfg, torch.device("cpu"))
