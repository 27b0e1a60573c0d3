import sys

import numpy as np
import pytest
import torch
from timm.data import Mixup as TimmMixup

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train import METHODS, MixMethod, create
from evalkit.train.mixups import from_config
from evalkit.train.mixups.choice import Choice

from .fakes import context

SWITCH = {
    "choice": [
        {"name": "mixup", "preset": "timm", "alpha": 0.8, "prob": 0.4},
        {"name": "cutmix", "preset": "timm", "prob": 0.6},
    ]
}


class Recorder(MixMethod):
    """Notes what the loop asks of it."""

    attention, features, inject_layers = True, True, ("blocks.1",)

    def __init__(self, network=None):
        super().__init__()
        self.network, self.seen = network, []
        self.weight = torch.nn.Parameter(torch.ones(2))

    def setup(self, net):
        self.seen.append("setup")

    def param_groups(self):
        return [{"params": [self.weight], "lr_scale": 2.0}]

    def after_step(self, ctx, net):
        self.seen.append("after_step")

    def eval_network(self, net):
        return self.network or net


def test_whole_batches_equal_timms_switch():
    switch = from_config(SWITCH)
    timm_switch = TimmMixup(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.6, label_smoothing=0.1, num_classes=5)
    for seed in range(100):
        x, y = torch.randn(4, 3, 12, 20, generator=torch.Generator().manual_seed(seed)), torch.arange(4)
        np.random.seed(seed)
        timm_x, timm_target = timm_switch(x.clone(), y)
        np.random.seed(seed)
        np.random.rand()
        cut = np.random.rand() < 0.6
        draws = {"branch": int(cut), "lam": np.random.beta(1.0, 1.0) if cut else np.random.beta(0.8, 0.8)}
        if cut:
            draws["centre"] = (np.random.randint(0, 12), np.random.randint(0, 20))
        ctx = context(5, smoothing=0.1, draws=draws)
        mixed = switch.pick(ctx).mix(ctx, x, y, None)
        assert torch.allclose(mixed.x, timm_x, atol=5e-7) and torch.allclose(
            mixed.weights @ ctx.target(y), timm_target, atol=1e-6
        )


@pytest.mark.parametrize(
    ("preset", "shares"),
    [
        ("default", {"Mixup": 0.5, "CutMix": 0.5}),
        ("mixpro", {"MixPro": 0.5, "Mixup": 0.25, "CutMix": 0.25}),
        ("mixpro_nocutmix", {"MixPro": 0.5, "Mixup": 0.5}),
        ("transmix", {"TransMix": 0.8, "Mixup": 0.2}),
        ("transmix_released_s", {"TransMix": 0.5, "Mixup": 0.5}),
    ],
)
def test_the_published_switches(preset, shares):
    ctx, switch, n = context(seed=1), create("choice", preset), 10000
    picked = [type(switch.pick(ctx)).__name__ for _ in range(n)]
    assert set(picked) == set(shares)
    for name, share in shares.items():
        assert picked.count(name) / n == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / n))
    for method in switch.methods:
        if type(method).__name__ == "Mixup":
            assert (method.alpha, method.pairing) == (0.8, "flip")
        if type(method).__name__ == "CutMix":
            assert (method.alpha, method.pairing, method.edge) == (1.0, "flip", "old")


def test_an_odd_batchs_middle_image_stays_as_it_is():
    x = torch.randn(5, 3, 8, 8)
    for branch in (0, 1):
        ctx = context(draws={"branch": branch, "lam": 0.5, "centre": (4, 4)})
        mixed = create("choice").pick(ctx).mix(ctx, x, torch.arange(5), None)
        assert torch.equal(mixed.x[2], x[2]) and mixed.weights[2].tolist() == [0, 0, 1, 0, 0]
        assert not torch.equal(mixed.x[0], x[0])


@pytest.mark.parametrize("name", ["cutmix", "guidedmixup", "saliencymix", "snapmix"])
def test_a_smaller_probability_is_a_choice_with_vanilla(name):
    """By itself the method mixes every batch, in the choice a quarter of them."""
    net, x, y = (
        models.create("resnet10_cifar", num_classes=4, channels=(4, 4, 4, 4)),
        torch.randn(4, 3, 16, 16),
        range(4),
    )
    arguments = {"pairing": "flip"} if name != "guidedmixup" else {}
    draws = {"lam": [0.5, 0.5] if name == "snapmix" else 0.5}
    switch = from_config({"choice": [{"name": name, "prob": 0.25, **arguments}, {"name": "vanilla", "prob": 0.75}]})
    alone, chosen = [], []
    for seed in range(200):
        ctx = context(4, seed=seed)
        chosen.append(type(switch.pick(ctx)).__name__ != "Vanilla")
        if seed < 20:
            ctx = context(4, seed=seed, draws=draws)
            alone.append(not torch.equal(create(name, **arguments).mix(ctx, x, torch.tensor(y), net).x, x))
    assert all(alone) and np.mean(chosen) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 200))


def test_injected_branch_and_nesting():
    inner = Choice([create("vanilla"), create("cutmix")])
    outer = Choice([create("mixup"), inner])
    assert outer.pick(context(draws={"branch": 1})) is inner.methods[1]
    assert outer.pick(context(draws={"branch": 0})) is outer.methods[0]


def test_every_branch_is_prepared_whichever_is_picked():
    first, second = Recorder(), Recorder("momentum copy")
    choice = Choice([create("mixup"), first, second], [1, 0, 0])
    choice.setup("net")
    choice.after_step(context(), "net")
    assert first.seen == second.seen == ["setup", "after_step"]
    assert choice.attention is True and choice.features is True and choice.inject_layers == ["blocks.1"]
    assert [g["params"] for g in choice.param_groups()] == [[first.weight], [second.weight]]
    assert {id(p) for p in choice.parameters()} == {id(first.weight), id(second.weight)}
    assert choice.eval_network("net") == "momentum copy"
    plain = create("choice")
    assert (
        plain.attention is False
        and plain.features is False
        and plain.inject_layers == []
        and plain.eval_network("net") == "net"
    )


