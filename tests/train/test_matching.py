"""Which recipe a run is of: its settings, whatever the seed, the place and the speed."""

import pytest

from evalkit import config
from evalkit.train.config import TrainConfig
from evalkit.train.matching import recipe_name


@pytest.mark.parametrize(
    ("recipe", "overrides", "expected"),
    [
        ("digits", ["seed=3", "workers=0", "label=mine", "threads=7"], "digits"),
        ("digits", ["epochs=1"], None),
        ("digits", ["mixup=cutmix"], None),  # a method that the recipe says nothing of
        ("imagenet-r50", ["data_dir=x", "mixup=cutmix"], "imagenet-r50"),
        ("imagenet-r50", ["data_dir=x", "mixup=automix"], "imagenet-r50"),  # which brings recipe keys of its own
        ("imagenet-r50", ["data_dir=x", "mixup=vanilla"], "imagenet-r50"),
        ("imagenet-r50", ["data_dir=x", "mixup=cutmix", "mixup.alpha=0.7"], None),
        ("imagenet-r50", ["data_dir=x", "model=resnet34"], None),
        ("deit-300", ["data_dir=x", "augment_device=cpu"], "deit-300"),  # what auto becomes
        ("imagenet-r50", ["data_dir=x", "decode=fast"], None),
        ("deit-300", ["data_dir=x", "amp=fp16"], None),
        ("mixpro", ["data_dir=x", "model=pvt_small"], "mixpro"),  # a network that the recipe has settings for
        ("mixpro", ["data_dir=x", "model=resnet50", "mixup=vanilla"], None),
    ],
)
def test_a_run_is_of_the_recipe_whose_settings_it_has(recipe, overrides, expected):
    assert recipe_name(config.load(TrainConfig, recipe, overrides)) == expected
