"""The backbone: the same features as the classifier's, weights that arrive, and a report of those that do not."""

import dataclasses
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from evalkit import checkpoint, models
from evalkit.downstream import backbone
from evalkit.downstream.backbone import Backbone, fill, resolve
from evalkit.errors import EvalkitError

VIT = {"depth": 2}


def classifier(name="vit_nano_patch4_32", seed=0, **args):
    torch.manual_seed(seed)
    return models.create(name, num_classes=10, **args).model.eval()


def found(spec, model=None, model_args=None, weights=None, random=False, label=None):
    return resolve(str(spec), model=model, model_args=model_args or {}, weights=weights, random=random, label=label)


def outputs(model, x, *layers):
    """What the named layers of the plain model put out in one pass."""
    seen = {}
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda m, args, out, name=name: seen.__setitem__(name, out))
        for name in layers
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return [seen[name] for name in layers]


def as_map(tokens, grid, prefix=0):
    return tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)


def wrapped(model, name, tmp_path, img_size, out_indices, norm, **args):
    """The backbone with the weights of `model`, by way of a file."""
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return Backbone(name, img_size, out_indices, norm, args, str(path)).eval()


def test_vit_features_are_the_classifiers_tokens(tmp_path):
    model, x = classifier(**VIT), torch.randn(2, 3, 32, 32)
    first, last, final = outputs(model, x, "blocks.0", "blocks.1", "norm")
    maps = wrapped(model, "vit_nano_patch4_32", tmp_path, 32, [1], True, **VIT)(x)
    assert len(maps) == 1 and torch.allclose(maps[0], as_map(final, (8, 8), 1), atol=1e-6)
    maps = wrapped(model, "vit_nano_patch4_32", tmp_path, 32, [0, 1], False, **VIT)(x)
    for ours, expected in zip(maps, (first, last)):
        assert torch.allclose(ours, as_map(expected, (8, 8), 1), atol=1e-6)


def test_distilled_deit_drops_both_of_its_prefix_tokens(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    model, x = classifier(name, depth=1, img_size=64), torch.randn(1, 3, 64, 64)
    (final,) = outputs(model, x, "norm")
    (ours,) = wrapped(model, name, tmp_path, 64, [0], True, depth=1)(x)
    assert torch.allclose(ours, as_map(final, (4, 4), 2), atol=1e-6)


def test_pvt_features_are_those_of_the_classifiers_stages(tmp_path):
    model, x = classifier("pvt_tiny", img_size=64), torch.randn(1, 3, 64, 64)
    stages = outputs(model, x, "block1.1", "block2.1", "block3.1")
    maps = wrapped(model, "pvt_tiny", tmp_path, 64, [0, 1, 2, 3], False)(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 16, 16), (128, 8, 8), (320, 4, 4), (512, 2, 2)]
    for ours, tokens, side in zip(maps, stages, (16, 8, 4)):
        assert torch.allclose(ours, as_map(tokens, (side, side)), atol=1e-5)


def test_resnet_features_are_those_of_the_classifiers_layers(tmp_path):
    model, x = classifier("resnet10_cifar"), torch.randn(2, 3, 32, 32)
    layers = outputs(model, x, "layer1", "layer2", "layer3", "layer4")
    for ours, expected in zip(wrapped(model, "resnet10_cifar", tmp_path, 64, [1, 2, 3, 4], False)(x), layers):
        assert torch.allclose(ours, expected, atol=1e-6)


