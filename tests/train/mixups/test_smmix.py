import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import train_step
from evalkit.train.mixups import from_config
from evalkit.train.mixups.smmix import SMMix, windows

from .fakes import context, own_weight


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Planted:
    """A network of 2-pixel patches whose patch attention and logits for the clean images are planted."""

    patch_size, training = 2, False

    def __init__(self, attention, logits=None):
        self.attention = attention
        self.logits = torch.zeros(len(attention), 3) if logits is None else logits

    def modules(self):
        return [self]

    def patch_attention(self, x):
        return self.logits, self.attention.flatten(1), tuple(self.attention.shape[1:])


def make(depth=1, **arguments):
    torch.manual_seed(0)
    return models.create("vit_nano_patch4_32", num_classes=5, depth=depth, **arguments)


def ready(net):
    torch.manual_seed(1)
    method = SMMix()
    method.setup(net)
    return method


@pytest.mark.parametrize("side", [1, 2, 3])
def test_windows_by_brute_force(side):
    attention = torch.randint(0, 4, (40, 4, 6), generator=torch.Generator().manual_seed(0)).float()  # many ties
    least, most = windows(attention, side)
    for i in range(40):
        # in reading order
        sums = {
            (r, c): attention[i, r : r + side, c : c + side].sum().item()
            for r in range(5 - side)
            for c in range(7 - side)
        }
        assert tuple(least[i].tolist()) == min(sums, key=sums.get) and tuple(most[i].tolist()) == max(
            sums, key=sums.get
        )


def test_a_peak_lies_in_the_window_of_most_attention_and_not_in_that_of_least():
    for peak in range(30):
        attention = torch.zeros(1, 5, 6)
        attention.view(-1)[peak] = 1
        least, most = windows(attention, 2)
        row, column = divmod(peak, 6)
        assert most[0, 0] <= row < most[0, 0] + 2 and most[0, 1] <= column < most[0, 1] + 2
        assert not (least[0, 0] <= row < least[0, 0] + 2 and least[0, 1] <= column < least[0, 1] + 2)
    assert [w[0].tolist() for w in windows(torch.ones(1, 7, 7), 3)] == [[0, 0], [0, 0]]  # all are equal: the first


@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_window_is_pasted_bit_for_bit(side):
    attention, x = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(2)), images(5, 3, 8, 12)
    partner = [3, 0, 2, 1, 4]  # images 2 and 4 with themselves
    mixed = SMMix().mix(context(draws={"side": side, "partner": partner}), x, torch.arange(5), Planted(attention))
    expected, mask = x.clone(), torch.ones(5, 1, 8, 12)
    for i, j in enumerate(partner):
        sums = [
            {
                (r, c): attention[k, r : r + side, c : c + side].sum().item()
                for r in range(5 - side)
                for c in range(7 - side)
            }
            for k in (i, j)
        ]
        (r, c), (r1, c1) = min(sums[0], key=sums[0].get), max(sums[1], key=sums[1].get)
        if i != j:
            expected[i, :, 2 * r : 2 * (r + side), 2 * c : 2 * (c + side)] = x[
                j, :, 2 * r1 : 2 * (r1 + side), 2 * c1 : 2 * (c1 + side)
            ]
        mask[i, 0, 2 * r : 2 * (r + side), 2 * c : 2 * (c + side)] = 0
    assert torch.equal(mixed.x, expected) and torch.equal(mixed.mask, mask) and torch.equal(mixed.x[[2, 4]], x[[2, 4]])
    own, _ = mixed.state
    assert torch.equal(own, mask[:, 0, ::2, ::2].flatten(1) > 0) and (own.sum(1) == 24 - side**2).all()
    lam = own_weight(mixed.weights)
    assert torch.allclose(
        lam, torch.tensor([1 - side**2 / 24] * 5).masked_fill(torch.tensor([0, 0, 1, 0, 1]).bool(), 1.0)
    )


def test_the_loss_term_by_term():
    net = make(reg_tokens=2).eval()
    method, x, y = ready(net), images(4, 3, 32, 32), torch.tensor([0, 3, 3, 4])
    ctx = context(smoothing=0.1, draws={"side": 3, "partner": [3, 2, 1, 0]})
    mixed = method.mix(ctx, x, y, net)
    z0, _, _ = net.patch_attention(x)
    out = net(mixed.x, features=True)
    target, lam, own = ctx.target(y), 1 - 9 / 64, mixed.state[0]
    log_p = out.logits.log_softmax(1)
    expected = 0.0
    for i, j in enumerate([3, 2, 1, 0]):
        expected -= ((lam * target[i] + (1 - lam) * target[j]) * log_p[i]).sum() / 4
        tokens = out.features[i, 3:]  # after the class token and two registers
        for chosen, label in ((own[i], i), (~own[i], j)):
            logits = F.linear(tokens[chosen].mean(0), method.head.weight, method.head.bias)
            expected -= 0.5 * (target[label] * logits.log_softmax(0)).sum() / 4
        p = (lam * z0[i] + (1 - lam) * z0[j]).softmax(0)
        expected += (p * (p.log() - log_p[i])).sum() / 4
    assert train_step(ctx, net, method, x, y).item() == pytest.approx(expected.item(), rel=1e-5)
    assert own.sum(1).tolist() == [55] * 4 and own_weight(mixed.weights).tolist() == pytest.approx([lam] * 4)


