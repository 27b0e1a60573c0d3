"""What OpenMixup's settings give each network, beside the values of its configurations (Westlake-AI/openmixup 37e1372),
under its own names."""

import pytest

from evalkit import config
from evalkit.train.config import TrainConfig
from evalkit.train.mixups import from_config

SWITCH = "{choice: [{name: mixup, alpha: 0.8, prob: 0.2}, {name: transmix, alpha: 1.0, prob: 0.8}]}"
# imgs_per_gpu, GPUs, update_interval, lr, weight_decay, grad_clip, min_lr, warmup_iters (epochs), warmup_ratio,
# use_fp16, RepeatAugSampler, drop_path_rate, EMAHook (momentum, warmup_iters in epochs), RandAugment's level, Resize of
# the test pipeline, PreciseBNHook's num_samples
NETWORKS = {
    ("deit_tiny_patch16_224", None): (256, 4, 1, 1e-3, 0.05, 5, 1e-5, 5, 1e-5, True, False, 0, None, 9, 256, None),
    ("deit_tiny_patch16_224", SWITCH): (256, 4, 1, 1e-3, 0.03, 5, 1e-5, 5, 1e-5, True, False, 0, None, 9, 256, None),
    ("deit_small_patch16_224", "cutmix"): (256, 4, 1, 1e-3, 0.05, 5, 1e-5, 5, 1e-5, True, False, 0, None, 9, 256, None),
    ("deit_small_patch16_224", SWITCH): (
        *(256, 4, 1, 1e-3, 0.05, 5, 1e-4, 5, 1e-5, True, False, 0, (0.99996, 20), 9, 256, None),
    ),
    ("deit_small_patch16_224", "automix"): (
        *(128, 8, 1, 1e-3, 0.05, 5, 1e-5, 5, 1e-5, False, False, 0.1, None, 9, 256, None),
    ),
    ("deit_base_patch16_224", "fmix"): (
        *(128, 8, 1, 1e-3, 0.05, 5, 1e-5, 5, 1e-5, True, True, 0.1, (0.99996, 20), 9, 256, None),
    ),
    ("pvt_tiny", "vanilla"): (256, 4, 1, 1e-3, 0.05, None, 1e-5, 5, 1e-6, True, True, 0.1, None, 9, 256, None),
    ("pvt_tiny", "automix"): (128, 8, 1, 1e-3, 0.05, 5, 1e-5, 5, 1e-6, True, False, 0.1, None, 9, 256, None),
    ("swin_tiny_patch4_window7_224", None): (
        *(128, 8, 1, 1e-3, 0.05, 5, 1e-5, 20, 1e-6, True, False, 0.2, None, 9, 256, None),
    ),
    ("swin_tiny_patch4_window7_224", "automix"): (
        *(128, 8, 1, 1e-3, 0.05, 5, 1e-5, 20, 1e-5, False, False, 0.2, None, 9, 256, None),
    ),
    ("convnext_tiny", None): (
        *(256, 8, 2, 4e-3, 0.05, None, 1e-6, 20, 1e-6, True, False, 0.1, (0.9999, 20), 9, 256, None),
    ),
    ("convnext_tiny", "automix"): (
        *(128, 8, 4, 4e-3, 0.05, None, 1e-6, 20, 1e-5, False, False, 0.1, None, 9, 256, None),
    ),
    ("moganet_tiny", None): (256, 4, 1, 1e-3, 0.04, None, 1e-6, 5, 1e-6, True, False, 0.1, None, 7, 248, 8192),
}


@pytest.mark.parametrize(("model", "mixup"), NETWORKS)
def test_each_network_of_the_deit_setting(model, mixup):
    cfg = config.load(
        TrainConfig, "openmixup-deit", ["data_dir=x", f"model={model}", *([f"mixup={mixup}"] if mixup else [])]
    )
    batch, gpus, interval, lr, decay, clip, low, warm, ratio, half, repeats, drop, ema, level, resize, samples = (
        NETWORKS[model, mixup]
    )
    assert (cfg.batch_size, cfg.micro_batch, cfg.accumulate) == (batch * gpus * interval, batch, interval)
    assert (cfg.lr, cfg.weight_decay, cfg.clip_grad, cfg.min_lr, cfg.warmup_epochs) == (lr, decay, clip, low, warm)
    assert cfg.warmup_lr == pytest.approx(lr * ratio, rel=1e-12) and cfg.amp == ("fp16" if half else "none")
    assert (cfg.repeats, cfg.model_args) == (3 if repeats else 1, {"drop_path_rate": drop})
    assert (cfg.ema, cfg.ema_warmup_epochs) == (ema or (None, 0)) and cfg.precise_bn == samples
    assert (cfg.auto_augment, cfg.eval_resize) == (f"rand-m{level}-mstd0.5-inc1", resize)
    common = (cfg.epochs, cfg.opt, cfg.betas, cfg.eps, cfg.label_smoothing, cfg.erasing, cfg.interpolation)
    assert common == (300, "adamw", [0.9, 0.999], 1e-8, 0.1, 0.25, "bicubic")
    assert (cfg.mix_draws, cfg.schedule_by, cfg.warmup_by, cfg.decay_norm_and_bias) == ("step", "step", "step", False)
    if mixup is None:  # the DeiT row; MogaNet's alpha of Mixup is 0.1
        alphas = [(c["name"], c["alpha"], c["prob"]) for c in cfg.mixup["choice"]]
        assert alphas == [("mixup", 0.1 if "moga" in model else 0.8, 0.5), ("cutmix", 1.0, 0.5)]
    if mixup == "automix":
        method, convnext = from_config(cfg.mixup), "convnext" in model
        assert (method.switch_off, method.momentum, method.momentum_start, method.upsample) == (
            0.8,
            0.999,
            0.25,
            "nearest",
        )
        assert method.momentum_end == (0.99996 if convnext else 0.99999) and method.lam_margin == 0.08
        assert method.block_schedule == {"lr": lr, "min_lr": 1e-4}


