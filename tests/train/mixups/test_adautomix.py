import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evalkit.train import create, train_step
from evalkit.train.batchnorm import BatchNormStatistics
from evalkit.train.mixups.adautomix import AdAutoMix, combine

from .fakes import context
from .learned_fakes import CLASSES, Reference, attention64, body, enlarge, images, point, toy
from .test_samix import up_bilinear

Y = torch.tensor([0, 3, 1, 4, 1])
ROWS = np.array([[2, 0, 3, 1, 4], [1, 4, 2, 0, 3], [3, 1, 0, 4, 2]])
ROWS_K = np.array([[4, 3, 2, 1, 0], [0, 2, 4, 1, 3], [1, 0, 3, 2, 4]])
TWO = {"lam": 0.7, "lam_k": 0.4, "partner": ROWS[0], "partner_k": ROWS_K[1]}
THREE = {"lam": np.array([0.2, 0.5, 0.9]), "partner": ROWS, "partner_k": ROWS_K}


def made(**kwargs):
    net = toy()
    method = AdAutoMix(feature_layer="act", **kwargs)
    method.setup(net)
    enlarge(method.block)
    return net, method.train()


def moment(step=1, three=False, **draws):
    return context(CLASSES, step=step, total_steps=4, draws={**(THREE if three else TWO), **draws})


def terms(net, method, ctx, x=None):
    x = images(5) if x is None else x
    mixed = method.mix(ctx, x, Y, net)
    return mixed, method.losses(ctx, x, Y, mixed, net(mixed.x, features=True), net)


def sources_of(draws, n):
    """(sources and shares of the network's mix, those of the generator's): lists of n index arrays, of n numbers."""
    if n == 2:
        own = np.arange(5)
        return ([own, draws["partner"]], [draws["lam"], 1 - draws["lam"]]), (
            [own, draws["partner_k"]],
            [draws["lam_k"], 1 - draws["lam_k"]],
        )
    lams = list(draws["lam"] / draws["lam"].sum())
    return (list(draws["partner"]), lams), (list(draws["partner_k"]), lams)


class Rival(Reference):
    """The losses of AdAutoMix in place of AutoMix's."""

    def __init__(self, net, method, lam_embed):
        super().__init__(net, method, None, None)
        self.lam_embed, self.beta, self.sign = lam_embed, method.beta, method.cos_sign

    def shares(self, z, sources, lams):
        maps = [
            torch.cat([z[s], torch.full_like(z[:, :1], lam)], 1) if self.lam_embed else z[s]
            for s, lam in zip(sources, lams)
        ]
        query, key = (
            [point(self.phi[f"{of}.0.weight"], self.phi[f"{of}.0.bias"], m).clamp(min=0) for m in maps]
            for of in ("query", "key")
        )
        value = [point(self.phi["value.weight"], self.phi["value.bias"], m) for m in maps]
        n = len(maps)
        logits = [
            up_bilinear(attention64(query[i], sum(key[j] for j in range(n) if j != i), value[i])) for i in range(n)
        ]
        e = torch.exp(torch.cat(logits, 1))
        return e / e.sum(1, keepdim=True)

    def head(self, group, pooled):
        return pooled @ group["weight"].T + group["bias"]

    def losses(self, x, y, draws, n, adversarial):
        x = x.double()
        (sources, lams), (sources_k, lams_k) = sources_of(draws, n)
        z, pooled = body(self.k, x, self.statistics)
        z, originals = z.detach(), self.head(self.hm_k, pooled).detach()
        masks, masks_k = self.shares(z, sources, lams).detach(), self.shares(z, sources_k, lams_k)
        self.x_q = sum(masks[:, i : i + 1] * x[s] for i, s in enumerate(sources))
        x_k = sum(masks_k[:, i : i + 1] * x[s] for i, s in enumerate(sources_k))

        def several(logits, sources, lams):
            return sum(lam * F.cross_entropy(logits, y[s]) for s, lam in zip(sources, lams))

        out = {
            "one": F.cross_entropy(
                self.head({"weight": self.q["fc.weight"], "bias": self.q["fc.bias"]}, body(self.q, x)[1]), y
            ),
            "q": several(self.head(self.hm, body(self.q, self.x_q)[1]), sources, lams),
        }
        if n > 2:
            blend = sum(lam * x[s] for s, lam in zip(sources, lams))
            out["one"] = out["one"] / 2
            out["plain"] = several(self.head(self.hm, body(self.q, blend)[1]), sources, lams) / 2
        logits = self.head(self.hm_k, body(self.k, x_k, self.statistics)[1])
        out["k"] = several(logits, sources_k, lams_k)
        if adversarial:
            out["k"] = -self.beta * out["k"]
            length = lambda v: (v * v).sum(1).sqrt()  # noqa: E731
            cosines = [(logits * originals[s]).sum(1) / (length(logits) * length(originals[s])) for s in sources_k]
            out["similarity"] = self.sign * (1 - self.beta) * sum(lam * c for lam, c in zip(lams_k, cosines)).mean()
        return out


