"""`models`: what a setting gives each network, and nothing to any other."""

import pytest

from evalkit import config
from evalkit.errors import EvalkitError
from evalkit.train.config import TrainConfig


def mixpro(*overrides):
    return config.load(TrainConfig, "mixpro", ["data_dir=x", *overrides])


def test_each_network_gets_its_own_keys_and_no_others():
    deit, pvt = mixpro(), mixpro("model=pvt_medium")
    assert deit.model_args == {"patch_size": 14, "drop_path_rate": 0.1}
    assert pvt.model_args == {"drop_path_rate": 0.3} and pvt.mixup["choice"][0]["preset"] == "swin"
    assert mixpro("model=xcit_small_12_p16_224").epochs == 400 and pvt.epochs == 300
    assert pvt.clip_grad == 1.0 and deit.clip_grad is None
    assert any("drop_path_rate" in line for line in pvt.applied) and pvt.models == {}


def test_a_network_of_which_the_setting_says_nothing_is_named():
    other = mixpro("model=resnet50")
    assert other.model_args == {} and "resnet50: not a network of this setting" in other.applied[0]


def test_the_command_line_comes_first():
    whole, part = mixpro("model_args={drop_path_rate: 0.2}"), mixpro("model_args.drop_path_rate=0.2")
    assert whole.model_args == {"drop_path_rate": 0.2} and "of the command line" in whole.applied[0]
    assert part.model_args == {"patch_size": 14, "drop_path_rate": 0.2}
    assert mixpro("model=pvt_small", "mixup=cutmix").mixup == "cutmix"


@pytest.mark.parametrize(
    ("models", "word"),
    [("{deit_small_patch16_224: 3}", "KEY"), ("{deit_small_patch16_224: {epoch: 3}}", "epochs")],
)
def test_what_cannot_be_is_named(models, word):
    with pytest.raises(EvalkitError, match=word):
        mixpro(f"models={models}")


def test_the_saved_configuration_is_settled_once(tmp_path):
    config.save(mixpro("model=pvt_small"), tmp_path / "config.yaml")
    again = config.load(TrainConfig, tmp_path / "config.yaml")
    assert again == mixpro("model=pvt_small")


def test_what_a_setting_gives_is_said_as_one_types_it():
    cfg = config.load(TrainConfig, "small", ["data_dir=x", "model=vit_nano_patch4_32"])
    assert "lr_batch=null for vit_nano_patch4_32" in cfg.applied
    assert "decay_norm_and_bias=false for vit_nano_patch4_32" in cfg.applied
