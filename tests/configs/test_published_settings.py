"""What each setting gives its methods, beside the configurations that the published numbers were trained with."""

import pytest

from evalkit import config
from evalkit.train.config import TrainConfig
from evalkit.train.mixups import from_config

# Westlake-AI/openmixup 37e1372, configs/classification: of each configuration the values that differ between settings,
# under its own names. lr is that of SGD or AdamW, min_lr its end; the block's are null where it shares the network's
# rate. hook: whether CustomCosineAnnealingHook multiplies the weight of the mask loss.
OPENMIXUP = {
    ("cifar100", "automix"): {
        "file": "cifar100/automix/basic/r18_l2_a2_near_L1_01_mlr5e_2.py",
        **{"lam_concat": False, "end_momentum": 0.999999, "hook": False, "min_lr": 0.05, "block": None},
        **{"unsampling_mode": "nearest", "mask_adjust": 0, "lr": 0.1, "no_repeat": False},
    },
    ("cifar100", "samix"): {
        "file": "cifar100/samix/basic/r18/unsampling_modebilinear/r18_l2_a2_bili_val_dp0_mul_x_cat_L1_var_01_mlr5e_2_lam_mul_k0_25_mask_adjust0_25_ep800.py",  # noqa: E501
        **{"lam_mul_k": 0.25, "end_momentum": 0.999999, "hook": False, "min_lr": 0.05, "block": None},
        **{"unsampling_mode": "bilinear", "mask_adjust": 0.25, "lr": 0.1, "no_repeat": False, "dropout": 0},
    },
    ("tiny-imagenet", "automix"): {
        "file": "tiny_imagenet/automix/basic/r18_l2_a2_near_mb_mlr1e_3_bb_mlr5e_2.py",
        **{"lam_concat": False, "end_momentum": 0.999999, "hook": False, "min_lr": 0.05, "block": (0.1, 1e-3, 0.9)},
        **{"unsampling_mode": "nearest", "mask_adjust": 0, "lr": 0.2, "no_repeat": False},
    },
    ("tiny-imagenet", "samix"): {
        "file": "tiny_imagenet/samix/basic/r18_l2_a2_bili_val_dp0_mul_mb_mlr1e_3_bb_mlr5e_2.py",
        **{"lam_mul_k": -1, "end_momentum": 0.999999, "hook": False, "min_lr": 0.05, "block": (0.1, 1e-3, 0.9)},
        **{"unsampling_mode": "bilinear", "mask_adjust": 0, "lr": 0.2, "no_repeat": False, "dropout": 0},
    },
    ("imagenet-r50", "automix"): {
        "file": "imagenet/automix/basic/r50/unsampling_modenearest/r50_l2_a2_near_lam_cat_mb_mlr1e_3_m0_bb_mlr0_ep100.py",  # noqa: E501
        **{"lam_concat": True, "end_momentum": 0.99999, "hook": True, "min_lr": 0, "block": (0.1, 1e-3, 0)},
        **{"unsampling_mode": "nearest", "mask_adjust": 0, "lr": 0.1, "no_repeat": False},
    },
    ("imagenet-r50", "samix"): {
        "file": "imagenet/samix/basic/r50/unsampling_modebilinear/r50_l2_a2_bili_val_dp01_mul_mb_mlr1e_3_m0_bb_mlr0_4xb64_ep100.py",  # noqa: E501
        **{"lam_mul_k": -1, "end_momentum": 0.99999, "hook": True, "min_lr": 0, "block": (0.1, 1e-3, 0)},
        **{"unsampling_mode": "bilinear", "mask_adjust": 0, "lr": 0.1, "no_repeat": False, "dropout": 0.1},
    },
    ("imagenet-r18", "automix"): {
        "file": "imagenet/automix/basic/r18_l2_a2_near_lam_cat_mb_mlr1e_3_bb_mlr0.py",
        **{"lam_concat": True, "end_momentum": 0.99999, "hook": True, "min_lr": 0, "block": (0.1, 1e-3, 0.9)},
        **{"unsampling_mode": "nearest", "mask_adjust": 0, "lr": 0.1, "no_repeat": False},
    },
    ("imagenet-r18", "samix"): {
        "file": "imagenet/samix/basic/r18_l2_a2_bili_val_dp01_mul_mb_mlr1e_3_bb_mlr0_4xb64.py",
        **{"lam_mul_k": -1, "end_momentum": 0.99999, "hook": True, "min_lr": 0, "block": (0.1, 1e-3, 0.9)},
        **{"unsampling_mode": "bilinear", "mask_adjust": 0, "lr": 0.1, "no_repeat": False, "dropout": 0.1},
    },
    ("cub", "automix"): {
        "file": "cub200/automix/r18_l2_a2_near_lam_cat_mb_mlr5e_4_1xb16_ep200.py",
        **{"lam_concat": True, "end_momentum": 0.99999, "hook": True, "min_lr": 0, "block": (0.01, 5e-4, 0.9)},
        **{"unsampling_mode": "nearest", "mask_adjust": 0, "lr": 1e-3, "no_repeat": True},
    },
    ("cub", "samix"): {
        "file": "cub200/samix/r18_l2_a2_bili_val_dp01_mb_mlr5e_4_1xb16_ep200.py",
        **{"lam_mul_k": 1, "end_momentum": 0.99999, "hook": True, "min_lr": 0, "block": (0.01, 5e-4, 0.9)},
        **{"unsampling_mode": "bilinear", "mask_adjust": 0, "lr": 1e-3, "no_repeat": True, "dropout": 0.1},
    },
    ("automix-deit", "automix"): {
        "file": "imagenet/automix/deit/deit_s_l6_a2_near_lam_cat_switch0_8_8x128_ep300.py",
        **{"lam_concat": True, "end_momentum": 0.99999, "hook": True, "min_lr": 1e-5, "block": (1e-3, 1e-4, None)},
        **{"unsampling_mode": "nearest", "mask_adjust": 0, "lr": 1e-3, "no_repeat": False},
        **{"switch_off": 0.8, "adjust_scope": 0.25},
    },
}
OPENMIXUP["deit-300", "automix"] = OPENMIXUP["automix-deit", "automix"]

