"""Any callable as a model: what it gets, what it must give, and how its results are told apart."""

import pytest
import torch

from evalkit.errors import EvalkitError
from evalkit.models import imagenet_classes, wrap


def test_a_function():
    def fn(x):
        return x.mean(dim=(2, 3))

    model = wrap(fn, name="mine", classes=["a", "b", "c"], input_size=8, version="1")
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(model.network(x), x.mean(dim=(2, 3)))
    assert (
        model.classes,
        model.name,
        model.label,
        model.network.input_size,
        model.network.mean,
        model.network.std,
    ) == (
        ["a", "b", "c"],
        "mine",
        "mine",
        (8, 8),
        (0, 0, 0),
        (1, 1, 1),
    )
    assert (
        model.sha256
        == wrap(fn, name="mine", classes=["x"], version="1").sha256
        != wrap(fn, name="mine", classes=["x"], version="2").sha256
    )


def test_a_module_is_known_by_its_weights_and_put_into_eval_mode():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2), torch.nn.Dropout())
    model = wrap(module, name="mine", classes=["a", "b"], input_size=2)
    assert model.sha256 is None and not module.training and "model.1.weight" in model.network.state_dict()


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="Expected argument `version` to be a text"):
        wrap(lambda x: x, name="mine", classes=["a"])
    with pytest.raises(ValueError, match="Expected argument `classes` to be unique"):
        wrap(lambda x: x, name="mine", classes=["a", "a"], version="1")
    for fn, got in ((lambda x: x.sum(dim=(2, 3)), r"shape \(4, 3\)"), (lambda x: [x], "list")):
        with pytest.raises(
            EvalkitError,
            match=rf"model mine must return logits of shape \(4, 2\), one column per class, but gave {got}",
        ):
            wrap(fn, name="mine", classes=["a", "b"], version="1").network(torch.zeros(4, 3, 2, 2))
    with pytest.raises(EvalkitError, match="plain callable without class attention; choose another saliency="):
        wrap(lambda x: x, name="mine", classes=["a"], version="1").network.class_attention(
            torch.zeros(1, 3, 2, 2), head=None
        )


def test_imagenets_classes():
    classes = imagenet_classes()
    assert len(classes) == 1000 and classes == sorted(classes) and classes[0] == "n01440764"
