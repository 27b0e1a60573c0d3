"""Saliency sources: class attention of a model (which head, which normalisation, which size), files, and what they
refuse."""

import numpy as np
import pytest
import torch

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.robustness import saliency
from evalkit.robustness.saliency import attention, file, open_saliency

from .fakes import CPU, loaded, vit

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
IDS = ["a", "b", "c"]


def by_hand(network, x, head):
    """Softmax of the last block's class query against all keys, from the weights; `head` None = mean."""
    model = network.model
    x = (x - torch.tensor(network.mean).view(3, 1, 1)) / torch.tensor(network.std).view(3, 1, 1)
    tokens = []
    hook = model.blocks[-1].norm1.register_forward_hook(lambda m, a, out: tokens.append(out))
    with torch.no_grad():
        model(x)
        hook.remove()
        attn = model.blocks[-1].attn
        qkv = attn.qkv(tokens[0]).reshape(len(x), -1, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
        rows = (qkv[0][:, :, 0:1] @ qkv[1].transpose(-2, -1) * attn.scale).softmax(-1)[:, :, 0, 1:]
    return (rows.mean(1) if head is None else rows[:, head]).double().numpy()


@pytest.mark.parametrize("head", [None, 0, 1])
def test_class_attention_of_one_head_or_their_mean(head):
    network = vit()
    values, grid = attention(network, CPU, head, {})(IMAGES, IDS)
    assert grid == (4, 4) and values.shape == (3, 16) and values.dtype == np.float64
    np.testing.assert_allclose(values, by_hand(network, IMAGES, head)[:3], atol=1e-6)


def test_images_of_another_size_are_resized_for_the_saliency_model():
    network = vit()
    large = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    values, grid = attention(network, CPU, None, {})(large, ["a", "b"])
    small = torch.nn.functional.interpolate(large, size=(16, 16), mode="bilinear", antialias=True)
    assert grid == (4, 4)
    np.testing.assert_allclose(values, by_hand(network, small, None), atol=1e-6)


def test_dino_is_the_timm_checkpoint_with_the_second_head_and_its_own_normalisation(monkeypatch):
    torch.manual_seed(0)
    dino = models.create("vit_small_patch16_224.dino", num_classes=0)  # the architecture; the weights do not ship
    assert (dino.mean, dino.std, dino.input_size) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224))
    asked = []
    monkeypatch.setattr(
        saliency.models, "load", lambda name: (asked.append(name), loaded(dino.eval(), None, name=name))[1]
    )
    source = open_saliency("dino", "auto", loaded(vit(), ["x"] * 3), CPU)
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    values, grid = source(x, ["a"])
    assert asked == ["vit_small_patch16_224.dino"] and grid == (14, 14)
    assert source.settings["source"] == "dino" and source.settings["head"] == 1
    np.testing.assert_allclose(values, by_hand(dino, x, 1), atol=1e-6)
    assert (
        open_saliency("dino", "mean", None, CPU).settings["head"] == "mean"
        and open_saliency("dino", "4", None, CPU).settings["head"] == 4
    )


def test_without_dinos_weights_the_advice_is_about_the_saliency(monkeypatch):
    def load(*args, **kwargs):
        raise EvalkitError("no connection; give a weights file together with model=vit_small_patch16_224")

    monkeypatch.setattr(models, "load", load)
    with pytest.raises(
        EvalkitError,
        match=(
            r"^the saliency needs DINO's weights, .*; check the connection, give a weights file with saliency=FILE,"
            r" or do "
        ),
    ):
        open_saliency("dino", "auto", loaded(vit(), ["a", "b", "c"]), CPU)