# AdAutoMix: the configuration written at the head of the published logs (JinXins/Adversarial-AutoMixup 9d6fd12,
# experiments/CIFAR100/adautomix_r18_800e.log), else OpenMixup's configs/classification.
ADAUTOMIX = {
    "cifar100": {
        **{"mix_samples": 3, "beta_radio": 0.3, "lam_concat": False, "end_momentum": 0.999999},
        **{"norm": "none", "lr": 0.1, "min_lr": 0.05, "block": None},
    },
    "tiny-imagenet": {  # tiny_imagenet/adautomix/basic/r18_adautomix_blinear.py
        **{"mix_samples": 3, "beta_radio": 0.4, "lam_concat": False, "end_momentum": 0.999999},
        **{"norm": "none", "lr": 0.2, "min_lr": 0, "block": (0.1, 0, 0.9)},
    },
    "imagenet-r50": {  # imagenet/adautomix/basic/r50_adautomix_bilinear.py
        **{"mix_samples": 2, "beta_radio": 0.1, "lam_concat": True, "end_momentum": 0.99999},
        **{"norm": "bn", "lr": 0.1, "min_lr": 0, "block": (0.1, 1e-3, 0.9)},
    },
    "imagenet-r18": {  # imagenet/adautomix/basic/r18_adautomix_bilinear.py
        **{"mix_samples": 2, "beta_radio": 0.1, "lam_concat": True, "end_momentum": 0.99999},
        **{"norm": "none", "lr": 0.1, "min_lr": 0, "block": (0.1, 1e-3, 0.9)},
    },
}


def chosen(recipe, method):
    """The resolved configuration of a recipe with one of its methods, and the method."""
    cfg = config.load(
        TrainConfig, recipe, ["data_dir=somewhere", f"mixup={method}"] if recipe != "automix-deit" else ["data_dir=x"]
    )
    return cfg, from_config(cfg.mixup)