def test_positional_embeddings_are_resampled_once_and_then_fit_any_size(tmp_path):
    model = classifier(**VIT)
    made = wrapped(model, "vit_nano_patch4_32", tmp_path, 48, [1], True, **VIT)
    assert made.model.pos_embed.shape == (1, 1 + 12 * 12, 64)
    assert made.report["resized"] == ["pos_embed"] and "pos_embed" in made.report["loaded"]
    for height, width in ((48, 48), (64, 32), (40, 84), (41, 83)):
        assert made(torch.randn(1, 3, height, width))[0].shape == (1, 64, -(-height // 4), -(-width // 4))


@pytest.mark.parametrize(
    "name, stride", [("deit_tiny_patch16_224", 16), ("pvt_tiny", 32), ("swin_tiny_patch4_window7_224", 4)]
)
def test_what_patches_do_not_divide_is_padded_in_the_corner(name, stride):
    """As if the image were that much larger at the right and at the bottom, and nothing of it is lost."""
    made = Backbone(name, None if name == "pvt_tiny" else 64, [0], model_args={"depth": 1} if "deit" in name else {})
    x = torch.randn(1, 3, 70, 93)
    padded = torch.nn.functional.pad(x, (0, -93 % stride, 0, -70 % stride))
    for a, b in zip(made.eval()(x), made(padded)):
        height, width = a.shape[2:]
        assert torch.allclose(a, b[..., :height, :width], atol=1e-6) or name == "pvt_tiny"
    moved = x.clone()
    moved[..., -1, -1] += 1  # the last pixel counts
    assert not torch.equal(made(moved)[0], made(x)[0])


@pytest.mark.parametrize(
    "name, args, indices, norm, frozen",
    [
        ("vit_nano_patch4_32", VIT, [1], True, []),
        ("vit_nano_patch4_32", VIT, [1], False, ["norm.bias", "norm.weight"]),
        ("vit_nano_patch4_32", VIT, [0], False, None),
        ("pvt_tiny", {}, [0, 1, 2, 3], False, ["cls_token", "norm.bias", "norm.weight"]),
        ("resnet10_cifar", {}, [1, 2, 3, 4], False, []),
    ],
)
def test_what_gets_no_gradient_is_frozen_and_nothing_else(name, args, indices, norm, frozen):
    made = Backbone(name, 64, indices, norm, args).train()
    sum(m.square().sum() for m in made(torch.randn(2, 3, 64, 96))).backward()
    for parameter in made.parameters():
        assert parameter.requires_grad == (parameter.grad is not None)
    assert sorted(made.report["frozen"]) == sorted(n for n, p in made.model.named_parameters() if not p.requires_grad)
    if frozen is not None:
        assert sorted(made.report["frozen"]) == frozen


def test_a_model_of_one_image_size_is_refused():
    with pytest.raises(EvalkitError, match="model 'cait_xxs24_224' does not take images of any size"):
        Backbone("cait_xxs24_224", 64, [23])


# ---- weights


def test_evalkit_checkpoint_loads_its_averaged_weights(tmp_path):
    raw, ema = classifier(seed=1, **VIT), classifier(seed=2, **VIT)
    meta = {
        "model": "vit_nano_patch4_32",
        "model_args": VIT,
        "num_classes": 10,
        "label": "mine",
        "method": "mixpro",
        "mean": [],
        "std": [],
    }
    folder = checkpoint.save(tmp_path, 7, raw.state_dict(), ema.state_dict(), {}, meta)
    for spec in (tmp_path, folder):  # a run folder, a checkpoint folder
        for weights, model in ((None, ema), ("raw", raw)):
            source = found(spec, weights=weights)
            assert (source.model, source.label, source.method, source.weights) == (
                "vit_nano_patch4_32",
                "mine",
                "mixpro",
                weights or "ema",
            )
            made = Backbone(source.model, 32, [1], True, source.model_args, source.checkpoint, source.weights)
            assert all(torch.equal(v, model.state_dict()[k]) for k, v in made.model.state_dict().items())
            full = {"loaded": sorted(made.model.state_dict()), "head_dropped": ["head.bias", "head.weight"]}
            assert made.report == full | {
                key: [] for key in ("resized", "missing", "renamed", "unexpected", "frozen", "chosen")
            }
    assert found(tmp_path).sha256 == checkpoint.verify(folder)["sha256"]["model_ema.safetensors"]
    assert found(tmp_path, label="other").label == "other"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"model": w, "epoch": 3},
        lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},
    ],
)
def test_torch_files_load_however_they_nest_the_weights(tmp_path, wrap):
    model = classifier(**VIT)
    torch.save(wrap(model.state_dict()), tmp_path / "w.pth")
    source = found(tmp_path / "w.pth", model="vit_nano_patch4_32", model_args=VIT)
    made = Backbone(source.model, 32, [1], True, source.model_args, source.checkpoint, source.weights)
    assert (
        all(torch.equal(v, model.state_dict()[k]) for k, v in made.model.state_dict().items()) and source.label == "w"
    )


