import pytest

from evalkit import config
from evalkit.errors import EvalkitError
from evalkit.train.config import TrainConfig
from evalkit.train.mixups import from_config

METHODS = (
    "methods={mixup: {alpha: 0.2}, cutmix: {alpha: 0.3, pairing: flip},"
    " resizemix: {alpha: 0.4}, automix: {preset: cifar, block_lr: 0.1, recipe: {min_lr: 0.05, epochs: 7}}}"
)


def load(*overrides, recipe="digits"):
    return config.load(TrainConfig, recipe, ["lr=0.1", METHODS, *overrides])


def test_arguments_of_the_setting():
    assert load("mixup=mixup").mixup == {"name": "mixup", "alpha": 0.2}
    plain = load("mixup=fmix")
    assert plain.mixup == "fmix" and set(plain.methods) == {"mixup", "cutmix", "resizemix", "automix"}
    assert load("mixup={name: cutmix, alpha: 0.7}").mixup == {"name": "cutmix", "alpha": 0.7, "pairing": "flip"}
    choice = load("mixup={choice: [{name: mixup, prob: 0.4}, {name: cutmix, alpha: 1.0, prob: 0.6}]}").mixup
    assert [(m.alpha, getattr(m, "pairing", None)) for m in from_config(choice).methods] == [
        (0.2, "perm"),
        (1.0, "flip"),
    ]
    inside = from_config(load("mixup={name: decouplemix, method: cutmix}").mixup)
    assert inside.method.alpha == 0.3


def test_a_preset_and_the_setting_combine():
    cfg = load("mixup={name: cutmix, preset: openmixup}")
    made = from_config(cfg.mixup)
    assert (made.alpha, made.pairing) == (0.3, "derange")
    assert cfg.applied == ["cutmix: alpha=0.3", "cutmix: preset openmixup instead of pairing=flip"]
    cfg = load("mixup={name: resizemix, preset: openmixup}")
    made = from_config(cfg.mixup)
    assert (made.alpha, made.box) == (1.0, "clipped")
    assert cfg.applied == ["resizemix: preset openmixup instead of alpha=0.4"]
    cfg = load("mixup={name: automix, preset: vit}")
    assert cfg.mixup == {"name": "automix", "preset": "vit", "block_lr": 0.1} and cfg.min_lr == 0.05


def test_recipe_keys_of_a_method():
    base, cfg = load(), load("mixup=automix")
    assert (base.min_lr, base.epochs) == (1e-5, 20) and (cfg.min_lr, cfg.epochs) == (0.05, 7)
    assert cfg.mixup == {"name": "automix", "preset": "cifar", "block_lr": 0.1} and cfg.methods == {}
    assert cfg.applied == [
        *("automix: preset=cifar", "automix: block_lr=0.1", "min_lr=0.05 for automix", "epochs=7 for automix"),
    ]
    assert load("mixup=cutmix").min_lr == base.min_lr


def test_the_command_line_comes_first():
    cfg = load("mixup=automix", "min_lr=0.01", "mixup.block_lr=0.2")
    assert cfg.min_lr == 0.01 and cfg.epochs == 7 and cfg.mixup["block_lr"] == 0.2
    assert "min_lr=0.01 of the command line instead of 0.05 for automix" in cfg.applied
    cfg = load("mixup=automix", "methods.automix.recipe.min_lr=0.02")
    assert cfg.min_lr == 0.02


def test_the_resolved_configuration_is_a_recipe(tmp_path):
    cfg = load("mixup=automix", "min_lr=0.01")
    config.save(cfg, tmp_path / "config.yaml")
    again = str(tmp_path / "config.yaml")
    assert config.load(TrainConfig, again) == cfg
    assert config.load(TrainConfig, again, ["mixup.alpha=1.0"]).mixup["alpha"] == 1.0
    with pytest.raises(EvalkitError, match="made for its own mixup .*for another one name the recipe it came from"):
        config.load(TrainConfig, again, ["mixup=cutmix"])


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("{cutmx: {alpha: 1}, mixup: {}}", "unknown mixup in `methods` 'cutmx'. Did you mean 'cutmix'"),
        ("{mixup: {alhpa: 1}}", "unknown mixup key in `methods` 'alhpa'. Did you mean 'alpha'"),
        ("{mixup: {recipe: {min_rl: 1}}}", "unknown recipe key of mixup in `methods` 'min_rl'. Did you mean 'min_lr'"),
        ("{mixup: {recipe: {mixup: cutmix}}}", "unknown recipe key of mixup in `methods` 'mixup'"),
        ("{mixup: {recipe: {min_lr: low}}}", "key 'min_lr' must be a number"),
        ("{mixup: {recipe: 3}}", "`methods` holds mixup"),
    ],
)
def test_wrong_settings(methods, message):
    with pytest.raises(EvalkitError, match=message):
        config.load(TrainConfig, "digits", ["mixup=mixup", f"methods={methods}"])


def test_branches_that_want_a_key_differently():
    methods = "methods={mixup: {recipe: {min_lr: 0.1}}, cutmix: {recipe: {min_lr: 0.2}}}"
    with pytest.raises(EvalkitError, match="mixup wants min_lr=0.1 in this setting and cutmix 0.2; choose: min_lr="):
        config.load(TrainConfig, "digits", [methods, "mixup={choice: [mixup, cutmix]}"])
