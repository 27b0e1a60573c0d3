"""Every recipe that ships: loads, is complete, names its sources, and agrees with what was published."""

import dataclasses
import re

import pytest
import yaml

from evalkit import config, recipe_text
from evalkit.errors import EvalkitError
from evalkit.train.config import TrainConfig

NAMES = sorted(config.recipes())
# Keys that say where and how a run executes and what it writes; a recipe need not give them.
NOT_THE_METHOD = {
    *("augment_device", "compile", "device", "checkpoint_minutes", "checkpoint_steps", "keep", "log_steps"),
    *("applied", "holdout", "limit", "picked", "lr_batch", "track"),
    *("auto_micro_batch", "cache", "channels_last", "fsdp", "opt_kernels"),
}


def load(name, mixup=None):
    return config.load(TrainConfig, name, ["data_dir=somewhere", *([f"mixup={mixup}"] if mixup else [])])


@pytest.mark.parametrize("name", NAMES)
def test_loads_and_says_what_to_expect(name):
    load(name)
    header = "\n".join(recipe_text.header(config.find(name)))
    assert re.search(r"^Expected: .+", header, re.M) and re.search(r"^Cost: .+", header, re.M)
    if load(name).data == "folder":
        assert "Needs: data_dir=DIR" in header
        with pytest.raises(EvalkitError, match="needs data_dir=DIR"):
            config.load(TrainConfig, name)


@pytest.mark.parametrize("name", NAMES)
def test_is_complete_or_a_few_lines_on_one_that_is(name):
    text = yaml.safe_load(config.find(name).read_text())
    every = {f.name for f in dataclasses.fields(TrainConfig)} - NOT_THE_METHOD
    if "base" in text:
        assert len(text) <= 9 and "base" not in yaml.safe_load(config.find(text["base"]).read_text())
    else:
        distillation = {key for key in every if key.startswith("distill_")}
        # settings for networks (`models`) are of a recipe that several were published with
        assert set(text) - {"models", "lr_batch"} in (
            every - distillation - {"models"},
            every - {"models"},
        )  # without a teacher the keys about it say nothing


@pytest.mark.parametrize(
    "name, expected",
    [
        # facebookresearch/deit at its defaults for 8 processes of 128: lr 5e-4 * 1024 / 512
        (
            "deit-300",
            {
                "lr": 1e-3,
                "weight_decay": 0.05,
                "warmup_epochs": 5,
                "ema": 0.99996,
                "clip_grad": None,
                "repeats": 3,
                "erasing": 0.25,
                "amp": "bf16",
            },
        ),
        (
            "transmix",
            {
                "lr": 1e-3,
                "weight_decay": 0.03,
                "warmup_epochs": 20,
                "ema": 0.99996,
                "clip_grad": None,
                "repeats": 1,
                "erasing": 0.0,
            },
        ),
        ("transmix-as-run", {"lr": 1e-3, "weight_decay": 0.03, "batch_size": 256, "eval_resize": 248, "epochs": 310}),
        # OpenMixup's deit_s_l6_a2_near_lam_cat_switch0_8_8x128_ep300
        (
            "automix-deit",
            {
                "lr": 1e-3,
                "weight_decay": 0.05,
                "warmup_epochs": 5,
                "warmup_lr": 1e-8,
                "ema": None,
                "clip_grad": 5.0,
                "mix_draws": "step",
            },
        ),
        (
            "mixpro",
            {
                "lr": 1e-3,
                "weight_decay": 0.05,
                "warmup_epochs": 20,
                "ema": None,
                "clip_grad": None,
                "repeats": 1,
                "erasing": 0.25,
            },
        ),
    ],
)
def test_published_values(name, expected):
    cfg = load(name)
    common = {
        **{
            "image_size": 224,
            "epochs": 300,
            "label_smoothing": 0.1,
            "opt": "adamw",
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "min_lr": 1e-5,
            "warmup_lr": 1e-6,
        },
        **{
            "auto_augment": "rand-m9-mstd0.5-inc1",
            "color_jitter": 0.0,
            "interpolation": "bicubic",
            "eval_resize": 256,
            "mix_draws": "group",
        },
    }
    assert {k: getattr(cfg, k) for k in common | expected} == common | expected
    assert cfg.model == "deit_small_patch16_224" and cfg.model_args["drop_path_rate"] == 0.1
    if name != "transmix-as-run":
        assert (cfg.batch_size, cfg.micro_batch) == (1024, 128)