def test_averaged_weights_of_a_torch_file_are_preferred(tmp_path):
    raw, ema = classifier(seed=1, **VIT), classifier(seed=2, **VIT)
    torch.save({"model": raw.state_dict(), "model_ema": ema.state_dict()}, tmp_path / "w.pth")
    for weights, model in ((None, ema), ("raw", raw)):
        source = found(tmp_path / "w.pth", model="vit_nano_patch4_32", model_args=VIT, weights=weights)
        made = Backbone(source.model, 32, [1], True, source.model_args, source.checkpoint, source.weights)
        assert torch.equal(made.model.cls_token, model.cls_token) and source.weights == (weights or "ema")
    torch.save({"model": raw.state_dict()}, tmp_path / "w.pth")
    assert found(tmp_path / "w.pth", model="vit_nano_patch4_32", model_args=VIT).weights == "raw"
    with pytest.raises(EvalkitError, match=r"w.pth holds no averaged \(ema\) weights; use weights=raw"):
        found(tmp_path / "w.pth", model="vit_nano_patch4_32", model_args=VIT, weights="ema")


def test_a_run_that_goes_on_does_not_change_what_is_transferred(tmp_path):
    old, new = classifier(seed=1, **VIT).state_dict(), classifier(seed=2, **VIT).state_dict()
    checkpoint.save(tmp_path, 1, old, None, {}, {"model": "vit_nano_patch4_32", "model_args": VIT})
    sources = [found(tmp_path), found(tmp_path / "last")]
    checkpoint.save(tmp_path, 2, new, None, {}, {"model": "vit_nano_patch4_32", "model_args": VIT})
    for source in sources:
        made = Backbone(source.model, 32, [1], True, source.model_args, source.checkpoint, source.weights)
        assert torch.equal(made.model.cls_token, old["cls_token"]) and source.sha256 != found(tmp_path).sha256


def test_another_architecture_than_the_checkpoints_is_refused(tmp_path):
    checkpoint.save(
        tmp_path, 1, classifier(**VIT).state_dict(), None, {}, {"model": "vit_nano_patch4_32", "model_args": VIT}
    )
    with pytest.raises(
        EvalkitError,
        match="holds weights of model 'vit_nano_patch4_32', not 'deit_small_patch16_224'; leave out model=",
    ):
        found(tmp_path, model="deit_small_patch16_224")
    with pytest.raises(EvalkitError, match="resnet18 holds weights of model 'resnet18', not 'resnet50'"):
        found("resnet18", model="resnet50")
    assert found("resnet18.a1_in1k", model="resnet18").model == "resnet18.a1_in1k"


def test_report_names_what_was_too_much():
    model, target = classifier(**VIT), models.create("vit_nano_patch4_32", num_classes=0, **VIT).model
    report = fill(target, model.state_dict() | {"extra.w": torch.zeros(1)}, "w.pth")
    assert report["unexpected"] == ["extra.w"] and report["head_dropped"] == ["head.bias", "head.weight"]
    assert report["loaded"] == sorted(target.state_dict()) and torch.equal(target.cls_token, model.cls_token)


def without(tensors, *starts):
    return {k: v for k, v in tensors.items() if not k.startswith(starts)}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: without(t, "norm.bias"), r"lacks 1 tensors \(norm.bias\)"),
        (lambda t: without(t, "blocks.1."), r"lacks 12 tensors \(blocks.1.attn.proj.bias, blocks.1.attn.proj.weight, "),
        (lambda t: without(t, "cls_token", "pos_embed"), r"lacks 2 tensors \(cls_token, pos_embed\)"),
        (lambda t: t | {"norm.weight": torch.zeros(3)}, r"has other shapes for 1 tensors \(norm.weight\)"),
        (
            lambda t: t | {k.replace("s.1.", "s.2."): v for k, v in t.items()},
            r"has layers that the model has not, 12 tensors \(blocks.2.attn.proj.bias, ",
        ),
    ],
)
def test_a_file_that_does_not_fit_in_whole_changes_nothing(change, message):
    """As `models.load` refuses it: whole blocks that keep random weights are no transfer."""
    target = models.create("vit_nano_patch4_32", num_classes=0, **VIT).model
    before = {k: v.clone() for k, v in target.state_dict().items()}
    tensors = change({k: v + 1 for k, v in before.items()})
    with pytest.raises(EvalkitError, match=f"w.pth does not fit model .*: it {message}.*give the model and"):
        fill(target, tensors, "w.pth")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_weights_under_the_names_of_openmmlab_arrive():
    model = classifier("resnet10_cifar")
    theirs = {f"backbone.{k}": v for k, v in without(model.state_dict(), "fc.").items()}
    target = models.create("resnet10_cifar", num_classes=0).model
    report = fill(target, theirs, "w.pth")
    assert len(report["renamed"]) == len(report["loaded"]) and torch.equal(target.conv1.weight, model.conv1.weight)