def test_gradients_reach_the_head_and_not_the_clean_pass():
    net = make().train()
    method = ready(net)
    ctx = context(draws={"side": 4})
    mixed = method.mix(ctx, images(2, 3, 32, 32), torch.arange(2), net)
    assert not mixed.state[1].requires_grad
    train_step(ctx, net, method, images(2, 3, 32, 32), torch.arange(2)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters()) and all(
        p.grad is not None for p in net.parameters()
    )
    weight, bias = method.param_groups()
    assert weight["params"] == [method.head.weight] and bias == {"params": [method.head.bias], "weight_decay": 0.0}
    assert set(method.state_dict()) == {"head.weight", "head.bias"}


def test_the_clean_pass_is_in_evaluation_mode():
    net = make(drop_rate=0.9, drop_path_rate=0.9).train()
    method, x = ready(net), images(3, 3, 32, 32)
    ctx = context(draws={"side": 2})
    first, second = method.mix(ctx, x, torch.arange(3), net), method.mix(ctx, x, torch.arange(3), net)
    assert (
        torch.equal(first.state[1], second.state[1])
        and torch.equal(first.x, second.x)
        and all(m.training for m in net.modules())
    )
    expected = net.eval()(x).logits
    assert torch.allclose(first.state[1], 0.9375 * expected + 0.0625 * expected.flip(0), atol=1e-5)


@pytest.mark.parametrize(
    ("grid", "sides"), [(14, range(3, 11)), (7, range(1, 6)), (4, range(1, 4)), (3, range(1, 3)), (1, range(1, 2))]
)
def test_sides_of_the_window(grid, sides):
    net, x, drawn = Planted(torch.rand(2, grid, grid + 1)), images(2, 3, 2 * grid, 2 * grid + 2), set()
    for seed in range(200):
        mixed = SMMix().mix(context(seed=seed), x, torch.arange(2), net)
        count = int((~mixed.state[0][0]).sum())
        assert own_weight(mixed.weights)[0].item() == pytest.approx(1 - count / (grid * (grid + 1)))
        drawn.add(round(count**0.5))
    assert drawn == set(sides)


def test_pvt_has_a_coarse_grid():
    torch.manual_seed(0)
    net = models.create("pvt_tiny", num_classes=3, img_size=64)
    method, x = ready(net), images(2, 3, 64, 64)
    mixed = method.mix(context(draws={"side": 1}), x, torch.arange(2), net)
    assert mixed.mask.shape == (2, 1, 64, 64) and (mixed.mask == 0).sum((1, 2, 3)).tolist() == [32 * 32] * 2
    assert train_step(context(3), net, method, x, torch.arange(2)).isfinite()


def test_the_published_switch():
    choice = from_config(
        {"choice": [{"name": "smmix", "prob": 0.5}, {"name": "mixup", "alpha": 0.8, "pairing": "flip", "prob": 0.5}]}
    )
    choice.setup(make())
    assert len(choice.param_groups()) == 2 and set(choice.state_dict()) == {
        "methods.0.head.weight",
        "methods.0.head.bias",
    }
    assert not choice.attention and choice.features


@pytest.mark.parametrize("name", ["resnet10_cifar", "xcit_nano_12_p16_224", "swin_tiny_patch4_window7_224"])
def test_networks_without_attention_among_patches_are_refused(name):
    with pytest.raises(EvalkitError, match="class attention|patches do not attend"):
        ready(models.create(name, num_classes=2, **({"depth": 1} if "xcit" in name else {})))


def test_images_that_are_no_whole_patches_are_refused():
    net = make(dynamic_img_size=True, dynamic_img_pad=True)
    method = ready(net)
    with pytest.raises(
        EvalkitError, match="smmix needs images of whole patches, but 30 x 32 pixels are no multiples of 4"
    ):
        method.mix(context(), images(2, 3, 30, 32), torch.arange(2), net)


def test_compiled_after_setup():
    """The pass for the attention is not compiled, and what it needs is installed before."""
    net = make()
    method = ready(net)
    net.compile(backend="eager")
    assert train_step(context(), net, method, images(2, 3, 32, 32), torch.arange(2)).isfinite()
    assert np.isfinite(method.mix(context(), images(2, 3, 32, 32), torch.arange(2), net).x.numpy()).all()
    torch._dynamo.reset()


DIFFERS = """
an image paired with itself, which stays as it is
= ::test_the_window_is_pasted_bit_for_bit | golden:smmix
there such a batch is refused.
= read: ChenMnZ/SMMix, smmix.py: __call__
"""
