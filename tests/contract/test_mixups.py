"""One matrix that every method of METHODS goes through in each of its presets, and a choice in each of its branches."""

import copy
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evalkit import models
from evalkit.train import METHODS, create, train_step
from tests.train.mixups.fakes import TinyAttention, TinyCNN, context

PATCH, CLASSES = 4, 5
CASES = [
    pytest.param(name, preset, branch, id=f"{name}-{preset}" + ("" if branch is None else f"-{branch}"))
    for name, cls in METHODS.items()
    for preset in cls.PRESETS
    for branch in (range(len(create(name, preset).methods)) if name == "choice" else [None])
]
every_method = pytest.mark.parametrize(("name", "preset", "branch"), CASES)


class Case:
    """A method about to mix a batch of random images."""

    def __init__(self, name, preset, branch, batch=6, size=(16, 16), dtype=torch.float32, layout=torch.contiguous_format, images=None, labels=None):
        torch.manual_seed(0)
        arguments = {"scale": 2} if name in ("maskmix", "mixpro") else {}
        method = create(name, preset, **arguments)
        if name == "choice":
            for child in method.modules():
                if hasattr(child, "scale"):
                    child.scale = 2  # the images of this file are 16 pixels wide
        self.draws = {} if branch is None else {"branch": branch}
        self.method = method.pick(context(draws=self.draws))
        self.net = TinyAttention(PATCH, num_classes=CLASSES)
        images = torch.randn(batch, 3, *size) if images is None else images
        self.x = images.to(dtype).contiguous(memory_format=layout)
        self.y = torch.arange(batch) % CLASSES if labels is None else labels

    def context(self, seed=0, **kwargs):
        return context(CLASSES, seed, smoothing=0.1, draws=self.draws, step=3, total_steps=10, **kwargs)

    def mix(self, seed=0):
        """(mixed batch, network output, label weights after the forward pass)."""
        ctx = self.context(seed)
        mixed = self.method.mix(ctx, self.x, self.y, self.net)
        with torch.no_grad():
            out = self.net(mixed.x.float(), attention=self.method.attention)
            return mixed, out, self.method.relabel(ctx, mixed, self.y, out)

    @property
    def rows_sum_to_one(self):
        return getattr(self.method, "normalize_attn", True)  # the literal attention formula leaves out the class token's share


def check(case, mixed, weights):
    batch = len(case.x)
    assert mixed.x.shape[1:] == case.x.shape[1:] and mixed.x.dtype == case.x.dtype
    assert mixed.x.isfinite().all()
    for w in (mixed.weights, weights):
        assert w.shape == (len(mixed.x), batch) and w.dtype == torch.float32
        assert w.isfinite().all() and (w >= 0).all() and (w.sum(1) <= 1 + 1e-6).all()
    assert torch.allclose(mixed.weights.sum(1), torch.ones(len(mixed.x)), atol=1e-6)
    if case.rows_sum_to_one:
        assert torch.allclose(weights.sum(1), torch.ones(len(mixed.x)), atol=1e-6)
    if mixed.mask is not None and mixed.partner is not None:
        assert mixed.mask.shape[-3:] == (1, *case.x.shape[-2:]) and ((mixed.mask >= 0) & (mixed.mask <= 1)).all()
        blend = mixed.mask * case.x.float() + (1 - mixed.mask) * case.x[mixed.partner].float()
        assert torch.allclose(mixed.x.float(), blend, atol=1e-5 if case.x.dtype == torch.float32 else 0.04)


@every_method
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [(16, 16), (16, 24), (20, 12)])
def test_shapes_shares_and_masks(name, preset, branch, batch, size):
    case = Case(name, preset, branch, batch, size)
    for seed in range(3):
        mixed, _, weights = case.mix(seed)
        check(case, mixed, weights)


@every_method
def test_a_batch_of_one_is_left_alone(name, preset, branch):
    case = Case(name, preset, branch, batch=1)
    for seed in range(5):
        mixed, _, weights = case.mix(seed)
        assert torch.equal(mixed.x, case.x) and torch.equal(mixed.weights, torch.ones(1, 1))
        if case.rows_sum_to_one:
            assert torch.allclose(weights, torch.ones(1, 1), atol=1e-7)


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(name, preset, branch, dtype):
    half, full = Case(name, preset, branch, dtype=dtype), Case(name, preset, branch)
    for seed in range(3):
        mixed, _, weights = half.mix(seed)
        check(half, mixed, weights)
        reference = full.mix(seed)[0]
        assert torch.equal(mixed.weights, reference.weights)
        assert torch.allclose(mixed.x.float(), reference.x, atol=0.04)


@every_method
def test_channels_last_stays_channels_last(name, preset, branch):
    case, plain = Case(name, preset, branch, layout=torch.channels_last), Case(name, preset, branch)
    mixed, _, _ = case.mix()
    assert mixed.x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(mixed.x, plain.mix()[0].x)