@pytest.mark.parametrize(
    ("n", "kwargs"),
    [
        (2, {}),
        (2, {"cos_sign": -1, "lam_embed": False, "beta": 0.3}),
        (3, {"lam_embed": False}),
        (3, {"cos_sign": -1}),
        (3, {"adv_interval": 1}),
    ],
)
def test_two_training_steps(n, kwargs):
    """An adversarial step and one that is not: losses, gradients, all parameters after SGD and moving average, k's
    batch-norm statistics."""
    net, method = made(images=n, momentum=0.9, momentum_end=0.99, momentum_start=0.0, **kwargs)
    reference = Rival(net, method, kwargs.get("lam_embed", True))
    optimizer = torch.optim.SGD(
        [*net.parameters(), *(p for group in method.param_groups() for p in group["params"])], lr=0.2
    )
    mean, var = torch.zeros(4).double(), torch.ones(4).double()
    for step in (0, 1):
        x, ctx = images(5, step), moment(step, n == 3)
        adversarial = step == 0 or kwargs.get("adv_interval") == 1
        expected = reference.losses(x, Y, ctx.draws, n, adversarial)
        mixed, got = terms(net, method, ctx, x)
        assert ("similarity" in got) == adversarial and torch.allclose(mixed.x.double(), reference.x_q, atol=2e-6)
        assert {k: v.item() for k, v in got.items()} == pytest.approx(
            {k: v.item() for k, v in expected.items()}, abs=5e-6
        )
        optimizer.zero_grad()
        sum(got.values()).backward()
        trained = [*net.parameters(), *method.encoder.head.parameters(), *method.block.parameters()]
        for p, g in zip(
            trained, reference.step(expected, 0.2, 0.99 - 0.09 * (1 + math.cos(math.pi * step / 4)) / 2), strict=True
        ):
            assert torch.allclose(p.grad.double(), g, atol=5e-6)
        optimizer.step()
        method.after_step(ctx, net)
        reference.check(net, method, atol=5e-6)
        for m, v in reference.statistics[-2:]:
            mean, var = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v
        norm = method.encoder.network.model.norm
        assert torch.allclose(norm.running_mean.double(), mean, atol=2e-6) and torch.allclose(
            norm.running_var.double(), var, atol=2e-6
        )


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(
    ("term", "updated"),
    [("one", {"net"}), ("plain", {"net", "head"}), ("q", {"net", "head"}), ("k", {"block"}), ("similarity", {"block"})],
)
def test_which_loss_updates_which_parameters(term, updated, n):
    net, method = made(images=n)
    got = terms(net, method, moment(0, n == 3))[1]
    if term == "plain" and n == 2:
        assert term not in got
        return
    got[term].backward()
    for name, parameters in {
        "net": net.parameters(),
        "head": method.encoder.head.parameters(),
        "block": method.block.parameters(),
    }.items():
        assert any(p.grad is not None and bool((p.grad != 0).any()) for p in parameters) == (name in updated)
    assert all(p.grad is None for p in (*method.encoder.network.parameters(), *method.encoder.head_k.parameters()))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_shares_are_a_softmax_over_images(n):
    net, method = made(images=n)
    mixed = method.mix(context(CLASSES, 4), images(5), Y, net)
    sources = torch.stack([torch.randperm(5) for _ in range(n)], 1)
    shares = method.shares(mixed.state.z, sources, [1 / n] * n, (8, 8))
    assert (
        shares.shape == (5, n, 8, 8)
        and (shares > 0).all()
        and torch.allclose(shares.sum(1), torch.ones(5, 8, 8), atol=1e-6)
    )
    assert shares.std() > 0.05 and torch.allclose(mixed.weights.sum(1), torch.ones(5), atol=1e-6)
    x = images(5)
    expected = sum(shares[:, j : j + 1] * x[sources[:, j]] for j in range(n))
    assert torch.allclose(combine(x, sources, shares), expected, atol=1e-6)
    assert torch.equal(combine(x, torch.arange(5)[:, None].expand(5, n), shares), x)
    assert (mixed.mask is None) == (mixed.partner is None) == (n > 2)


