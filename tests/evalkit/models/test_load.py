"""Loading says what it loaded, and refuses in one line what does not fit."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from evalkit import checkpoint
from evalkit.errors import EvalkitError
from evalkit.models import create, load

ARGS = {"depth": 2, "embed_dim": 32, "num_heads": 2}
NAME = "vit_nano_patch4_32"


@pytest.fixture(name="net")
def _net():
    torch.manual_seed(0)
    return create(NAME, num_classes=10, **ARGS)


@pytest.fixture(name="run")
def _run(tmp_path, net):
    state = net.model.state_dict()
    meta = {
        "model": NAME,
        "model_args": ARGS,
        "num_classes": 10,
        "classes": [f"c{i}" for i in range(10)],
        "method": "mixpro",
        "label": "MixPro s0",
    }
    checkpoint.save(tmp_path, 3, state, None, {}, meta)
    checkpoint.save(tmp_path, 7, state, {k: v + 1 for k, v in state.items()}, {}, meta)
    return tmp_path


def same(a, b, plus=0.0):
    return all(torch.equal(v + plus, b[k]) for k, v in a.items()) and set(a) == set(b)


def refusal(**kwargs):
    with pytest.raises(EvalkitError) as e:
        load(**kwargs)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400
    return str(e.value)


def test_run_and_checkpoint_folders(run, net):
    loaded = load(str(run))
    assert same(net.model.state_dict(), loaded.network.model.state_dict(), plus=1) and loaded.weights == "ema"
    assert (loaded.name, loaded.method, loaded.label, loaded.meta["step"]) == (NAME, "mixpro", "MixPro s0", 7)
    assert loaded.classes == [f"c{i}" for i in range(10)] and not loaded.network.training
    assert loaded.sha256 == loaded.meta["sha256"]["model_ema.safetensors"]
    raw = load(run, weights="raw")
    assert same(net.model.state_dict(), raw.network.model.state_dict()) and raw.weights == "raw"
    first = load(run / "checkpoints" / "step-000000003", model=NAME)
    assert (
        first.weights == "raw"
        and first.meta["step"] == 3
        and not any(first.report[k] for k in first.report if k != "loaded")
    )


def test_folder_that_is_not_what_is_asked_for(run):
    assert "holds weights of model 'vit_nano_patch4_32', not 'pvt_tiny'" in refusal(spec=run, model="pvt_tiny")
    assert "has 10 classes, but the model has 7" in refusal(spec=run, num_classes=7)
    assert "no averaged (ema) weights" in refusal(spec=run / "checkpoints" / "step-000000003", weights="ema")


def test_head_can_be_dropped(run, net):
    loaded = load(run, num_classes=0, weights="raw")
    assert loaded.report["dropped"] == ["head.bias", "head.weight"] and loaded.classes is None
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(
        loaded.network(x).logits, net.eval().model.forward_head(net.model.forward_features(x), pre_logits=True)
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
    ],
)
def test_torch_files(tmp_path, net, wrap):
    torch.save(wrap(net.model.state_dict()), tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth", model=NAME, model_args=ARGS)  # the class count is the file's
    assert same(net.model.state_dict(), loaded.network.model.state_dict())
    assert (loaded.network.num_classes, loaded.classes, loaded.label, loaded.method, len(loaded.sha256)) == (
        10,
        None,
        "w",
        None,
        64,
    )


def test_safetensors_file_needs_its_architecture(tmp_path, net):
    save_file(net.model.state_dict(), tmp_path / "w.safetensors")
    assert "add model=NAME" in refusal(spec=tmp_path / "w.safetensors")
    assert same(
        net.model.state_dict(), load(tmp_path / "w.safetensors", model=NAME, model_args=ARGS).network.model.state_dict()
    )


def test_imagenet_classes_are_the_sorted_wordnet_ids(tmp_path):
    net = create("resnet10_cifar")
    torch.save(net.model.state_dict(), tmp_path / "w.pth")
    classes = load(tmp_path / "w.pth", model="resnet10_cifar").classes
    assert len(classes) == 1000 and classes == sorted(classes) and classes[0] == "n01440764"


def test_files_that_do_not_fit(tmp_path, net):
    path, state = tmp_path / "w.pth", net.model.state_dict()

    def message(tensors, **kwargs):
        torch.save(tensors, path)
        return refusal(spec=path, **({"model": NAME, "model_args": ARGS} | kwargs))

    assert "lacks 1 tensors (norm.bias)" in message({k: v for k, v in state.items() if k != "norm.bias"})
    assert "lacks 2 tensors (head.bias, head.weight); load it with num_classes=0" in message(
        {k: v for k, v in state.items() if "head" not in k}
    )
    assert "has 10 classes, but the model has 3" in message(state, num_classes=3)
    assert "has layers that the model has not, 12 tensors (blocks.1." in message(state, model_args=ARGS | {"depth": 1})
    assert "other shapes" in message(state, model_args=ARGS | {"embed_dim": 16})
    assert "does not fit model 'resnet10_cifar'" in message(state, model="resnet10_cifar", model_args={})
    assert "does not fit model 'pvt_tiny'" in message(state, model="pvt_tiny", model_args={})
    torch.save(state | {"extra.w": torch.zeros(1)}, path)
    assert load(path, model=NAME, model_args=ARGS).report["unexpected"] == ["extra.w"]


def test_other_image_size_resamples_positions(tmp_path, net):
    torch.save(net.model.state_dict(), tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth", model=NAME, model_args=ARGS | {"img_size": 48}).network
    assert loaded.model.pos_embed.shape == (1, 145, 32)
    assert torch.equal(loaded.model.pos_embed[:, 0], net.model.pos_embed[:, 0])
    assert loaded(torch.randn(1, 3, 48, 48), attention=True).grid == (12, 12)


def test_official_xcit_and_deit3_keys_are_converted(tmp_path):
    name, args = "xcit_nano_12_p16_224", {"depth": 1, "num_classes": 3}
    state = create(name, **args).model.state_dict()
    official = {}
    for k, v in state.items():
        if k.startswith("cls_attn_blocks") and ".attn.q." in k:  # the authors keep q, k and v in one matrix
            k, v = k.replace(".q.", ".qkv."), torch.cat([state[k.replace(".q.", f".{c}.")] for c in "qkv"])
        elif k.startswith("cls_attn_blocks") and (".attn.k." in k or ".attn.v." in k):
            continue
        official[k.replace("pos_embed.", "pos_embeder.")] = v
    torch.save({"model": official}, tmp_path / "x.pth")
    assert same(state, load(tmp_path / "x.pth", model=name, model_args={"depth": 1}).network.model.state_dict())

    name, args = "deit3_small_patch16_224", {"depth": 1, "embed_dim": 96, "img_size": 32}
    state = create(name, num_classes=3, **args).model.state_dict()
    torch.save(
        {"model": {k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for k, v in state.items()}},
        tmp_path / "d.pth",
    )
    assert same(state, load(tmp_path / "d.pth", model=name, model_args=args).network.model.state_dict())


def test_timm_names(monkeypatch):
    assert "Did you mean 'resnet18'" in refusal(spec="resnet18x")
    assert refusal(spec="runs/nothing") == "no such checkpoint: runs/nothing"
    assert "no such checkpoint" in refusal(spec="weights.pth")
    assert "asked for model 'resnet50'" in refusal(spec="resnet18", model="resnet50")

    real = timm.create_model
    # instead of a download
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kwargs: real("resnet10_cifar", **kwargs))
    loaded = load("resnet18.a1_in1k")
    assert len(loaded.classes) == 1000 and loaded.sha256 is None and loaded.label == loaded.source == "resnet18.a1_in1k"
    assert "have 1000 classes, not 10" in refusal(spec="resnet18", num_classes=10)
    assert load("resnet18", num_classes=0).network.num_classes == 0