@every_method
def test_inputs_that_are_views(name, preset, branch):
    whole = torch.randn(12, 3, 16, 32)
    view = whole[::2, :, :, 8:24]
    case, copied = Case(name, preset, branch, images=view), Case(name, preset, branch, images=view.clone())
    case.x = view
    assert torch.equal(case.mix()[0].x, copied.mix()[0].x)


@every_method
def test_the_same_draws_give_the_same_batch_and_other_draws_another(name, preset, branch):
    case = Case(name, preset, branch)
    first, again = case.mix(1), case.mix(1)
    assert torch.equal(first[0].x, again[0].x) and torch.equal(first[2], again[2])
    torch.manual_seed(99)  # no global generator is used
    assert torch.equal(case.mix(1)[0].x, first[0].x)
    if name != "vanilla":
        assert any(not torch.equal(case.mix(seed)[0].x, first[0].x) for seed in range(2, 6))


@every_method
def test_no_global_generator_is_touched(name, preset, branch):
    import random

    import numpy as np

    case = Case(name, preset, branch)
    before = (torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    case.mix()
    assert torch.equal(torch.random.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]


@every_method
def test_nothing_is_modified_in_place(name, preset, branch):
    case = Case(name, preset, branch)
    x, y = case.x.clone(), case.y.clone()
    for seed in range(3):
        ctx = case.context(seed)
        mixed = case.method.mix(ctx, case.x, case.y, case.net)
        out = case.net(mixed.x, attention=case.method.attention)
        seen = [t.detach().clone() for t in (mixed.x, mixed.weights, out.logits, *([out.attention] if case.method.attention else []))]
        case.method.loss(ctx, case.x, case.y, mixed, out, case.net)
        assert torch.equal(case.x, x) and torch.equal(case.y, y)
        after = (mixed.x, mixed.weights, out.logits, *([out.attention] if case.method.attention else []))
        assert all(torch.equal(a, b) for a, b in zip(seen, after, strict=True))


class NoReadback(TorchDispatchMode):
    """Fails when a tensor's value is asked for on the host (item, bool, int, float): on a GPU that waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func) and "nonzero" not in str(func), f"{func} reads from the device"
        return func(*args, **(kwargs or {}))


@every_method
def test_nothing_is_read_back_from_the_device(name, preset, branch, monkeypatch):
    case = Case(name, preset, branch)

    def refuse(*_, **__):
        raise AssertionError("a tensor was brought to the host")

    with NoReadback(), monkeypatch.context() as patch:
        for reader in ("cpu", "numpy", "tolist", "__array__"):
            patch.setattr(torch.Tensor, reader, refuse)
        ctx = case.context()
        mixed = case.method.mix(ctx, case.x, case.y, case.net)
        case.method.loss(ctx, case.x, case.y, mixed, case.net(mixed.x, attention=case.method.attention), case.net)


@every_method
def test_identical_images_stay_as_they_are(name, preset, branch):
    case = Case(name, preset, branch, images=torch.randn(1, 3, 16, 16).expand(5, 3, 16, 16).clone(), batch=5)
    for seed in range(3):
        assert torch.allclose(case.mix(seed)[0].x, case.x, atol=1e-6)


@every_method
def test_equal_labels_make_the_target_independent_of_lambda(name, preset, branch):
    case = Case(name, preset, branch, labels=torch.full((6,), 2))
    for seed in range(3):
        _, _, weights = case.mix(seed)
        target = case.context().target(case.y)
        if case.rows_sum_to_one:
            assert torch.allclose(weights @ target, target, atol=1e-6)


@every_method
def test_renaming_the_classes_changes_nothing(name, preset, branch):
    case, order = Case(name, preset, branch), torch.tensor([3, 0, 4, 1, 2])
    ctx = case.context()
    mixed = case.method.mix(ctx, case.x, case.y, case.net)
    out = case.net(mixed.x, attention=case.method.attention)
    loss = case.method.loss(ctx, case.x, case.y, mixed, out, case.net)
    out.logits = out.logits[:, order.argsort()]  # class k is now called order[k]
    assert case.method.loss(ctx, case.x, order[case.y], mixed, out, case.net).item() == pytest.approx(loss.item(), rel=1e-5)


@every_method
def test_label_shares_carry_no_gradient_unless_asked_to(name, preset, branch):
    case = Case(name, preset, branch)
    ctx = case.context()
    mixed = case.method.mix(ctx, case.x, case.y, case.net)
    weights = case.method.relabel(ctx, mixed, case.y, case.net(mixed.x, attention=case.method.attention))
    assert weights.requires_grad == (not getattr(case.method, "pal_detach", True))


@every_method
def test_batch_norm_statistics_are_left_to_the_training_pass(name, preset, branch):
    case = Case(name, preset, branch)
    if case.method.attention:
        net = models.create("vit_tiny_patch16_224", num_classes=CLASSES, img_size=16, patch_size=PATCH, embed_dim=8, depth=1, num_heads=2)
        net.model.patch_embed.norm = torch.nn.BatchNorm1d(16)  # over the 16 tokens
    else:
        net = TinyCNN(CLASSES)
        if getattr(case.method, "scale", None):
            case.method.cell = 8
    net.train()
    before = copy.deepcopy(dict(net.named_buffers()))
    mixed = case.method.mix(case.context(), case.x, case.y, net)
    assert any("running_mean" in k for k in before)
    assert all(torch.equal(before[k], v) for k, v in net.named_buffers()) and net.training
    counts = [v for k, v in net.named_buffers() if "num_batches" in k]
    train_step(case.context(), net, case.method, case.x, case.y)
    assert [int(v) for v in counts] == [1] * len(counts)  # one pass per step
    assert mixed.x.shape == case.x.shape


def vit(size=(16, 16)):
    torch.manual_seed(0)
    net = models.create("vit_tiny_patch16_224", num_classes=CLASSES, img_size=size, patch_size=PATCH, embed_dim=8, depth=1, num_heads=2)
    return net.train()


@every_method
@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("size", [(16, 16), (16, 24)], ids=["square", "oblong"])
def test_a_training_step_of_a_vit(name, preset, branch, size, amp):
    case, net = Case(name, preset, branch, batch=5, size=size), vit(size)
    losses = []
    for _ in range(2):
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            loss = train_step(case.context(), net, case.method, case.x, case.y)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1] and loss.ndim == 0 and loss.isfinite()
    for parameter in (*net.parameters(), *case.method.parameters()):
        assert parameter.grad is not None and parameter.grad.isfinite().all()


@every_method
def test_a_training_step_of_a_cnn(name, preset, branch):
    case, net = Case(name, preset, branch, batch=5), TinyCNN(CLASSES)
    if case.method.attention:
        pytest.skip("needs class attention")
    if getattr(case.method, "scale", None):
        case.method.cell = 8
    loss = train_step(case.context(), net, case.method, case.x, case.y)
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in net.parameters())


@every_method
def test_half_precision_hardly_moves_the_label_shares(name, preset, branch):
    case, net = Case(name, preset, branch), vit()
    shares = []
    for amp in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            ctx = case.context()
            mixed = case.method.mix(ctx, case.x, case.y, net)
            shares.append(case.method.relabel(ctx, mixed, case.y, net(mixed.x, attention=case.method.attention)))
    assert torch.allclose(*shares, atol=2e-3)


@every_method
def test_training_lowers_the_loss(name, preset, branch):
    case, net = Case(name, preset, branch, batch=8), vit()
    optimizer = torch.optim.AdamW([*net.parameters(), *case.method.parameters()], lr=3e-3)
    losses = []
    for _ in range(12):
        loss = train_step(case.context(), net, case.method, case.x, case.y)  # the same mixed batch each time
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_method
def test_no_wait_for_a_gpu(name, preset, branch):
    case = Case(name, preset, branch, layout=torch.channels_last)
    case.net.cuda()
    case.method.cuda()
    x, y, ctx = case.x.cuda(), case.y.cuda(), case.context()
    train_step(ctx, case.net, case.method, x, y)  # warm-up
    torch.cuda.set_sync_debug_mode("error")
    try:
        mixed = case.method.mix(case.context(), x, y, case.net)
        case.method.loss(case.context(), x, y, mixed, case.net(mixed.x, attention=case.method.attention), case.net)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = case.mix()[0]
    assert torch.allclose(mixed.x.cpu(), expected.x, atol=1e-6) and torch.equal(mixed.weights.cpu(), expected.weights)
    assert mixed.x.is_contiguous(memory_format=torch.channels_last)


# ---- what is written about a method


def test_methods_are_listed_in_alphabetical_order():
    assert list(METHODS) == sorted(METHODS)
    assert len(set(METHODS.values())) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_where_it_comes_from_and_how_it_differs(name):
    text = METHODS[name].__doc__
    assert len(re.findall(r"^ *(?:Differs from|Does not differ from) the paper / the official code\b.+", text, re.M)) == 1
    assert re.search(r"arXiv:\d{4}\.\d{5}|(NeurIPS|ICLR|ICML|CVPR|ICCV|ECCV|AAAI|BMVC) \d{4}", text)
    assert re.search(r"x~.*(=|are)", text)  # its formula in symbols


@pytest.mark.parametrize("name", METHODS)
def test_presets_are_closed(name):
    assert next(iter(METHODS[name].PRESETS)) == "default"
    for preset in METHODS[name].PRESETS:
        create(name, preset)
