import pickle
from pathlib import Path

import pytest
import timm

from evalkit import checkpoint, models
from evalkit.errors import EvalkitError
from evalkit.models import create
from evalkit.models.build import build


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("deit_smal_patch16_224", {}, "unknown model 'deit_smal_patch16_224'. Did you mean 'deit_small_patch16_224'?"),
        ("vit_small_patch16_224.dinno", {}, "Did you mean 'dino'?"),
        ("vit_nano_patch4_32.x", {}, "has no pretrained weights"),
        (
            "vit_nano_patch4_32",
            {"drop_path": 0.1},
            "unknown argument 'drop_path' of model 'vit_nano_patch4_32'. Did you mean 'drop_path_rate'?",
        ),
        ("pvt_tiny", {"imgsize": 64}, "Did you mean 'img_size'?"),
        ("vit_nano_patch4_32", {"embed_dim": 63}, "cannot be built with {'embed_dim': 63}: "),
        ("vit_nano_patch4_32", {"depth": "two"}, "cannot be built"),
        ("vit_nano_patch4_32", {"pretrained": True}, "no pretrained weights for 'vit_nano_patch4_32'"),
    ],
)
def test_wrong_requests_get_one_line(name, args, message):
    with pytest.raises(EvalkitError) as e:
        create(name, **args)
    assert message in str(e.value) and "\n" not in str(e.value)


def test_negative_class_count():
    with pytest.raises(ValueError, match="`num_classes` to be an integer of at least 0, but got -1"):
        build("vit_nano_patch4_32", num_classes=-1)


def test_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more lines")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(EvalkitError) as e:
        create("resnet18", pretrained=True)
    why = "We couldn't connect to 'https://huggingface.co'"
    advice = "check the connection, or give a weights file together with model=resnet18"
    assert str(e.value) == f"pretrained weights of 'resnet18' could not be loaded; {advice} ({why})"


class Bomb:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "hidden",
    [
        {"checkpoint_path": "bomb.pth"},
        {"pretrained": True, "pretrained_cfg": {"file": "bomb.pth"}},
        {"pretrained_cfg_overlay": {"file": "bomb.pth"}},
        {"pretrained_custom_load": True},
        {"cache_dir": "."},
        {"features_only": True},
        {"hf_hub_id": "a/b"},
    ],
)
def test_no_code_runs_from_a_checkpoint_folder(tmp_path, monkeypatch, hidden):
    monkeypatch.chdir(tmp_path)
    fired = tmp_path / "fired"
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb(fired)))
    network = models.create("vit_nano_patch4_32", num_classes=2, depth=1)
    weights = {k: v.clone() for k, v in network.model.state_dict().items()}
    meta = {
        "model": "vit_nano_patch4_32",
        "model_args": {"depth": 1, **hidden},
        "num_classes": 2,
        "classes": ["a", "b"],
    }
    folder = checkpoint.save(tmp_path, 1, weights, None, {}, meta)
    for spec in (folder, tmp_path):
        with pytest.raises(EvalkitError, match=r"model_args.\w+ is no argument of|unknown argument"):
            models.load(spec)
    with pytest.raises(EvalkitError, match="holds more than tensors"):
        models.load(tmp_path / "bomb.pth", model="vit_nano_patch4_32")
    assert not fired.exists()
    pickle.loads((tmp_path / "bomb.pth").read_bytes())
    assert fired.exists()  # it is one


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 1, "drop_path_rate": 0.1}),
        ("efficientnet_b0", {"bn_eps": 1e-4, "drop_rate": 0.1, "drop_path_rate": 0.1}),
        ("resnet18", {"zero_init_last": False, "stem_width": 32}),
        ("swin_tiny_patch4_window7_224", {"window_size": 4, "img_size": 64, "depths": [1, 1, 1, 1]}),
        ("convnext_atto", {"drop_path_rate": 0.1, "ls_init_value": 0.1}),
        ("regnetx_002", {"drop_path_rate": 0.1}),
        ("vit_nano_patch4_32", {"depth": 1, "qkv_bias": False}),
        ("resnet10_cifar", {"pretrained_cfg_overlay": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}),
        ("pvt_nano", {"drop_path_rate": 0.1}),
    ],
)
def test_arguments_that_shape_an_architecture_are_taken(name, arguments):
    assert build(name, num_classes=2, **arguments)