def test_a_weights_file_is_taken_for_dinos(tmp_path):
    torch.manual_seed(0)
    dino = models.create("vit_small_patch16_224.dino", num_classes=0).eval()
    torch.save(dino.model.state_dict(), tmp_path / "dino_deitsmall16_pretrain.pth")
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    source = open_saliency(str(tmp_path / "dino_deitsmall16_pretrain.pth"), "auto", None, CPU)
    np.testing.assert_allclose(source(x, ["a"])[0], by_hand(dino, x, 1), atol=1e-6)
    torch.save(vit().model.state_dict(), tmp_path / "other.pth")
    with pytest.raises(EvalkitError, match="does not fit model 'vit_small_patch16_224'"):
        open_saliency(str(tmp_path / "other.pth"), "auto", None, CPU)


def test_self_is_the_evaluated_model_and_any_other_model_means_over_its_heads(monkeypatch):
    evaluated, other = vit(seed=0), vit(seed=1)
    source = open_saliency("self", "auto", loaded(evaluated, ["x"] * 3), CPU)
    np.testing.assert_allclose(source(IMAGES, IDS)[0], by_hand(evaluated, IMAGES, None)[:3], atol=1e-6)
    monkeypatch.setattr(saliency.models, "load", lambda name: loaded(other, ["x"] * 3))
    source = open_saliency("runs/other", "auto", loaded(evaluated, ["x"] * 3), CPU)
    np.testing.assert_allclose(source(IMAGES, IDS)[0], by_hand(other, IMAGES, None)[:3], atol=1e-6)
    assert source.settings == {"source": "runs/other", "sha256": "0" * 64, "head": "mean"}


def test_a_model_without_class_attention_names_ones_that_have_it():
    network = models.create("resnet10_cifar", num_classes=3).eval()
    with pytest.raises(EvalkitError, match="has no class attention.*Models that have it: vit"):
        open_saliency("self", "auto", loaded(network, ["x"] * 3), CPU)(torch.rand(2, 3, 32, 32), ["a", "b"])


def test_a_file_is_matched_by_id(tmp_path):
    values = np.random.default_rng(0).random((3, 9))
    np.savez(tmp_path / "s.npz", ids=np.array(["b", "c", "a"]), saliency=values)
    source = file(tmp_path / "s.npz")
    got, grid = source(IMAGES, ["a", "b"])
    assert grid == (3, 3)
    np.testing.assert_array_equal(got, values[[2, 0]])
    with pytest.raises(EvalkitError, match="holds no saliency for d"):
        source(IMAGES, ["a", "d"])
    assert open_saliency(str(tmp_path / "s.npz"), "auto", None, CPU).settings["source"] == "file"
    with pytest.raises(EvalkitError, match="head=2 chooses an attention head"):
        open_saliency(str(tmp_path / "s.npz"), "2", None, CPU)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"ids": np.array(["a"]), "saliency": np.ones((1, 8))},
            r"expected `ids` \(n,\) and `saliency` \(n, g\*g\), but got \(1,\) and \(1, 8\)",
        ),
        ({"ids": np.array(["a", "b"]), "saliency": np.ones((1, 9))}, "but got"),
        ({"ids": np.array(["a", "a"]), "saliency": np.ones((2, 9))}, "1 of its 2 ids are repeated"),
        ({"ids": np.array(["a"])}, "cannot read saliency"),
        # a pickle: refused, not run
        ({"ids": np.array([object()]), "saliency": np.ones((1, 9))}, "cannot read saliency"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, arrays, message):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(EvalkitError, match=message):
        file(tmp_path / "s.npz")


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "s.npz").write_bytes(b"PK\x03\x04 cut")
    for path in (tmp_path / "s.npz", tmp_path / "missing.npz"):
        with pytest.raises(EvalkitError, match="cannot read saliency"):
            file(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
def test_unusable_saliency_names_the_image(value):
    values = np.ones((4, 9))
    values[1] = value
    with pytest.raises(EvalkitError, match="the saliency of b is negative, not finite or zero everywhere"):
        saliency.Saliency(lambda x, ids: (values, (3, 3)), {})(IMAGES, IDS)
