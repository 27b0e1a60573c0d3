import pytest
import torch

from evalkit import models
from evalkit.train import create, train_step
from evalkit.train.losses import soft_cross_entropy
from evalkit.train.mixups.parts.boxes import align_box
from evalkit.train.mixups.parts.labels import attention_weights

from .fakes import FakeNet, FakeOutput, TinyAttention, context, index_images, own_weight

# a 4 x 4 image of 2 x 2 patches; 0.2 of the attention is on the class token
A = torch.tensor([[0.1, 0.4, 0.2, 0.1]] * 2)
LABELS = torch.tensor([0, 1])


def relabel(method, box, attention=A, grid=(2, 2), size=(4, 4), smoothing=0.0):
    ctx = context(4, smoothing=smoothing, draws={"box": box, "partner": [1, 0]})
    mixed = method.mix(ctx, index_images(2, *size), LABELS, FakeNet(2))
    weights = method.relabel(ctx, mixed, LABELS, FakeOutput(torch.zeros(2, 4), attention, grid))
    return ctx, mixed, weights


@pytest.mark.parametrize(
    ("box", "area", "attention", "expected"),
    [
        ((0, 2, 2, 4), 0.75, 0.5, 0.625),  # one whole patch
        ((1, 3, 1, 3), 0.75, 0.875, 0.8125),  # the top-left pixel of the last patch only
        ((1, 2, 1, 2), 0.9375, 1.0, 0.96875),  # no patch's top-left pixel
        ((0, 3, 0, 3), 0.4375, 0.0, 0.21875),  # every patch's top-left pixel
    ],
)
def test_worked_examples(box, area, attention, expected):
    _, mixed, weights = relabel(create("transmix"), box)
    assert own_weight(mixed.weights)[0].item() == pytest.approx(area, abs=1e-7)
    assert own_weight(attention_weights(mixed, FakeOutput(None, A, (2, 2))))[0].item() == pytest.approx(
        attention, abs=1e-7
    )
    assert torch.allclose(weights, torch.tensor([[expected, 1 - expected], [1 - expected, expected]]), atol=1e-7)


def test_the_smoothed_target_of_the_first_example():
    ctx, _, weights = relabel(create("transmix"), (0, 2, 2, 4), smoothing=0.1)
    assert torch.allclose((weights @ ctx.target(LABELS))[0], torch.tensor([0.5875, 0.3625, 0.025, 0.025]), atol=1e-7)


def test_the_literal_formula_gives_the_class_tokens_share_to_the_partner():
    _, _, weights = relabel(create("transmix", "paper"), (0, 2, 2, 4))
    assert torch.allclose(weights, torch.tensor([[0.4, 0.6], [0.6, 0.4]]), atol=1e-7)


def test_ratio_one_is_attention_and_zero_is_cutmix():
    _, mixed, weights = relabel(create("transmix", attn_ratio=0), (0, 2, 2, 4))
    assert torch.equal(weights, mixed.weights)
    assert own_weight(relabel(create("transmix", attn_ratio=1), (0, 2, 2, 4))[2])[0].item() == pytest.approx(0.5)


def test_area_downsampling_counts_every_pixel():
    # a quarter of each patch is pasted, so a quarter of the attention is
    _, _, weights = relabel(create("transmix", attn_ratio=1, mask_down="area"), (1, 3, 1, 3))
    assert own_weight(weights)[0].item() == pytest.approx(0.75)


def test_uniform_attention_on_whole_patches_is_the_area():
    uniform = torch.full((2, 12), 1 / 13)
    for box in [(0, 2, 0, 8), (2, 6, 4, 6), (4, 4, 0, 8)]:
        _, mixed, weights = relabel(create("transmix"), box, uniform, (3, 4), (6, 8))
        assert torch.allclose(weights, mixed.weights, atol=1e-6)


def test_per_sample_shares():
    attention = torch.tensor([[0.1, 0.4, 0.2, 0.1], [0.1, 0.1, 0.1, 0.5]])
    _, _, weights = relabel(create("transmix", attn_ratio=1), (0, 2, 2, 4), attention)
    assert torch.allclose(own_weight(weights), torch.tensor([0.5, 0.875]))


def test_complementary_masks_swap_the_shares():
    own = relabel(create("transmix"), (0, 4, 0, 2))[2]  # left half pasted
    other = relabel(create("transmix"), (0, 4, 2, 4))[2]  # right half pasted
    assert torch.allclose(own_weight(own), 1 - own_weight(other), atol=1e-7)


def test_no_attention_on_any_patch_gives_finite_labels():
    _, _, weights = relabel(create("transmix"), (0, 2, 2, 4), torch.zeros(2, 4))
    assert weights.isfinite().all() and (weights >= 0).all()


def test_the_aligned_variant_moves_the_box():
    _, mixed, weights = relabel(create("transmix", aligned=True), (1, 3, 0, 1))
    # edges 1, 3, 0, 1 with patches of 2: 2, 4, 0, 2, the third patch
    assert mixed.mask.flatten(1).tolist() == [[1] * 8 + [0, 0, 1, 1] * 2] * len(mixed.x)
    assert own_weight(weights)[0].item() == pytest.approx((0.75 + 0.6 / 0.8) / 2)


