import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import train_step
from evalkit.train.mixups.mixtoken import MixToken, swap
from evalkit.train.mixups.parts.boxes import paste_box

from .fakes import context, own_weight


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return models.create("vit_nano_patch4_32", num_classes=5).eval()


@pytest.mark.parametrize("batch", [4, 5])
def test_is_cutmix_of_whole_patches(vit, batch):
    """Patches that do not overlap: pasting embeddings is embedding pasted patches."""
    x, y, flip = images(batch, 3, 32, 32), torch.arange(batch) % 5, torch.arange(batch).flip(0)
    for box in [(0, 3, 2, 8), (2, 2, 0, 8), (1, 7, 0, 4)]:
        mixed = MixToken().mix(context(draws={"box": box}), x, y, vit)
        pasted = paste_box(x, flip, tuple(4 * e for e in box))
        with torch.no_grad():
            assert torch.allclose(vit(mixed.x, inject=mixed.inject).logits, vit(pasted.x).logits, atol=1e-5)
        assert (
            torch.equal(mixed.weights, pasted.weights)
            and torch.equal(mixed.mask, pasted.mask)
            and torch.equal(mixed.x, x)
        )
        assert torch.equal(mixed.partner, flip)


def test_an_image_that_is_not_square():
    torch.manual_seed(1)
    net = models.create("vit_nano_patch4_32", num_classes=5, img_size=(16, 40)).eval()
    x = images(2, 3, 16, 40)
    mixed = MixToken().mix(context(draws={"box": (1, 3, 4, 10)}), x, torch.arange(2), net)
    pasted = paste_box(x, torch.tensor([1, 0]), (4, 12, 16, 40))
    with torch.no_grad():
        assert torch.allclose(net(mixed.x, inject=mixed.inject).logits, net(pasted.x).logits, atol=1e-5)
    assert torch.equal(mixed.mask, pasted.mask)


def test_swin_keeps_its_tokens_on_a_grid():
    torch.manual_seed(2)
    net = models.create(
        "swin_tiny_patch4_window7_224", num_classes=3, img_size=64, window_size=2, depths=(1, 1, 1, 1)
    ).eval()
    x = images(2, 3, 64, 64)
    mixed = MixToken().mix(context(draws={"box": (2, 9, 5, 16)}), x, torch.arange(2), net)
    with torch.no_grad():
        expected = net(paste_box(x, torch.tensor([1, 0]), (8, 36, 20, 64)).x).logits
        assert torch.allclose(net(mixed.x, inject=mixed.inject).logits, expected, atol=1e-5)


def test_undoing_the_mix():
    tokens, inside = images(5, 6, 7), torch.tensor([1, 0, 0, 1, 1, 0]).bool().reshape(2, 3, 1)
    assert torch.equal(swap(swap(tokens, inside), inside), tokens) and not torch.equal(swap(tokens, inside), tokens)
    assert torch.equal(swap(tokens.unflatten(1, (2, 3)), inside).flatten(1, 2), swap(tokens, inside))


def test_the_label_counts_tokens(vit):
    ctx, lam = context(seed=1), []
    for _ in range(300):
        mixed = MixToken().mix(ctx, images(2, 3, 32, 32), torch.arange(2), vit)
        lam.append(own_weight(mixed.weights)[0].item())
        assert lam[-1] * 64 == pytest.approx(round(lam[-1] * 64), abs=1e-4) and lam[-1] == pytest.approx(
            mixed.mask.mean().item(), abs=1e-6
        )
    assert len(set(lam)) > 10 and min(lam) >= 0 and max(lam) == 1


def test_a_batch_of_one_and_half_precision(vit):
    x = images(1, 3, 32, 32)
    mixed = MixToken().mix(context(draws={"box": (0, 4, 0, 4)}), x, torch.arange(1), vit)
    with torch.no_grad():
        assert torch.equal(vit(mixed.x, inject=mixed.inject).logits, vit(x).logits) and mixed.weights.tolist() == [
            [1.0]
        ]
    assert mixed.inject[1](images(1, 64, 8).bfloat16()).dtype == torch.bfloat16