# The same of the small and the large sets: recipe, network, method -> what differs from the recipe's own network.
OTHERS = {
    ("cifar100", "resnext50_32x4d_cifar", "cutmix"): {"weight_decay": 5e-4},  # docs: Mixup_cifar
    ("cifar100", "resnext50_32x4d_cifar", "attentivemix_plus"): {"weight_decay": 5e-4},
    ("cifar100", "resnext50_32x4d_cifar", "saliencymix"): {"weight_decay": 5e-4},
    ("cifar100", "resnext50_32x4d_cifar", "fmix"): {"weight_decay": 5e-4},
    ("cifar100", "resnext50_32x4d_cifar", "resizemix"): {"weight_decay": 5e-4},
    ("cifar100", "resnext50_32x4d_cifar", "mixup"): {"weight_decay": 1e-4},
    ("cifar100", "resnet18_cifar", "cutmix"): {"weight_decay": 1e-4},
    ("cifar10", "resnext50_32x4d_cifar", "cutmix"): {"weight_decay": 1e-4},
    ("cifar100", "resnext50_32x4d_cifar", "automix"): {"weight_decay": 1e-4, "min_lr": 0.05},
    ("tiny-imagenet", "resnext50_32x4d_cifar", "automix"): {"micro_batch": 50, "batch_size": 100, "lr": 0.2},
    ("tiny-imagenet", "resnext50_32x4d_cifar", "cutmix"): {"micro_batch": 100, "min_lr": 0},
    ("inat2017", "resnet18", "cutmix"): {"lr": 0.1, "epochs": 100},
}


@pytest.mark.parametrize(("recipe", "model", "mixup"), OTHERS)
def test_other_networks_get_their_own_values(recipe, model, mixup):
    cfg = config.load(TrainConfig, recipe, ["data_dir=x", f"model={model}", f"mixup={mixup}"])
    expected = OTHERS[recipe, model, mixup]
    assert {key: getattr(cfg, key) for key in expected} == expected
    assert not any("not a network of this setting" in line for line in cfg.applied)


def test_learned_methods_of_the_large_sets():
    """min_lr of the mix block, by network, and SAMix's end_momentum on Aircraft."""
    published = {  # {automix, samix}/*.py of each folder
        ("inat2017", "resnet50"): (1e-4, 1e-4),
        ("inat2017", "resnet18"): (1e-3, 1e-3),
        ("inat2018", "resnet50"): (1e-4, 1e-4),
        ("inat2018", "resnext101_32x4d"): (1e-4, 1e-4),
        ("places205", "resnet18"): (1e-3, 1e-4),
        ("places205", "resnet50"): (1e-3, 1e-4),
    }
    for (recipe, model), lows in published.items():
        for mixup, low in zip(("automix", "samix"), lows):
            cfg = config.load(TrainConfig, recipe, ["data_dir=x", f"model={model}", f"mixup={mixup}"])
            method = from_config(cfg.mixup)
            assert method.block_schedule == {"lr": 0.1, "min_lr": low} and method.mask_loss_schedule == "compounding"
            assert (method.alpha, method.momentum_end, method.momentum_start) == (2, 0.99999, 0.1)
    for recipe, end in (("aircraft", 0.99996), ("cub", 0.99999)):
        cfg = config.load(TrainConfig, recipe, ["data_dir=x", "mixup=samix"])
        method = from_config(cfg.mixup)
        assert (method.momentum_end, method.lam_shape, method.pairing) == (end, 1, "derange")
        assert method.block_schedule == {"lr": 0.01, "min_lr": 5e-4}
        assert cfg.interpolation == "bilinear" and cfg.crop_scale == [0.5, 1.0] and cfg.eval_resize == 256


