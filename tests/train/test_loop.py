import pytest
import torch

from evalkit.train import loop, session
from tests.conftest import tiny


def draws(*overrides: str) -> list[float]:
    """The first number that each of the 4 mix groups of step 3 draws."""
    s = session.build(tiny("batch_size=64", "micro_batch=16", *overrides), torch.device("cpu"))
    make = loop.context_maker(s, 10)
    return [make(3, group).rng.random() for group in range(4)]


@pytest.mark.parametrize(
    ("mix_draws", "accumulate", "shared"),
    [
        ("group", 1, [0, 1, 2, 3]),  # every group draws for itself, as one process per GPU with a seed of its own
        ("group", 2, [0, 1, 2, 3]),
        ("step", 1, [0, 0, 0, 0]),  # all processes with the same seed
        ("step", 2, [0, 0, 1, 1]),  # anew in each published accumulation
    ],
)
def test_which_groups_share_their_draws(mix_draws, accumulate, shared):
    values = draws(f"mix_draws={mix_draws}", f"accumulate={accumulate}")
    assert [values.index(v) for v in values] == [shared.index(k) for k in shared]
    assert (
        values
        == draws(f"mix_draws={mix_draws}", f"accumulate={accumulate}")
        != draws(f"mix_draws={mix_draws}", f"accumulate={accumulate}", "seed=1")
    )


def test_every_step_draws_anew():
    s = session.build(tiny("mix_draws=step"), torch.device("cpu"))
    make = loop.context_maker(s, 10)
    assert len({make(step, 0).rng.random() for step in range(10)} | {make(0, None).rng.random()}) == 11


def test_the_context_carries_the_recipes_loss_and_smoothing():
    make = loop.context_maker(
        session.build(
            tiny("label_smoothing=0.1", "loss=bce", "bce_threshold=0.2", "bce_reduction=mean"), torch.device("cpu")
        ),
        10,
    )
    ctx = make(0, 0)
    target = ctx.target(torch.tensor([2]))
    assert target[0, 2].item() == pytest.approx(0.91) and target[0, 0].item() == pytest.approx(0.01)
    logits = torch.zeros(1, 10)  # with the threshold the target is one-hot; each of the ten terms is log 2
    assert ctx.criterion(logits, target).item() == pytest.approx(0.693147, abs=1e-6)
    assert (ctx.step, ctx.total_steps) == (0, 10)