def switch(name):
    """Method -> probability, and method -> its other arguments."""
    choice = load(name).mixup["choice"]
    return {c["name"]: c["prob"] for c in choice}, {
        c["name"]: {k: v for k, v in c.items() if k not in ("name", "prob")} for c in choice
    }


RESNETS = [  # recipe, optimizer, lr, weight decay, epochs, batch, micro-batch, batch of batch norm
    ("imagenet-r50", "momentum", 0.1, 1e-4, 100, 256, 64, None),
    ("imagenet-r18", "momentum", 0.1, 1e-4, 100, 256, 64, None),
    ("rsb-a2", "lamb", 5e-3, 0.02, 300, 2048, 256, 1024),
    ("rsb-a3", "lamb", 8e-3, 0.02, 100, 2048, 512, 2048),
    ("cifar100", "momentum", 0.1, 1e-4, 800, 100, 100, None),
    ("tiny-imagenet", "momentum", 0.2, 1e-4, 400, 100, 100, None),
    ("cub", "momentum", 1e-3, 5e-4, 200, 16, 16, None),
    ("aircraft", "momentum", 1e-3, 5e-4, 200, 16, 16, None),
    ("cifar10", "momentum", 0.1, 1e-4, 800, 100, 100, None),
    ("inat2017", "momentum", 0.1, 1e-4, 100, 256, 64, None),
    ("inat2018", "momentum", 0.1, 1e-4, 100, 256, 64, None),
    ("places205", "momentum", 0.1, 1e-4, 100, 256, 64, None),
]


@pytest.mark.parametrize("name, opt, lr, decay, epochs, batch, micro, bn", RESNETS)
def test_published_values_of_convolutional_recipes(name, opt, lr, decay, epochs, batch, micro, bn):
    cfg = load(name)
    assert (cfg.opt, cfg.lr, cfg.weight_decay, cfg.epochs, cfg.batch_size, cfg.micro_batch, cfg.bn_batch) == (
        opt,
        lr,
        decay,
        epochs,
        batch,
        micro,
        bn,
    )
    rsb = name.startswith("rsb")
    assert (
        cfg.loss == ("bce" if rsb else "ce")
        and cfg.label_smoothing == 0
        and cfg.schedule_by == "epoch"
        and cfg.mix_draws == "step"
    )
    assert (
        cfg.decay_norm_and_bias is not rsb
        and cfg.warmup_epochs == (5 if rsb else 0)
        and cfg.min_lr == (1e-6 if rsb else 0)
    )
    assert cfg.opt_args == ({"max_grad_norm": 1.0} if rsb else {}) and cfg.clip_grad is None
    assert (cfg.image_size, cfg.eval_size) == {
        "rsb-a3": (160, 224),
        "cifar10": (32, None),
        "cifar100": (32, None),
        "tiny-imagenet": (64, None),
    }.get(name, (224, None))


ALPHAS = {  # the published table: mixup, cutmix, manifold, saliencymix, fmix, resizemix, puzzlemix
    "imagenet-r50": (0.2, 1, 0.2, 1, 1, 1, 1),
    "imagenet-r18": (0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 1),
    "rsb-a2": (0.2, 0.2, 0.2, 0.2, 0.2, 1, 1),
    "rsb-a3": (0.2, 0.2, 0.2, 0.2, 0.2, 1, 1),
    "deit-300": (0.2, 0.2, 0.2, 0.2, 0.2, 1, 1),
    "cifar100": (1, 0.2, 2, 0.2, 0.2, 1, 1),
    "tiny-imagenet": (1, 1, 0.2, 1, 1, 1, 1),
    "cub": (1, 1, 0.5, 0.2, 0.2, 1, 1),
    "aircraft": (1, 1, 0.5, 0.2, 0.2, 1, 1),
    "cifar10": (1, 0.2, 2, 0.2, 0.2, 1, 1),
    "inat2017": (1, 1, 0.2, 1, 1, 1, 1),
    "inat2018": (1, 1, 0.2, 1, 1, 1, 1),
    "places205": (1, 1, 0.2, 1, 1, 1, 1),
    "openmixup-deit": (0.2, 0.2, 0.2, 0.2, 0.2, 1, 1),
}