def test_the_parts_that_are_trained_and_validated_on():
    """CIFAR, CUB and Aircraft are measured on their test images; Aircraft trains on 6,667 = train and val."""
    from evalkit.data.published import sets_of_recipe

    read = {name: sets_of_recipe(config.read(config.find(name))) for name in ("cifar10", "cub", "aircraft", "inat2018")}
    assert read == {
        "cifar10": ("cifar10-train", "cifar10-test"),
        "cub": ("cub-train", "cub-test"),
        "aircraft": ("aircraft-trainval", "aircraft-test"),
        "inat2018": ("inat2018-train", "inat2018-val"),
    }


def test_sumix_and_regmixup_are_their_authors_code():
    """JinXins/SUMix 0469ec2, configs/classification/*/mixups/uncertain: gama, is_norm; the alpha of 0.2 of its README's
    CutMix rows. FrancescoPinto/RegMixup fd78465, commands.sh."""
    gama = {"cifar100": 0.5, "tiny-imagenet": 1.0, "cub": 0.5, "aircraft": 0.5, "imagenet-r18": 0.5}
    for recipe, weight in gama.items():
        method = from_config(config.load(TrainConfig, recipe, ["data_dir=x", "mixup=sumix"]).mixup)
        assert (method.weight, method.own_head, method.average) == (weight, recipe != "imagenet-r18", False)
        assert type(method.method).__name__ == "CutMix" and method.method.alpha == 0.2
    for recipe, alpha in (("cifar10", 20), ("cifar100", 10)):
        method = from_config(config.load(TrainConfig, recipe, ["data_dir=x", "mixup=regmixup"]).mixup)
        assert (method.alpha, method.eta) == (alpha, 1)


def test_tokenmix_is_its_authors_code():
    """Sense-X/TokenMix 0e17d5d: exp/deit_small/run.sh over main.py's defaults, timm 0.5.4's BinaryCrossEntropy."""
    cfg = config.load(TrainConfig, "tokenmix", ["data_dir=x"])
    assert (cfg.epochs, cfg.cooldown_epochs) == (310, 10)  # args.epochs = create_scheduler(...)[1]
    assert (cfg.batch_size, cfg.micro_batch, cfg.lr) == (8 * 128, 128, 5e-4 * 1024 / 512)
    assert (cfg.model_args, cfg.erasing, cfg.weight_decay, cfg.clip_grad) == ({"drop_path_rate": 0.1}, 0.25, 0.05, None)
    assert (cfg.warmup_epochs, cfg.warmup_lr, cfg.min_lr, cfg.ema, cfg.repeats) == (5, 1e-6, 1e-5, 0.99996, 1)
    assert (cfg.loss, cfg.bce_threshold, cfg.bce_reduction, cfg.label_smoothing) == ("bce", None, "mean", 0.1)
    assert [(c["name"], c["prob"]) for c in cfg.mixup["choice"]] == [("mixup", 0.5), ("tokenmix", 0.5)]
    assert cfg.mixup["choice"][0]["alpha"] == 0.8 and "nfnet_f6" in cfg.mixup["choice"][1]["network"]


def test_transmix_as_run_cools_down_and_its_networks_are_their_authors():
    cfg = config.load(TrainConfig, "transmix-as-run", ["data_dir=x"])
    assert (cfg.epochs, cfg.cooldown_epochs) == (310, 10)  # timm's create_scheduler: t_initial + cooldown_epochs
    published = {  # deit_b_transmix.yaml; supplement A.1: 400 epochs of CaiT and XCiT; see NETWORKS of test_sources
        "deit_base_patch16_224": (0.05, 5, 300, 0.1, None),
        "pvt_large": (0.03, 20, 300, 0.3, 1.0),
        "ca_swin_tiny_patch4_window7_224": (0.03, 20, 300, 0.2, None),
        "cait_xxs36_224": (0.03, 20, 400, 0.1, None),
        "xcit_small_12_p16_224": (0.03, 20, 400, 0.05, None),
    }
    for model, expected in published.items():
        cfg = config.load(TrainConfig, "transmix", ["data_dir=x", f"model={model}"])
        found = (cfg.weight_decay, cfg.warmup_epochs, cfg.epochs, cfg.model_args.get("drop_path_rate"), cfg.clip_grad)
        assert found == expected


def test_distilled_recipes_are_deits():
    """facebookresearch/deit, main.py: --teacher-model regnety_160, --distillation-alpha 0.5, hard in its README."""
    distilled = {"transmix-distilled": "transmix", "mixpro-distilled": "mixpro", "deit-distilled": "deit-300"}
    for name, base in distilled.items():
        cfg, plain = (config.load(TrainConfig, recipe, ["data_dir=x"]) for recipe in (name, base))
        assert (cfg.distill_teacher, cfg.distill_type, cfg.distill_alpha) == ("regnety_160.deit_in1k", "hard", 0.5)
        differ = {key for key in vars(cfg) if getattr(cfg, key) != getattr(plain, key)}
        assert differ - {"applied", "models"} == {"model", "distill_teacher", "label"}