def test_timm_weights_are_resampled_like_any_other(monkeypatch):
    published = models.create("vit_nano_patch4_32", num_classes=0, **VIT)
    create = backbone.models.create
    monkeypatch.setattr(
        backbone.models, "create", lambda *a, pretrained=False, **k: published if pretrained else create(*a, **k)
    )
    made = Backbone("vit_nano_patch4_32", 48, [1], True, VIT, backbone.TIMM)
    assert made.report["resized"] == ["pos_embed"] and torch.equal(made.model.cls_token, published.model.cls_token)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_bomb_does_not_run(tmp_path):
    fuse = tmp_path / "ran"
    for name, save in (("a.pth", torch.save), ("b.pth", lambda obj, path: path.write_bytes(pickle.dumps(obj)))):
        save({"model": classifier(**VIT).state_dict(), "args": Bomb(fuse)}, tmp_path / name)
        with pytest.raises(EvalkitError):
            found(tmp_path / name, model="vit_nano_patch4_32", model_args=VIT)
        with pytest.raises(EvalkitError):
            Backbone("vit_nano_patch4_32", 32, [1], True, VIT, str(tmp_path / name))
    assert not fuse.exists()


# ---- where it comes from


def test_what_regularised_pre_training_does_not_regularise_the_transfer(tmp_path):
    """The recipe's drop_path does, 0 included: it was the pre-training's wherever the recipe had none."""
    args = {"depth": 2, "drop_path_rate": 0.3, "attn_drop_rate": 0.1}
    model = classifier(**args)
    checkpoint.save(tmp_path, 1, model.state_dict(), None, {}, {"model": "vit_nano_patch4_32", "model_args": args})
    source = found(tmp_path)
    assert source.model_args == VIT and source.of_training == {"drop_path_rate": 0.3, "attn_drop_rate": 0.1}
    assert not source.is_plain() and found("resnet10_cifar", random=True).is_plain()
    assert found(tmp_path, model_args={"attn_drop_rate": 0.2}).model_args == VIT | {"attn_drop_rate": 0.2}
    with pytest.raises(EvalkitError, match="stochastic depth is the key drop_path here"):
        found(tmp_path, model_args={"drop_path_rate": 0.2})


def test_random_takes_the_architecture_alone(tmp_path):
    safetensors.torch.save_file(classifier(**VIT).state_dict(), tmp_path / "w.safetensors")
    source = found(tmp_path / "w.safetensors", model="vit_nano_patch4_32", model_args=VIT, random=True)
    assert (
        source.checkpoint is None
        and source.sha256 is None
        and source.label == "vit_nano_patch4_32, random"
        and source.model_args == VIT
    )
    assert found("vit_nano_patch4_32", random=True).channels == [64] * 4


def test_a_timm_name_means_its_published_weights():
    source = found("resnet18.a1_in1k", model_args={})
    assert source.checkpoint == backbone.TIMM and source.model == "resnet18.a1_in1k"
    assert source.channels == [64, 64, 128, 256, 512] and source.strides == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    "spec, message",
    [
        ("runs/none", "no such checkpoint: runs/none"),
        ("none.pth", "no such checkpoint: none.pth"),
        ("vit_nano_patch4_23", "unknown model or checkpoint 'vit_nano_patch4_23'. Did you mean 'vit_nano_patch4_32'?"),
    ],
)
def test_what_is_not_there_is_one_line(spec, message):
    with pytest.raises(EvalkitError, match=message.replace("?", r"\?")):
        found(spec)


def test_a_bare_file_needs_its_architecture(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(EvalkitError, match="does not say its architecture; add model=NAME"):
        found(tmp_path / "w.pth")


def test_source_survives_json():
    import json

    source = found("resnet10_cifar", random=True)
    assert backbone.Source(**json.loads(json.dumps(dataclasses.asdict(source)))) == source