def test_a_choice_does_not_mix_by_itself():
    with pytest.raises(TypeError, match=r"choice\.pick"):
        create("choice").mix(context(), None, None, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"methods": []}, "`methods` to be a list of at least one mixup method, but got []"),
        ({"methods": ["mixup"], "probs": [0.5, 0.5]}, "`probs` to be one probability for each of 1 methods"),
        ({"methods": ["mixup", "cutmix"], "probs": [1.5, -0.5]}, "`probs` to be numbers of at least 0"),
        ({"methods": ["mixup", "cutmix"], "probs": [0.5, 0.50001]}, "`probs` to be numbers that sum to 1"),
        (
            {"methods": ["transmix", {"name": "mixpro", "attn_depth": 2}]},
            "the class attention from one and the same block",
        ),
    ],
)
def test_wrong_values(arguments, said):
    with pytest.raises(ValueError) as error:
        create("choice", **arguments)
    assert said in str(error.value)


# ---- recipes


def test_names_and_arguments_of_a_recipe():
    assert type(from_config("mixpro")).__name__ == "MixPro"
    assert from_config({"name": "mixpro", "scale": 2, "preset": "paper"}).images.scale == 2
    switch = from_config({"choice": [{"name": "mixup", "alpha": 0.8, "prob": 0.2}, {"name": "transmix", "prob": 0.8}]})
    assert switch.probs.tolist() == pytest.approx([0.2, 0.8]) and switch.methods[0].alpha == 0.8
    assert from_config({"choice": ["mixup", "cutmix", "vanilla", {"choice": ["mixup"]}]}).probs.tolist() == [0.25] * 4
    thirds = from_config({"choice": [{"name": "mixup", "prob": 0.3333333}, {"name": "cutmix", "prob": 0.6666666}]})
    assert thirds.probs.sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mixupp", "unknown mixup 'mixupp'. Did you mean 'mixup'?"),
        ({"name": "mixup", "alhpa": 1}, "unknown mixup key 'alhpa'. Did you mean 'alpha'?"),
        ({"name": "transmix", "preset": "papper"}, "unknown transmix preset 'papper'. Did you mean 'paper'?"),
        ({"name": "mixup", "prob": 0.5}, "unknown mixup key 'prob'."),
        ({"name": "vanilla", "alpha": 1}, "unknown vanilla key 'alpha'."),
        (
            {"name": "mixup", "alpha": "a"},
            "mixup 'mixup': Expected argument `alpha` to be a number of at least 0, but got 'a'",
        ),
        ({"nmae": "mixup"}, "a mixup needs a `name` or a `choice`, but got {'nmae': 'mixup'}"),
        (3, "a mixup is a name or {name: ..., key: value}, but got 3"),
        (
            {"choice": [{"name": "mixup", "prob": 0.5}, "cutmix"]},
            "give every branch of a mixup choice a `prob`, or none of them",
        ),
        (
            {"choice": [{"name": "mixup", "prob": 0.5}, {"name": "cutmix", "prob": 0.6}]},
            "`probs` to be numbers that sum to 1",
        ),
        ({"choice": ["mixup", "cutmx"]}, "unknown mixup 'cutmx'. Did you mean 'cutmix'?"),
        ({"choice": ["mixup"], "alpha": 1}, "a mixup with `choice` takes no other key, but got alpha"),
        ({"choice": "mixup"}, "`choice` is a list"),
        ({"choice": []}, "at least one mixup method"),
        ("no_such_module:Mine", "cannot import mixup 'no_such_module:Mine'"),
        ("mine.py:Mine", "written as a module and its class, mine:Mine,"),
        ("code/mine.py:Mine", "written as a module and its class, mine:Mine,"),
        ("math:sqrt", "is not a class derived from"),
    ],
)
def test_wrong_recipes_raise_one_line(spec, said):
    with pytest.raises(EvalkitError) as error:
        from_config(spec)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mine", "mine.py"])
def test_a_file_without_its_class_is_told_how_it_is_written(tmp_path, monkeypatch, name):
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvalkitError, match=f"mixup '{name}' is a file of yours; name the class in it too: mine:CLASS"):
        from_config(name)


def test_a_users_own_class(tmp_path, monkeypatch):
    (tmp_path / "my_mix_module.py").write_text(
        "import torch\nfrom evalkit.train import MixMethod, Mixed\n"
        "class Mine(MixMethod):\n"
        "    def __init__(self, strength):\n        super().__init__()\n        self.strength = strength\n"
        "    def mix(self, ctx, x, y, net):\n        return Mixed(x * self.strength, torch.eye(len(x)))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    mine = from_config({"name": "my_mix_module:Mine", "strength": 2.0})
    assert torch.equal(mine.mix(context(), torch.ones(1, 1, 1, 1), None, None).x, torch.full((1, 1, 1, 1), 2.0))
    with pytest.raises(EvalkitError, match="Mine needs strength"):
        from_config("my_mix_module:Mine")
    with pytest.raises(EvalkitError, match="Did you mean 'strength'"):
        from_config({"name": "my_mix_module:Mine", "strenght": 1})
    monkeypatch.setitem(METHODS, "mine", type(mine))
    assert create("mine", strength=3.0).strength == 3.0


DIFFERS = """
odd batches, whose middle sample is paired with itself instead of refused.
= ::test_an_odd_batchs_middle_image_stays_as_it_is | test_sources.py::test_timm_refuses_odd_batches
"""
