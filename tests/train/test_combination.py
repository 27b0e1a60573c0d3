import pytest

from evalkit import config
from evalkit.train.combination import obstacle
from evalkit.train.config import TrainConfig


def of(model, mixup, **changes):
    words = [f"model={model}", f"mixup={mixup}", "data_dir=somewhere", *(f"{k}={v}" for k, v in changes.items())]
    return obstacle(config.load(TrainConfig, "imagenet-r50", words))


@pytest.mark.parametrize(
    ("model", "mixup", "word"),
    [
        ("resnet50", "transmix", "no class attention"),
        ("resnet18", "{choice: [{name: mixup, prob: 0.5}, {name: mixpro, prob: 0.5}]}", "no class attention"),
        ("swin_tiny_patch4_window7_224", "mixpro", "no class attention"),
        ("deit_small_patch16_224", "alignmix", "pools a feature map"),
        ("resnet18", "mixtoken", "patch embeddings"),
        ("deit_tiny_patch16_224", "{name: transmix, attn_depth: 13}", "blocks 1 to 12"),
        ("pvt_tiny", "{name: mixpro, scale: 11}", "352"),
    ],
)
def test_combinations_that_cannot_be_say_why(model, mixup, word):
    assert word in of(model, mixup)


@pytest.mark.parametrize(
    ("model", "mixup"),
    [
        ("deit_small_patch16_224", "transmix"),
        ("pvt_tiny", "{name: mixpro, preset: swin}"),
        ("resnet50", "automix"),
        ("resnet50", "manifold"),
        ("vit_tiny_patch16_224", "snapmix"),  # judged by values, which nothing here has
        ("deit_small_patch16_224", "attentive_cutmix"),  # its teacher's weights are another question
        (
            "deit_tiny_patch16_224",
            "{choice: [{name: mixup, prob: 0.5}, {name: tokenmix, network: resnet18, prob: 0.5}]}",
        ),
    ],
)
def test_others_go_together(model, mixup):
    assert of(model, mixup) is None