def test_rounding_of_the_aligned_box():
    assert align_box((7, 100, 9, 120), 16, 224, 224) == (0, 96, 16, 128)
    assert align_box((8, 24, 0, 224), 16, 224, 224) == (16, 32, 0, 224)  # halves go up
    assert align_box((0, 40, 3, 38), 16, 40, 40) == (0, 40, 0, 32)  # the image's own border is no patch border


def rolled(net, x, residual):
    """(B, N) row of the class token in the product of the attention matrices, from the un-fused modules."""
    seen, handles = [], []
    for block in net.model.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_pre_hook(lambda m, args: seen.append(args[0].mean(1))))
    net.model(x)
    for block, handle in zip(net.model.blocks, handles, strict=True):
        block.attn.fused_attn = True
        handle.remove()
    row = torch.eye(seen[0].shape[1])[:1].expand(len(x), 1, -1)
    for a in reversed(seen):  # from the left: the row of the class token only
        row = (row + row @ a) / 2 if residual else row @ a
    return row[:, 0, net.model.num_prefix_tokens :]


@pytest.mark.parametrize(
    "arguments", [{}, {"normalize_attn": False}, {"rollout_residual": False}, {"mask_down": "area"}]
)
def test_rollout_weighs_by_the_product_of_all_blocks(arguments):
    torch.manual_seed(0)
    net = models.create("vit_nano_patch4_32", num_classes=5, depth=3).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.15 * torch.randn_like(p))
    method, x, y = create("transmix", attn_depth="rollout", **arguments), torch.randn(4, 3, 32, 32), torch.arange(4)
    ctx = context(draws={"box": (3, 17, 6, 30)})
    mixed = method.mix(ctx, x, y, net)
    with torch.no_grad():
        weights = method.relabel(ctx, mixed, y, net(mixed.x, attention=method.attention))
        a = rolled(net, mixed.x, arguments.get("rollout_residual", True))
    own = mixed.mask[:, 0].unfold(1, 4, 4).unfold(2, 4, 4)
    own = (own.mean((3, 4)) if "mask_down" in arguments else own[..., 0, 0]).flatten(1)
    total = a.sum(1) if arguments.get("normalize_attn", True) else 1
    share = (own * a).sum(1) / total
    area = 1 - 14 * 24 / 1024
    assert torch.allclose(own_weight(weights), (share + area) / 2, atol=1e-6)
    assert torch.allclose(weights.flip(1).diagonal(), (1 - share + 1 - area) / 2, atol=1e-6)
    assert share.std() > 1e-4


def test_the_gradient_is_that_of_a_fixed_target():
    torch.manual_seed(0)
    net, x, y = TinyAttention(), torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    method, draws = create("transmix"), {"box": (0, 4, 3, 8)}
    ctx = context(draws=draws)
    train_step(ctx, net, method, x, y).backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    mixed = method.mix(ctx, x, y, net)
    out = net(mixed.x, attention=True)
    target = method.relabel(ctx, mixed, y, out) @ ctx.target(y)
    assert not target.requires_grad
    assert not torch.allclose(target, mixed.weights @ ctx.target(y), atol=1e-3)
    soft_cross_entropy(net(mixed.x).logits, target).backward()
    for a, p in zip(got, net.parameters(), strict=True):
        assert torch.allclose(a, p.grad, atol=1e-7)


def test_the_attention_asked_for():
    assert create("transmix").attention is True
    assert create("transmix", attn_depth=3).attention == 3
    assert create("transmix", attn_depth="rollout").attention == "rollout"


def test_presets_differ_only_by_the_documented_flags():
    def flags(preset):
        return {k: v for k, v in vars(create("transmix", preset)).items() if not k.startswith("_")}

    assert flags("released") == flags("default")
    assert {k for k in flags("aligned") if flags("aligned")[k] != flags("default")[k]} == {"aligned"}
    assert {k for k in flags("paper") if flags("paper")[k] != flags("default")[k]} == {"attn_ratio", "normalize_attn"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("attn_ratio", 1.5, "a number from 0 to 1"),
        ("attn_depth", 0, "the number of a block"),
        ("mask_down", "bilinear", "'nearest' or 'area'"),
        ("normalize_attn", "yes", "true or false"),
        ("aligned", 1, "true or false"),
    ],
)
def test_wrong_values(key, value, said):
    with pytest.raises(ValueError, match=f"Expected argument `{key}` to be {said}.*but got {value!r}"):
        create("transmix", **{key: value})


DIFFERS = """
nothing by default: the mean of both labels and the division by sum A follow the code and the text
= ::test_worked_examples | golden:transmix
the preset "paper" follows the formula.
= ::test_the_literal_formula_gives_the_class_tokens_share_to_the_partner
With "rollout", whose residual the paper does not mention, it is as in the cited work.
= ::test_rollout_weighs_by_the_product_of_all_blocks
"""
