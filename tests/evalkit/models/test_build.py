import pytest
import timm

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