def block_rates(cfg, method):
    """lr, min_lr and SGD's momentum of the mix block; null where it has no rate of its own."""
    if not method.block_schedule:
        return None
    momentum = method.block_options.get("momentum", cfg.momentum) if cfg.opt == "momentum" else None
    schedule = method.block_schedule
    return schedule.get("lr", cfg.lr), schedule.get("min_lr", cfg.min_lr), momentum


@pytest.mark.parametrize(("recipe", "name"), OPENMIXUP)
def test_automix_and_samix(recipe, name):
    published = OPENMIXUP[recipe, name]
    cfg, method = chosen(recipe, name)
    assert (cfg.lr, cfg.min_lr, block_rates(cfg, method)) == (published["lr"], published["min_lr"], published["block"])
    assert method.mask_loss_schedule == ("compounding" if published["hook"] else "constant")
    assert (method.momentum, method.momentum_end) == (0.999, published["end_momentum"])
    assert method.upsample == published["unsampling_mode"] and method.mask_adjust == published["mask_adjust"]
    assert method.pairing == ("derange" if published["no_repeat"] else "perm")
    assert method.switch_off == published.get("switch_off", 0)
    assert method.momentum_start == published.get("adjust_scope", 0.1)
    if name == "automix":
        assert method.lam_embed == published["lam_concat"]
    else:
        assert (method.lam_shape, method.dropout) == (published["lam_mul_k"], published["dropout"])
    # the same in all of them
    assert (method.alpha, method.lam_margin, method.mask_loss_weight, method.mask_margin) == (2, 0.08, 0.1, 0.1)
    assert method.norm == "none" and not method.k_eval_mode and method.one is None
    assert method.adjust_to_k == (method.mask_adjust > 0)  # the code scales masks to the block's lambda


@pytest.mark.parametrize("recipe", ADAUTOMIX)
def test_adautomix(recipe):
    published = ADAUTOMIX[recipe]
    cfg, method = chosen(recipe, "adautomix")
    assert (cfg.lr, cfg.min_lr) == (published["lr"], published["min_lr"])
    assert block_rates(cfg, method) == published["block"]
    assert (method.images, method.beta, method.lam_embed) == (
        published["mix_samples"],
        published["beta_radio"],
        published["lam_concat"],
    )
    assert (method.momentum_end, method.norm) == (published["end_momentum"], published["norm"])
    assert (method.alpha, method.lam_margin, method.upsample, method.adv_interval) == (1, 0.03, "bilinear", 2)
    assert not method.port_margin


# The same, of presets that no recipe takes: switch_off, end_momentum, begin of adjust_scope, upsampling.
PRESETS = {
    ("automix", "vit"): (
        "imagenet/automix/deit/deit_s_l6_a2_near_lam_cat_switch0_8_8x128_ep300.py",
        0.8,
        0.99999,
        0.25,
        "nearest",
    ),
    ("automix", "convnext"): (
        "imagenet/automix/convnext/convnext_t_l2_a2_near_lam_cat_switch0_8_8x128_accu4_ep300.py",
        0.8,
        0.99996,
        0.25,
        "nearest",
    ),
    ("automix", "cifar_vit"): (
        "cifar100/automix/vits/deit_s_l6_a2_near_L1_01_sz224_mlr1e_4_bs100_ep200.py",
        1.0,
        0.99996,
        0.25,
        "nearest",
    ),
    ("samix", "cifar_vit"): (
        "cifar100/samix/vits/deit_s_l6_a2_near_val_dp01_sz224_mlr1e_4_bs100_ep200.py",
        1.0,
        0.99996,
        0.25,
        "nearest",
    ),
    ("adautomix", "cifar_vit"): (
        "cifar100/adautomix/vit/deit_s_l6_a1_near_sz224_mlr1e_4_bs100_ep200.py",
        0.8,
        0.99996,
        0.25,
        "nearest",
    ),
}


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_of_learned_methods(name, preset):
    method = from_config({"name": name, "preset": preset})
    found = method.switch_off, method.momentum_end, method.momentum_start, method.upsample
    assert found == PRESETS[name, preset][1:] and method.momentum == 0.999
    if name == "adautomix":
        assert (method.images, method.beta, method.lam_embed, method.lam_margin) == (3, 0.3, True, 0.03)
    elif name == "samix":
        assert (method.lam_shape, method.dropout) == (-1, 0.1)


