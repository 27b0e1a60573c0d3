import pytest
import timm
import torch

from evalkit.errors import EvalkitError
from evalkit.train.config import TrainConfig
from evalkit.train.mixups.base import MixMethod
from evalkit.train.optim import make_optimizer, parameter_groups


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


def test_unknown_optimizer(vit):
    with pytest.raises(EvalkitError, match="Did you mean 'adamw'"):
        make_optimizer(vit, MixMethod(), cfg(opt="adamww"))
