"""The same matrix of methods in training steps of a ViT and a CNN."""

import copy

import pytest
import torch

from evalkit.train import METHODS, train_step
from evalkit.train.fsdp import PASSES

from .mixup_cases import Case, every_method, make_cnn, make_vit


def vit_with_batch_norm():
    net = make_vit(dynamic_img_size=False)
    net.model.patch_embed.norm = torch.nn.BatchNorm1d(16)  # over the 16 tokens
    return net


def needs_vit(name, preset, branch):
    return METHODS[name].takes == "vit" or Case(name, preset, branch).method.attention


def count_passes(net) -> tuple[list, list]:
    """Two lists that grow by one with every whole pass of a network, and with every run of its first layer."""
    passes, first = [], []
    for name in ("forward", *PASSES):

        def counted(*args, _pass=getattr(net, name), **kwargs):
            passes.append(1)
            return _pass(*args, **kwargs)

        setattr(net, name, counted)
    layer = next(m for m in net.model.modules() if not list(m.children()) and list(m.parameters()))
    layer.register_forward_hook(lambda *_: first.append(1))
    return passes, first


@every_method
def test_batch_norm_statistics_are_left_to_the_training_pass(name, preset, branch):
    case = Case(name, preset, branch, net=vit_with_batch_norm if needs_vit(name, preset, branch) else make_cnn)
    before = copy.deepcopy(dict(case.net.named_buffers()))
    case.method.mix(case.context(), case.x, case.y, case.net)
    assert any("running_mean" in k for k in before)
    assert all(torch.equal(before[k], v) for k, v in case.net.named_buffers()) and all(
        m.training for m in case.net.modules()
    )
    counts = [v for k, v in case.net.named_buffers() if "num_batches" in k]
    passes, first = count_passes(case.net)
    train_step(case.context(), case.net, case.method, case.x, case.y)
    assert [int(v) for v in counts] == [case.method.training_passes] * len(counts)
    own = "layers" if len(first) > len(passes) else "whole" if len(passes) > 1 else "none"
    assert case.method.own_passes == own


@every_method
@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("size", [(16, 16), (16, 24)], ids=["square", "oblong"])
def test_a_training_step_of_a_vit(name, preset, branch, size, amp):
    if "oblong" in METHODS[name].exempt and size[0] != size[1]:
        pytest.skip("its grids divide square images only")
    if METHODS[name].takes == "cnn":
        pytest.skip(f"needs {METHODS[name].needs}")
    case = Case(name, preset, branch, batch=5, size=size, net=make_vit)
    losses = []
    for _ in range(2):
        case.net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            loss = train_step(case.context(), case.net, case.method, case.x, case.y)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1] and loss.ndim == 0 and loss.isfinite()
    for parameter in (*case.net.parameters(), *case.method.parameters()):
        assert parameter.grad is None if not parameter.requires_grad else parameter.grad.isfinite().all()


@every_method
def test_a_training_step_of_a_cnn(name, preset, branch):
    if needs_vit(name, preset, branch):
        pytest.skip("needs class attention or patch embeddings")
    case = Case(name, preset, branch, batch=5, net=make_cnn)
    loss = train_step(case.context(), case.net, case.method, case.x, case.y)
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in case.net.parameters())


@every_method
def test_half_precision_hardly_moves_the_label_shares(name, preset, branch):
    case = Case(name, preset, branch)
    shares = []
    for amp in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            shares.append(case.mix()[2])
    assert torch.allclose(*shares, atol=2e-3)


@every_method
def test_training_lowers_the_loss(name, preset, branch):
    case = Case(name, preset, branch, batch=8, net=make_vit)
    optimizer = torch.optim.AdamW([*case.net.parameters(), *case.method.parameters()], lr=3e-3)
    losses = []
    for _ in range(12):
        loss = train_step(case.context(), case.net, case.method, case.x, case.y)  # the same draws each time
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02


def on_gpu(case):
    """The case with its network, method and batch on the GPU."""
    case.net.cuda()
    case.method.cuda()
    case.x, case.y = case.x.cuda(), case.y.cuda()
    return case


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_method
def test_no_wait_for_a_gpu(name, preset, branch):
    if METHODS[name].waits:
        pytest.skip(f"{name} {METHODS[name].waits}")
    expected = Case(name, preset, branch, layout=torch.channels_last, net=make_vit).mix()[0]
    case = on_gpu(Case(name, preset, branch, layout=torch.channels_last, net=make_vit))
    ctx = case.context()
    for mode in ("default", "error"):  # a warm-up first
        torch.cuda.set_sync_debug_mode(mode)
        try:
            mixed = case.method.mix(ctx, case.x, case.y, case.net)
            case.method.loss(ctx, case.x, case.y, mixed, case.forward(mixed), case.net)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert mixed.x.shape == expected.x.shape and mixed.x.is_contiguous(memory_format=torch.channels_last)
    # whose choices follow a network's gradients, which differ in the last bits
    if "gradients" not in METHODS[name].needs:
        fresh = on_gpu(Case(name, preset, branch, layout=torch.channels_last, net=make_vit))  # no statistics moved yet
        again = fresh.method.mix(fresh.context(), fresh.x, fresh.y, fresh.net)
        assert torch.allclose(again.x.cpu(), expected.x, atol=1e-5)
        # a network's convolutions are rounded to TF32 on a GPU, and shares follow its features
        assert torch.allclose(again.weights.cpu(), expected.weights, atol=2e-3 if METHODS[name].needs else 1e-6)