@pytest.mark.parametrize("name", ALPHAS)
def test_published_alphas(name):
    from evalkit.train.mixups import from_config

    methods = ("mixup", "cutmix", "manifold", "saliencymix", "fmix", "resizemix", "puzzlemix")
    made = [from_config(load(name, method).mixup) for method in methods]
    assert tuple(method.alpha for method in made) == ALPHAS[name]
    inherited = {"deit-distilled"}  # deit-300's
    assert {n for n in NAMES if config.read(config.find(n)).get("methods")} == set(ALPHAS) | inherited


def test_published_settings_besides_alphas():
    """OpenMixup: PuzzleMix on CIFAR draws grids up to 16 and moves 4-pixel blocks; PyTorch's ResNet-18 tells CNNs where
    to look, its ResNet-50 DeiT."""
    from evalkit.train.mixups import from_config

    made = {name: {m: from_config(load(name, m).mixup) for m in ("puzzlemix", "attentivemix_plus")} for name in ALPHAS}
    for name, methods in made.items():
        puzzlemix, attentive = methods.values()
        assert (puzzlemix.grids, puzzlemix.t_size) == (
            ((2, 4, 8, 16), 4) if name.startswith("cifar") else ((2, 4, 8), None)
        )
        assert (attentive.alpha, attentive.beta) == (2, 2)
        silent = ("rsb-a2", "rsb-a3", "cub", "aircraft", "inat2017", "inat2018", "places205")  # the method's default
        teacher = "resnet50" if name in silent else f"resnet{50 if 'deit' in name else 18}.tv_in1k"
        assert attentive.teacher.spec == teacher
    supermix = load("imagenet-r50", "supermix").mixup
    assert supermix == {"name": "supermix", "preset": "released_imagenet", "alpha": 2.0}


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "choice" in load(n).mixup and not n.startswith(("rsb", "openmixup"))]
)
def test_switches(name):
    probabilities, arguments = switch(name)
    assert sum(probabilities.values()) == 1
    published = {
        "deit-300": {"mixup": 0.5, "cutmix": 0.5},
        "transmix": {"mixup": 0.2, "transmix": 0.8},
        "transmix-as-run": {"mixup": 0.5, "transmix": 0.5},
        "mixpro": {"mixpro": 0.5, "mixup": 0.25, "cutmix": 0.25},
    }
    published |= {
        "deit-distilled": published["deit-300"],
        "transmix-distilled": published["transmix"],
        "mixpro-distilled": published["mixpro"],
        "tokenmix": {"mixup": 0.5, "tokenmix": 0.5},
        "digits-photo-deit": published["deit-300"],
        "digits-photo-transmix": published["transmix"],
        "digits-photo-mixpro": published["mixpro"],
    }
    assert probabilities == published[name]
    assert arguments["mixup"] == {"alpha": 0.8, "pairing": "flip"}
    assert (
        arguments.get("cutmix", {}).get("alpha", 1.0) == 1.0
        and arguments.get("cutmix", {}).get("pairing", "flip") == "flip"
    )


def test_the_switch_of_resnet_strikes_back():
    for name in ("rsb-a2", "rsb-a3"):
        arguments = {"mixup": {"alpha": 0.1}, "cutmix": {"alpha": 1.0, "pairing": "derange"}}
        assert switch(name) == ({"mixup": 0.5, "cutmix": 0.5}, arguments)


def test_a_cell_of_mixpro_is_whole_patches_and_divides_the_image():
    for name, patch in (("mixpro", 14), ("digits-photo-mixpro", 4)):
        cell = switch(name)[1]["mixpro"]["scale"] * patch
        assert load(name).image_size % cell == 0


def test_demo_recipes_differ_in_the_method_alone():
    plain = load("digits-photo")
    for method in ("vanilla", "deit", "transmix", "mixpro"):
        cfg = load(f"digits-photo-{method}")
        assert dataclasses.replace(cfg, mixup=plain.mixup, label=plain.label) == plain and cfg.label == method


@pytest.mark.parametrize("name", NAMES)
def test_methods_and_model_exist(name):
    from evalkit.models import create
    from evalkit.train.mixups import from_config

    cfg = load(name)
    assert from_config(cfg.mixup) is not None
    if cfg.image_size == 32:
        assert create(cfg.model, num_classes=10, **cfg.model_args).input_size == (32, 32)
