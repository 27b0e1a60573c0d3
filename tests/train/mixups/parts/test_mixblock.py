import numpy as np
import pytest
import torch

from evalkit.train.mixups.adautomix import GeneratorBlock
from evalkit.train.mixups.parts.mixblock import MixBlock, SAMixBlock, attend, lam_curve

from ..learned_fakes import attend64, batch_norm64, conv64, enlarge


def maps(batch=3, channels=6, h=2, w=3, seed=0):
    return torch.randn(batch, channels, h, w, generator=torch.Generator().manual_seed(seed))


def flat(z):
    return z.double().numpy().reshape(*z.shape[:2], -1)


def channel(z, lam):
    """With lambda as a last channel."""
    return np.concatenate([z, np.full((1, z.shape[1]), lam)])


def test_by_hand():
    """Two positions, one channel: P = [[.268941, .731059], [.5, .5]], v = (-1, 1), P v = (.462117, 0)."""
    block = MixBlock(1, lam_embed=False)
    with torch.no_grad():
        block.theta[0].weight.fill_(1)
        block.theta[0].bias.zero_()
        block.value.weight.fill_(2)
        block.value.bias.fill_(-1)
    own, other = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    logits = block(own, other, 0.8)
    assert logits.flatten().tolist() == pytest.approx([0.462117, 0], abs=1e-6)
    assert logits.sigmoid().flatten().tolist() == pytest.approx([0.613516, 0.5], abs=1e-6)


@pytest.mark.parametrize("norm", ["none", "bn", "ln"])
@pytest.mark.parametrize("lam_embed", [True, False])
def test_automix_block_against_numpy(lam_embed, norm):
    block = MixBlock(6, lam_embed, norm)
    enlarge(block)
    own, other = maps(), maps(seed=1)
    a, b = flat(own), flat(other)
    if lam_embed:
        a, b = np.stack([channel(z, 0.3) for z in a]), np.stack([channel(z, 0.7) for z in b])
    query, key = (np.stack([conv64(block.theta[0], z) for z in zs]) for zs in (a, b))
    assert (block.theta[0].bias is None) == (norm != "none") and query.shape[1] == 3
    if norm == "bn":
        query, key = batch_norm64(block.theta[1], query), batch_norm64(block.theta[1], key)
    if norm == "ln":
        weight, bias = (
            p.detach().double().numpy()[None, :, None] for p in (block.theta[1].weight, block.theta[1].bias)
        )
        query, key = (
            (q - q.mean(1, keepdims=True)) / np.sqrt(q.var(1, keepdims=True) + 1e-6) * weight + bias
            for q in (query, key)
        )
    expected = [attend64(query[i], key[i], conv64(block.value, b[i])) for i in range(3)]
    for training in (True, False):  # batch norm normalises by the batch in evaluation too
        found = block.train(training)(own, other, 0.3)
        assert np.allclose(found.detach().numpy().reshape(3, -1), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [-1, 0.25])
def test_samix_block_against_numpy(shape):
    block = SAMixBlock(6, shape)
    enlarge(block)
    own, other, lam = maps(), maps(seed=1), 0.1
    curved = 0.1 if shape < 0 else 0.1822857142857143  # (4/3 .001 - 2 .01 + 1.25 .1) / (.25 + 1/3)
    keep = torch.tensor([0.0, 1.25, 1.25]).view(3, 1, 1, 1).expand(3, 1, 2, 3)
    a, b = flat(own) * (1 + curved), flat(other) * (1 + 1 - curved)
    both = np.concatenate([a, b], 1)
    hidden = batch_norm64(block.value[1], np.stack([conv64(block.value[0], z) for z in b]))
    hidden = np.where(hidden > 0, hidden, np.exp(np.minimum(hidden, 0)) - 1)
    assert block.value[0].bias is None and block.value[3].bias is None
    for dropped, factors in ((None, [1, 1, 1]), (keep, [0, 1.25, 1.25])):
        expected = [
            attend64(
                conv64(block.query[0], both[i]),
                conv64(block.key[0], both[i]),
                conv64(block.value[3], hidden[i]) * factors[i],
            )
            for i in range(3)
        ]
        assert np.allclose(block(own, other, lam, dropped).detach().numpy().reshape(3, -1), expected, atol=1e-5)


@pytest.mark.parametrize("lam_embed", [True, False])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_generator_against_numpy(n, lam_embed):
    block = GeneratorBlock(6, lam_embed)
    enlarge(block)
    lams = [0.1, 0.2, 0.3, 0.4][:n] if n > 2 else [0.3, 0.7]
    zs = [maps(seed=j) for j in range(n)]
    logits = block(zs, lams).detach().numpy().reshape(3, n, -1)
    for i in range(3):
        of = [channel(flat(z)[i], lam) if lam_embed else flat(z)[i] for z, lam in zip(zs, lams)]
        for j in range(n):
            # as the code has it, a ReLU follows both projections
            others = sum(np.maximum(conv64(block.key[0], of[k]), 0) for k in range(n) if k != j)
            query = np.maximum(conv64(block.query[0], of[j]), 0)
            assert np.allclose(logits[i, j], attend64(query, others, conv64(block.value, of[j])), atol=1e-5)


def test_the_lambda_curve():
    points = {0: 0, 0.1: 0.18229, 0.25: 0.35714, 0.5: 0.5, 0.75: 0.64286, 1: 1}
    assert [lam_curve(lam, 0.25) for lam in points] == pytest.approx(list(points.values()), abs=5e-6)
    for k in (0, 0.25, 1):
        assert all(lam_curve(lam, k) + lam_curve(1 - lam, k) == pytest.approx(1) for lam in np.linspace(0, 1, 11))
    assert lam_curve(0.3, -1) == 0.3


@pytest.mark.parametrize("block", [MixBlock(16), MixBlock(16, norm="bn"), SAMixBlock(16), GeneratorBlock(16)])
def test_the_start(block):
    """Convolutions from N(0, 0.01^2), biases 0: the first masks are close to one half."""
    weights = torch.cat([m.weight.flatten() for m in block.modules() if isinstance(m, torch.nn.Conv2d)]).detach()
    assert weights.std().item() == pytest.approx(0.01, rel=0.3) and abs(weights.mean().item()) < 0.003
    assert all((m.bias == 0).all() for m in block.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None)
    z = maps(4, 16)
    logits = block([z, z.flip(0)], [0.4, 0.6]) if isinstance(block, GeneratorBlock) else block(z, z.flip(0), 0.4)
    assert (logits.sigmoid() - 0.5).abs().max() < 0.05


def test_zero_weights_give_one_half():
    block = MixBlock(4)
    enlarge(block, factor=0.0)
    assert (block(maps(2, 4), maps(2, 4, seed=1), 0.9).sigmoid() == 0.5).all()


def test_infinite_scores_stay_finite():
    """Features of 1e20 have scores of 1e40, infinity in float32."""
    z = torch.full((1, 4, 1, 2), 1e20)
    z[..., 1] = -1e20
    out = attend(z, z, torch.tensor([3.0, 7.0]).view(1, 1, 1, 2))
    assert out.flatten().tolist() == [3, 7]
