from types import SimpleNamespace as Namespace

import numpy as np
import pytest
import torch
from scipy import stats

from evalkit.errors import EvalkitError
from evalkit.train.mixups.base import Context, Mixed, MixMethod, beta, check_pairing, pair, pair_weights, upload
from evalkit.train.step import train_step

from .fakes import FakeOutput, context


def test_injected_draws_replace_the_random_ones_and_leave_the_generator_alone():
    ctx = context(draws={"lam": 0.25})
    before = ctx.rng.bit_generator.state
    assert ctx.draw("lam", lambda rng: rng.random()) == 0.25
    assert ctx.rng.bit_generator.state == before
    assert ctx.draw("other", lambda rng: rng.random()) == np.random.default_rng(0).random()


def test_a_simple_context_smooths_targets_and_averages_the_cross_entropy():
    ctx = Context.simple(4, np.random.default_rng(0), smoothing=0.2)
    assert torch.allclose(ctx.target(torch.tensor([1])), torch.tensor([[0.05, 0.85, 0.05, 0.05]]))
    assert ctx.criterion(torch.zeros(3, 4), ctx.target(torch.tensor([0, 1, 2]))).item() == pytest.approx(np.log(4))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0])
def test_lambda_follows_the_beta_distribution(alpha):
    ctx = context(seed=3)
    sample = [beta(ctx, alpha) for _ in range(4000)]
    assert stats.kstest(sample, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert np.var(sample) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_alpha_zero_means_no_mixing():
    assert beta(context(), 0) == 1.0


def test_partners():
    assert pair(context(), 5, "flip").tolist() == [4, 3, 2, 1, 0]
    assert sorted(pair(context(), 9, "perm")) == list(range(9))
    for pairing in ("perm", "flip", "derange"):
        assert pair(context(), 1, pairing).tolist() == [0]
        assert pair(context(), 4, pairing).dtype == np.int64
    ctx = context(seed=1)
    fixed = [(pair(ctx, 8, "perm") == np.arange(8)).sum() for _ in range(4000)]
    # mean and variance of the number of fixed points are both 1
    assert np.mean(fixed) == pytest.approx(1.0, abs=4 / np.sqrt(4000))


def test_a_derangement_is_a_uniform_cycle():
    ctx = context(seed=2)
    counts = {}
    for _ in range(3000):
        partner = tuple(pair(ctx, 4, "derange"))
        seen, i = set(), 0
        while i not in seen:
            seen.add(i)
            i = partner[i]
        assert len(seen) == 4
        counts[partner] = counts.get(partner, 0) + 1
    assert len(counts) == 6 and stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_wrong_pairing():
    with pytest.raises(
        ValueError, match="Expected argument `pairing` to be 'perm', 'flip' or 'derange', but got 'roll'"
    ):
        check_pairing("roll")


def test_one_lambda_for_all_pairs():
    weights = pair_weights(0.25, torch.tensor([1, 0, 2]))
    assert weights.tolist() == [[0.25, 0.75, 0], [0.75, 0.25, 0], [0, 0, 1]]


def test_pair_weights_by_hand():
    weights = pair_weights(torch.tensor([0.25, 0.5, 0.75]), torch.tensor([1, 0, 2]))
    assert torch.equal(weights, torch.tensor([[0.25, 0.75, 0], [0.5, 0.5, 0], [0, 0, 1.0]]))


def test_a_sample_paired_with_itself_weighs_exactly_one():
    lam = torch.tensor(np.random.default_rng(0).random(1500), dtype=torch.float32)
    assert (pair_weights(lam, torch.arange(1500)).diagonal() == 1).all()


def test_upload_keeps_or_sets_the_type():
    x = torch.zeros(1)
    assert upload(np.array([1, 2]), x).dtype == torch.int64
    assert upload(np.array([0.1]), x, torch.float32).dtype == torch.float32


def test_the_default_loss_is_the_weighted_cross_entropy():
    class Half(MixMethod):
        def mix(self, ctx, x, y, net):
            return Mixed(x, pair_weights(torch.full((2,), 0.5), torch.tensor([1, 0])))

    ctx, y, logits = context(3), torch.tensor([0, 2]), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    method = Half()
    mixed = method.mix(ctx, torch.zeros(2, 3, 4, 4), y, None)
    loss = method.loss(ctx, None, y, mixed, FakeOutput(logits), None)
    logp = logits.double().log_softmax(1)
    assert loss.item() == pytest.approx(-(logp[:, 0] + logp[:, 2]).mean().item() / 2, rel=1e-6)
    assert method.pick(ctx) is method and method.eval_network("net") == "net" and method.param_groups() == []


def test_autocast_does_not_round_the_label_shares():
    class Third(MixMethod):
        def mix(self, ctx, x, y, net):
            return Mixed(x, pair_weights(torch.full((2,), 1 / 3), torch.tensor([1, 0])))

    seen = []
    ctx = Context(0, 1, None, lambda y: torch.eye(2)[y], lambda logits, target: seen.append(target), None, None)
    method, y = Third(), torch.tensor([0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method.loss(
            ctx, None, y, method.mix(ctx, torch.zeros(2, 3, 4, 4), y, None), FakeOutput(torch.zeros(2, 2)), None
        )
    assert seen[0].dtype == torch.float32 and seen[0][0, 0].item() == pytest.approx(1 / 3, abs=1e-7)


def test_a_method_must_mix():
    with pytest.raises(NotImplementedError):
        MixMethod().mix(context(), None, None, None)


# ---- a method of one's own: what it gives is looked at


class Own(MixMethod):
    """Gives the weights that the test says, from mix or from relabel."""

    def __init__(self, weights, relabelled=None, row_sum=1.0):
        super().__init__()
        self.weights, self.relabelled, self.row_sum = weights, relabelled, row_sum

    def mix(self, ctx, x, y, net):
        return Mixed(x, self.weights)

    def relabel(self, ctx, mixed, y, out):
        return mixed.weights if self.relabelled is None else self.relabelled


def own_step(method):
    ctx = Context.simple(3, np.random.default_rng(0))
    x, y = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    return train_step(ctx, lambda x, **_: Namespace(logits=x.mean((2, 3))), method, x, y)


@pytest.mark.parametrize(
    ("weights", "relabelled", "message"),
    [
        (
            torch.full((4,), 0.5),
            None,
            r"`Mixed.weights` is \(4,\) torch.float32 for 4 images; one lambda for all pairs",
        ),
        (torch.eye(3), None, r"`Mixed.weights` is \(3, 3\)"),
        (torch.eye(4).long(), None, "`Mixed.weights` is .* torch.int64"),
        (torch.ones(4, 1), None, r"Own.mix must give label weights of shape \(4, 4\).*but gave \(4, 1\)"),
        (torch.eye(4) * 0.5, None, "Own.mix gave label weights whose row adds up to 0.5 instead of 1"),
        (torch.eye(4) * 1.2, None, "whose row adds up to 1.2 instead of 1"),
        (torch.eye(4) * float("nan"), None, "Own.mix gave label weights that are not finite"),
        (torch.eye(4), torch.full((4,), 0.25), r"Own.relabel must give label weights of shape .* but gave \(4,\)"),
        (torch.eye(4), torch.eye(4) * 2, "Own.relabel gave label weights whose row adds up to 2 instead of 1"),
    ],
)
def test_label_weights_that_would_train_something_else(weights, relabelled, message):
    with pytest.raises(EvalkitError, match=message):
        own_step(Own(weights, relabelled))


@pytest.mark.parametrize("row_sum", [None, 0.5])
def test_a_method_declares_what_its_rows_add_up_to(row_sum):
    assert own_step(Own(torch.eye(4) * 0.5, row_sum=row_sum)).isfinite()


def test_sums_are_looked_at_once_and_shapes_always():
    method = Own(torch.eye(4))
    own_step(method)
    method.weights = torch.eye(4) * 0.5
    own_step(method)  # a look in every step would wait for the device
    method.weights = torch.ones(4, 2)
    with pytest.raises(EvalkitError, match="must give label weights"):
        own_step(method)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(4, 3, 8)}, "mixed images must be"),
        ({"partner": torch.zeros(3)}, r"partners must be \(4,\)"),
        ({"mask": torch.zeros(4, 8, 8)}, "a mask must be"),
        ({"mask": torch.zeros(4, 3, 8, 8)}, "a mask must be"),
    ],
)
def test_shapes_of_a_mixed_batch(changes, message):
    with pytest.raises(EvalkitError, match=message):
        Mixed(**({"x": torch.zeros(4, 3, 8, 8), "weights": torch.eye(4)} | changes))
