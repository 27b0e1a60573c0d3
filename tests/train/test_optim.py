import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, list_optimizers

from evalkit.errors import EvalkitError
from evalkit.train.config import TrainConfig
from evalkit.train.mixups.base import MixMethod
from evalkit.train.optim import betas_of, check_optimizer, kernels, make_optimizer, parameter_groups


def cfg(**kw):
    return TrainConfig(model="m", data="digits", epochs=1, batch_size=10, micro_batch=10, lr=1e-3, **kw)


@pytest.fixture(scope="module")
def vit():
    return timm.models.VisionTransformer(img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2, num_classes=3)


def test_what_is_decayed(vit):
    decayed, free = parameter_groups(vit, cfg(weight_decay=0.05))
    names = {id(p): n for n, p in vit.named_parameters()}
    free_names = {names[id(p)] for p in free["params"]}
    assert {"pos_embed", "cls_token", "norm.weight", "head.bias"} <= free_names and "head.weight" not in free_names
    assert decayed["weight_decay"] == 0.05 and free["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_decay_everything(vit):
    (only,) = parameter_groups(vit, cfg(decay_norm_and_bias=True))
    assert len(only["params"]) == len(list(vit.parameters()))


def test_momentum_is_plain_and_sgd_is_nesterov(vit):
    assert make_optimizer(vit, MixMethod(), cfg(opt="momentum")).defaults["nesterov"] is False
    assert make_optimizer(vit, MixMethod(), cfg(opt="sgd")).defaults["nesterov"] is True


def test_adamw_arguments(vit):
    optimizer = make_optimizer(vit, MixMethod(), cfg(betas=[0.8, 0.9], eps=1e-6))
    assert (
        isinstance(optimizer, torch.optim.AdamW)
        and optimizer.defaults["betas"] == (0.8, 0.9)
        and optimizer.defaults["eps"] == 1e-6
    )


def test_further_arguments(vit):
    assert make_optimizer(vit, MixMethod(), cfg(opt="lamb")).defaults["max_grad_norm"] == 1.0
    assert (
        make_optimizer(vit, MixMethod(), cfg(opt="lamb", opt_args={"max_grad_norm": 5.0})).defaults["max_grad_norm"]
        == 5.0
    )
    with pytest.raises(EvalkitError, match="'adamw' does not take .*max_grad_nrom"):
        make_optimizer(vit, MixMethod(), cfg(opt_args={"max_grad_nrom": 1.0}))


def test_what_is_no_argument_of_the_optimizer():
    """timm reads layer_decay and the like where it makes the groups of a whole network, and leaves them out here."""
    for given, says in (
        ({"opt_args": {"layer_decay": 0.7}}, "'adamw' does not take opt_args.layer_decay. Choose one of: amsgrad"),
        ({"opt": "lamb", "opt_args": {"max_grad_nrom": 1}}, "Did you mean 'max_grad_norm'"),
        ({"opt": "sgd", "opt_args": {"momentum": 0.5}}, "give momentum=... instead"),
        ({"opt": "adan"}, r"takes 3 betas, but got \[0.9, 0.999\]; its own are betas=\[0.98, 0.92, 0.99\]"),
    ):
        with pytest.raises(EvalkitError, match=says):
            check_optimizer(cfg(**given))
    check_optimizer(cfg(opt="adafactor", betas=[0.9], opt_args={"clip_threshold": 2.0}))


@pytest.mark.parametrize("opt", ["adafactor", "cadafactor"])
def test_adafactor_uses_the_first_beta_alone(opt):
    def weights(betas: list[float]) -> torch.Tensor:
        torch.manual_seed(0)
        net = torch.nn.Linear(33, 17)
        optimizer = create_optimizer_v2([{"params": list(net.parameters())}], opt=opt, lr=0.01, betas=betas)
        for _ in range(3):
            net(torch.randn(8, 33)).square().mean().backward()
            optimizer.step()
        return net.weight.detach()

    assert torch.equal(weights([0.9, 0.5]), weights([0.9, 0.999])) and torch.equal(weights([0.9]), weights([0.9, 0.5]))
    assert not torch.equal(weights([0.9]), weights([0.6])) and betas_of(opt) == 1


def test_values_are_tried_in_a_step(vit):
    state = torch.random.get_rng_state()
    for given in ({"opt": "lamb", "opt_args": {"max_grad_norm": "x"}}, {"opt": "sgd", "momentum": 0.0}):
        with pytest.raises(EvalkitError, match="does not (take|work)"):
            make_optimizer(vit, MixMethod(), cfg(**given))
    assert torch.equal(state, torch.random.get_rng_state())


def test_unknown_optimizer(vit):
    with pytest.raises(EvalkitError, match="Did you mean 'adamw'"):
        make_optimizer(vit, MixMethod(), cfg(opt="adamww"))


@pytest.mark.parametrize("opt", [opt for opt in map(str, list_optimizers()) if kernels(opt)])
def test_for_loop_is_what_a_cpu_did_before(opt):
    """opt_kernels=auto settles on it there: an optimizer's own default, bit for bit; the others within rounding."""

    def weights(**given: bool) -> torch.Tensor:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(33, 17), torch.nn.Linear(17, 9))
        optimizer = create_optimizer_v2([{"params": list(net.parameters())}], opt=opt, lr=0.01, **given)
        for _ in range(3):
            net(torch.randn(8, 33)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    has, default = kernels(opt), weights()
    for name in has:
        found = weights(**{other: other == name for other in has if other != "for-loop"})
        torch.testing.assert_close(found, default, rtol=1e-4, atol=1e-5)
        assert name != "for-loop" or torch.equal(found, default)


def test_kernels_reach_the_optimizer(vit):
    for name, flags in (("fused", (True, False)), ("foreach", (False, True)), ("for-loop", (False, False))):
        group = make_optimizer(vit, MixMethod(), cfg(opt="adamw", opt_kernels=name)).param_groups[0]
        assert (group["fused"], group["foreach"]) == flags
    assert make_optimizer(vit, MixMethod(), cfg(opt="adamw")).param_groups[0]["foreach"] is None
    with pytest.raises(EvalkitError, match="'lamb' has no opt_kernels=fused; use foreach or for-loop"):
        make_optimizer(vit, MixMethod(), cfg(opt="lamb", opt_kernels="fused"))
    with pytest.raises(EvalkitError, match="one way alone"):
        make_optimizer(vit, MixMethod(), cfg(opt="adafactor", opt_kernels="for-loop"))