def test_deit_300_trains_automix_by_the_keys_of_its_own_recipe():
    ours, _ = chosen("deit-300", "automix")
    theirs, _ = chosen("automix-deit", "automix")
    differ = {
        key for key in vars(ours) if getattr(ours, key) != getattr(theirs, key) and key not in ("data_dir", "applied")
    }
    assert differ == {"label", "workers"} - ({"workers"} if ours.workers == theirs.workers else set())


@pytest.mark.parametrize("recipe", ["rsb-a2", "rsb-a3"])
@pytest.mark.parametrize("name", ["automix", "samix"])
def test_rsb_says_that_its_learned_methods_have_no_public_configuration(recipe, name):
    """Only the schedule of the mask loss, which all of OpenMixup's ImageNet configurations share, is set."""
    text = config.find(recipe).read_text()
    assert "no configuration of this setting is public" in text
    cfg, method = chosen(recipe, name)
    assert cfg.mixup == {"name": name, "mask_loss_schedule": "compounding"} and method.block_schedule == {}


QUIRKS = {"cutmix": ("pairing", "derange"), "fmix": ("lam", "sampled"), "saliencymix": ("saliency", "float_compat")}
SETTINGS = ("cifar100", "tiny-imagenet", "imagenet-r50", "imagenet-r18", "rsb-a2", "rsb-a3", "deit-300", "cub")
SETTINGS += ("aircraft", "cifar10", "inat2017", "inat2018", "places205", "openmixup-deit")


@pytest.mark.parametrize("recipe", SETTINGS)
def test_hand_crafted_methods_are_openmixups_where_its_numbers_are_quoted(recipe):
    """Near-derangements, FMix's sampled lambda, SaliencyMix's noise, ResizeMix's clipped box with tau from Beta."""
    for name, (argument, value) in QUIRKS.items():
        assert getattr(chosen(recipe, name)[1], argument) == value
    resizemix = chosen(recipe, "resizemix")[1]
    assert resizemix.box == "clipped" and resizemix.alpha == (0.2 if recipe == "imagenet-r18" else 1)


def test_comixup_and_supermix_are_their_authors_code():
    """snu-mllab/Co-Mixup 2a76816: main.py for CIFAR and Tiny-ImageNet, comix-imagenet/lib/utils.py."""
    for recipe in ("cifar100", "tiny-imagenet"):
        method = chosen(recipe, "comixup")[1]
        assert (method.alpha, method.part, method.iterations, method.peak_stride) == (2, 20, 4, 1)
        assert method.threshold_first and method.clean_lam == 1
    method = chosen("imagenet-r50", "comixup")[1]
    assert (method.alpha, method.part, method.iterations, method.peak_stride) == (1, 16, 3, 8)
    assert (method.beta, method.gamma, method.eta, method.threshold, method.clean_lam) == (0.32, 1, 0.05, 0.83, 1)
    supermix = chosen("imagenet-r50", "supermix")[1]
    assert (supermix.alpha, supermix.width, supermix.sigma) == (2, 16, 2)


def test_resnet_34_takes_the_larger_alphas():
    """OpenMixup's ImageNet page limits an alpha of 0.2 to ResNet-18."""
    header = config.find("imagenet-r50").read_text().split("model:")[0]
    assert "For ResNet-34: model=resnet34" in header and "-34" not in config.find("imagenet-r18").read_text()
    cfg = config.load(TrainConfig, "imagenet-r50", ["data_dir=x", "model=resnet34", "mixup=cutmix"])
    assert cfg.mixup["alpha"] == 1