def test_nothing_is_read_back_from_the_device(vit):
    mixed = MixToken().mix(context(), torch.empty(4, 3, 32, 32, device="meta"), torch.empty(4, device="meta"), vit)
    assert {
        mixed.weights.device.type,
        mixed.mask.device.type,
        mixed.inject[1](torch.empty(4, 64, 8, device="meta")).device.type,
    } == {"meta"}


def test_the_dense_loss_by_hand():
    torch.manual_seed(3)
    net, x, y = models.create("vit_nano_patch4_32", num_classes=5).eval(), images(3, 3, 32, 32), torch.tensor([0, 3, 4])
    method, ctx = MixToken(dense_weight=0.5), context(smoothing=0.1, draws={"box": (2, 6, 0, 8)})
    method.setup(net)
    mixed = method.mix(ctx, x, y, net)
    out = net(mixed.x, inject=mixed.inject, features=True)
    target, dense = ctx.target(y), 0.0
    for i in range(3):
        for token in range(64):
            # rows 2 to 5: what was pasted into the other image is the token of this one
            source = 2 - i if 16 <= token < 48 else i
            logits = F.linear(out.features[source, 1 + token], method.head.weight, method.head.bias)
            dense -= (target[i] * logits.log_softmax(0)).sum() / (3 * 64)
    expected = ctx.criterion(out.logits, mixed.weights @ target) + 0.5 * dense
    assert train_step(ctx, net, method, x, y).item() == pytest.approx(expected.item(), rel=1e-5)
    weight, bias = method.param_groups()
    assert weight["params"] == [method.head.weight] and bias == {"params": [method.head.bias], "weight_decay": 0.0}
    assert method.eval_network(net) is net and not {id(p) for p in method.parameters()} & {
        id(p) for p in net.parameters()
    }
    assert method.features is True and MixToken().features is False and MixToken().param_groups() == []


def test_statistics_of_the_box(vit):
    """alpha = 1 on the 8 x 8 grid: lambda is the mean share of CutMix at 8 pixels, simulated here box by box."""
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(20000):
        cut, centre = int(8 * np.sqrt(1 - rng.random())) // 2, rng.integers(8, size=2)
        sides = np.minimum(centre + cut, 8) - np.maximum(centre - cut, 0)
        expected.append(1 - sides.prod() / 64)
    ctx, x = context(seed=2), images(2, 3, 32, 32)
    lam = [own_weight(MixToken().mix(ctx, x, torch.arange(2), vit).weights)[0].item() for _ in range(3000)]
    assert np.mean(lam) == pytest.approx(np.mean(expected), abs=4 * np.std(lam) * np.sqrt(1 / 3000 + 1 / 20000))


def test_errors(vit):
    cnn = models.create("resnet10_cifar", num_classes=3)
    with pytest.raises(EvalkitError, match="starts with patch embeddings"):
        MixToken().mix(context(), images(2, 3, 32, 32), torch.arange(2), cnn)
    with pytest.raises(EvalkitError, match="starts with patch embeddings"):
        MixToken().setup(cnn)  # before training asks the network for the layer
    swin = models.create("swin_tiny_patch4_window7_224", num_classes=3, img_size=64, window_size=2, depths=(1, 1, 1, 1))
    method = MixToken(dense_weight=1.0)
    method.setup(swin)
    with pytest.raises(EvalkitError, match="set dense_weight=0"):
        train_step(context(3), swin, method, images(2, 3, 64, 64), torch.arange(2))
    with pytest.raises(ValueError, match="`dense_weight` to be a number of at least 0"):
        MixToken(dense_weight=-1)


DIFFERS = """
the dense targets, the image's label in every patch
= ::test_the_dense_loss_by_hand
(the paper has a machine annotator's score maps; this is its code without them)
= golden:mixtoken
at test time, where the auxiliary head is left out.
= ::test_the_dense_loss_by_hand
"""