def test_label_weights_of_three_images():
    net, method = made(images=3)
    weights = method.mix(moment(three=True), images(5), Y, net).weights
    expected = torch.zeros(5, 5)
    for row, lam in zip(ROWS, THREE["lam"] / 1.6):
        for i, source in enumerate(row):
            expected[i, source] += lam
    assert torch.allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("lams", "released", "port"),
    [
        ([0.03, 0.5, 0.47], True, True),
        ([0.3, 0.67, 0.03], False, True),  # only the first one is asked
        ([0.3, 0.3, 0.4], False, True),  # 0.03 < 1 - lam_0: the port's sign
        ([0.975, 0.0125, 0.0125], True, False),
    ],
)
def test_when_three_images_are_blended(lams, released, port):
    draws = {"lam": np.array(lams)}
    for preset, expected in (("cifar", released), ("released", released), ("openmixup", port)):
        net, method = made(**AdAutoMix.PRESETS[preset])
        x = images(5)
        mixed = method.mix(moment(three=True, **draws), x, Y, net)
        blend = sum(lam * x[row] for lam, row in zip(lams, ROWS))
        assert torch.allclose(mixed.x, blend, atol=1e-6) == expected


def test_when_two_images_are_blended():
    net, method = made(port_margin=True)
    x = images(5)
    for lam, expected in ((0.03, True), (0.031, False), (0.971, True), (0.5, False)):
        mixed = method.mix(moment(lam=lam), x, Y, net)
        assert torch.allclose(mixed.x, lam * x + (1 - lam) * x[ROWS[0]], atol=1e-6) == expected


def test_how_often_three_images_are_blended():
    """With lambdas from Beta(1, 1) the code's test holds for 3 % of the batches, the port's for all but 0.1 %."""
    shares = np.random.default_rng(0).beta(1, 1, (20_000, 3))
    shares /= shares.sum(1, keepdims=True)
    for preset, low, high in (("released", 0.02, 0.04), ("openmixup", 0.998, 1)):
        method = create("adautomix", preset)
        assert low < np.mean([method.blends(lams) for lams in shares.tolist()]) <= high


@pytest.mark.parametrize("n", [2, 3])
def test_whose_batch_norm_statistics_q_keeps(n):
    """Those of the images seen last: the clean ones, with n > 2 their blend without masks."""
    net, method = made(images=n)
    x, ctx, statistics = images(5), moment(three=n > 2), BatchNormStatistics(net)
    with statistics.micro_batch():
        train_step(ctx, net, method, x, Y)
    statistics.step()
    last = x if n == 2 else sum(float(lam) * x[row] for lam, row in zip(THREE["lam"] / 1.6, ROWS))
    features = F.conv2d(last, net.model.conv1.weight, net.model.conv1.bias, 2, 1)
    assert torch.allclose(net.model.norm.running_mean, 0.1 * features.mean((0, 2, 3)), atol=1e-6)


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_every_so_many_steps_are_adversarial(interval):
    net, method = made(adv_interval=interval)
    assert [step for step in range(7) if "similarity" in terms(net, method, moment(step))[1]] == list(
        range(0, 7, interval)
    )


def test_a_skipped_block_keeps_its_place():
    net, method = made(images=3)
    mixed, got = terms(net, method, moment(0, three=True, train_block=False))
    assert mixed.state.logits is None and set(got) == {"one", "plain", "q", "k"} and got["k"] == 0
    train_step(moment(0, three=True, train_block=False), net, method, images(5), Y).backward()
    assert all((p.grad == 0).all() for p in method.block.parameters())


def test_presets_differ_by_what_is_published():
    default = dict(vars(AdAutoMix()))
    cifar = {"images", "beta", "lam_embed", "momentum_end"}
    for preset, changed in {
        "cifar": cifar,
        "cifar_vit": {"images", "beta", "upsample", "switch_off", "momentum_end", "momentum_start"},
        "imagenet_r50": {"norm"},
        "openmixup": cifar | {"port_margin"},
        "released": cifar,
    }.items():
        own = vars(create("adautomix", preset))
        assert {k for k, v in own.items() if not k.startswith("_") and v != default[k]} == changed
        assert own["cos_sign"] == 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        *(({"images": 1}, "`images`"), ({"alpha": 0}, "`alpha`"), ({"beta": 1.5}, "`beta`")),
        *(({"adv_interval": 0}, "`adv_interval`"), ({"cos_sign": 0}, "`cos_sign`")),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=f"Expected argument {message}"):
        AdAutoMix(**kwargs)


DIFFERS = """
taking the originals' k logits from the pass that gives z, not from passes of their own, which also moves k's batch-norm
statistics less
= ::test_two_training_steps
where features overflow, as AutoMix
= test_sources.py::test_infinite_features_show_in_the_loss_of_learned_methods
the order of q's passes, of which the last one's batch-norm statistics count: the clean images', with n > 2 those of the
blend without masks
= ::test_whose_batch_norm_statistics_q_keeps
The sign of S is the code's.
= ::test_presets_differ_by_what_is_published | golden:adautomix
"""
