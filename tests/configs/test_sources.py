"""Each source that a recipe's comment names, beside that source's own numbers, and no comment without.

SOURCES holds what each source says, read from its files (commit or table in the name) and written as our keys. A
comment that names a source for a key must find the key in that source's numbers, and write no number that is in none of
them; the recipe's own value is that of one of the named sources, unless a row of OURS says why it is nobody's."""

import re

import pytest
import yaml

from evalkit import config
from evalkit.train.config import TrainConfig

DEIT_SWITCH = {"mixup": 0.5, "cutmix": 0.5}  # method -> probability
SOURCES = {
    "DeiT code": {  # facebookresearch/deit 7e160fe: main.py's defaults, 8 GPUs of 128; engine.py: autocast
        **{"lr": 5e-4 * 1024 / 512, "min_lr": 1e-5, "warmup_lr": 1e-6, "warmup_epochs": 5, "epochs": 300},
        **{"batch_size": 1024, "micro_batch": 128, "weight_decay": 0.05, "clip_grad": None, "ema": 0.99996},
        **{"color_jitter": 0.3, "auto_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.25, "interpolation": "bicubic"},
        **{"repeats": 3, "label_smoothing": 0.1, "eval_resize": 224 / 0.875, "amp": "fp16", "mix_draws": "group"},
        **{"schedule_by": "epoch", "warmup_by": "epoch", "mixup": DEIT_SWITCH},
    },
    "OpenMixup's DeiT": {  # 37e1372, imagenet/mixups/deit: deit_small_smooth_mixup_a0_2_4xb256_ep300
        **{"lr": 1e-3, "min_lr": 1e-5, "warmup_lr": 1e-3 * 1e-5, "warmup_epochs": 5, "epochs": 300, "model_args": {}},
        **{"batch_size": 1024, "micro_batch": 256, "weight_decay": 0.05, "clip_grad": 5.0, "ema": None, "repeats": 1},
        **{"auto_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.25, "eval_resize": 256, "amp": "fp16"},
        **{"schedule_by": "step", "warmup_by": "step", "mix_draws": "step", "interpolation": "bicubic"},
    },
    "OpenMixup's AutoMix": {  # deit_s_l6_a2_near_lam_cat_switch0_8_8x128_ep300
        **{"lr": 1e-3, "min_lr": 1e-5, "warmup_lr": 1e-3 * 1e-5, "warmup_epochs": 5, "epochs": 300, "erasing": 0.25},
        **{"batch_size": 1024, "micro_batch": 128, "weight_decay": 0.05, "clip_grad": 5.0, "ema": None, "repeats": 1},
        **{"auto_augment": "rand-m9-mstd0.5-inc1", "eval_resize": 256, "amp": "none", "eval_epochs": 1},
        **{"schedule_by": "step", "warmup_by": "step", "mix_draws": "step", "model_args": {"drop_path_rate": 0.1}},
    },
    "OpenMixup's DeiT-B": {"repeats": 3, "ema": 0.99996, "model_args": {"drop_path_rate": 0.1}},  # deit_base_*
    "OpenMixup's TransMix": {"mixup": {"mixup": 0.2, "transmix": 0.8}, "ema": 0.99996},  # mix_prob, EMAHook
    "AutoMix Table 10": {"clip_grad": 1.0, "amp": "none", "ema": True, "repeats": 3, "color_jitter": None},
    "TransMix paper": {  # supplementary, section A.1
        **{"lr": 1e-3, "batch_size": 1000, "weight_decay": 0.03, "warmup_epochs": 20, "epochs": 300, "repeats": 1},
        "erasing": 0.25,  # "the data augmentation and regularization adopted in" DeiT
    },
    "TransMix code": {  # Beckschen/TransMix 0e4d31e: deit_s_transmix.yaml over train.py's defaults; README: 8 GPUs
        **{"lr": 1e-3, "min_lr": 1e-5, "warmup_lr": 1e-6, "warmup_epochs": 20, "weight_decay": 0.03, "ema": 0.99996},
        **{"batch_size": 256, "micro_batch": 32, "erasing": 0.0, "repeats": 1, "amp": "none", "clip_grad": None},
        **{"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "random", "eval_resize": int(224 / 0.9)},
        **{"mixup": {"mixup": 0.5, "transmix": 0.5}, "epochs": 300 + 10, "schedule_by": "epoch", "mix_draws": "group"},
    },
    "TransMix code, as written": {"mixup": {"mixup": 0.2, "transmix": 0.8}},  # mixup-switch-prob, mixup_switch_prob
    "TransMix code, DeiT-B": {"weight_decay": 0.05, "warmup_epochs": 5, "batch_size": 256},  # deit_b_transmix.yaml
    "TransMix code 7e313ca": {"batch_size": 1024, "lr": 1e-3},
    "MixPro paper": {  # section 4, tables 1 and 11
        **{"lr": 1e-3, "weight_decay": 0.05, "batch_size": 1024, "warmup_epochs": 20, "epochs": 300, "repeats": 1},
        **{"ema": None, "label_smoothing": 0.1},
    },
    "MixPro code": {  # fistyee/MixPro 53a229e: config.py, main.py lines 467 to 469, configs/deit, data/build.py
        **{"lr": 1e-3, "min_lr": 1e-5, "warmup_lr": 1e-6, "warmup_epochs": 20, "weight_decay": 0.05, "epochs": 300},
        **{"batch_size": 8 * 128, "micro_batch": 128, "erasing": 0.25, "color_jitter": 0.4, "repeats": 1, "ema": None},
        **{"clip_grad": 5.0, "amp": "fp16", "auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic"},
        **{"mixup": {"mixpro": 0.5, "mixup": 0.25, "cutmix": 0.25}, "eval_resize": int(256 / 224 * 224)},
        **{"model_args": {"patch_size": 14, "drop_path_rate": 0.1}, "schedule_by": "step", "mix_draws": "group"},
    },
    "OpenMixup's RSB A2": {  # r50_rsb_a2_CE_sigm_mix0_1_cut1_0_4xb256_accu2_fp16; optimizers/lamb.py; its page
        **{"lr": 5e-3, "min_lr": 1e-6, "warmup_lr": 5e-3 * 1e-5, "warmup_epochs": 5, "epochs": 300, "eps": 1e-6},
        **{"batch_size": 4 * 256 * 2, "micro_batch": 256, "accumulate": 2, "bn_batch": 4 * 256, "weight_decay": 0.02},
        **{"repeats": 3, "eval_resize": 236, "amp": "fp16", "auto_augment": "rand-m7-mstd0.5-inc1", "loss": "bce"},
        **{"model_args": {"drop_path_rate": 0.05}, "mixup": DEIT_SWITCH, "schedule_by": "epoch", "warmup_by": "step"},
        **{"clip_grad": None, "opt_args": {"max_grad_norm": 1.0}, "bce_threshold": None, "mix_draws": "step"},
        "median_evals": 10,
    },
    "OpenMixup's RSB A3": {  # mixups/rsb_a3/r50_rsb_a3_CE_sigm_mix0_1_cut1_0_4xb512_fp16
        **{"lr": 8e-3, "min_lr": 1e-6, "warmup_lr": 8e-3 * 1e-5, "warmup_epochs": 5, "epochs": 100, "eps": 1e-6},
        **{"batch_size": 4 * 512, "micro_batch": 512, "accumulate": 1, "bn_batch": 4 * 512, "weight_decay": 0.02},
        **{"repeats": 1, "eval_resize": 236, "image_size": 160, "eval_size": 224, "amp": "fp16", "loss": "bce"},
        **{"model_args": {}, "mixup": DEIT_SWITCH, "auto_augment": "rand-m6-mstd0.5-inc1", "schedule_by": "epoch"},
        **{"clip_grad": None, "opt_args": {"max_grad_norm": 1.0}, "bce_threshold": None, "mix_draws": "step"},
        **{"warmup_by": "step", "median_evals": 5},
    },
    "OpenMixup's R-50": {  # mixups/basic/r50_mixups_CE_none_4xb64
        **{"lr": 0.1, "min_lr": 0.0, "warmup_epochs": 0, "epochs": 100, "batch_size": 4 * 64, "micro_batch": 64},
        **{"weight_decay": 1e-4, "decay_norm_and_bias": True, "momentum": 0.9, "clip_grad": None, "amp": "none"},
        **{"eval_resize": 256, "interpolation": "bicubic", "crop_scale": [0.08, 1.0], "mix_draws": "step"},
        **{"schedule_by": "epoch", "median_evals": 5, "opt": "momentum"},
    },
    "OpenMixup's CIFAR-100": {  # cifar100/mixups/basic/r18_mixups_CE_none
        **{"lr": 0.1, "min_lr": 0.0, "batch_size": 100, "weight_decay": 1e-4, "decay_norm_and_bias": True},
        **{"momentum": 0.9, "image_size": 32, "eval_resize": 32, "augment": "pad-crop-flip", "mix_draws": "step"},
        **{"median_evals": 10, "opt": "momentum", "clip_grad": None, "schedule_by": "epoch"},
    },
    "OpenMixup's CIFAR-100 page": {"weight_decay": 5e-4},  # ResNeXt-50 with the cutting methods
    "OpenMixup's Tiny-ImageNet": {  # tiny_imagenet/mixups/basic/r18_mixups_CE_none
        **{"lr": 0.2, "min_lr": 0.0, "batch_size": 100, "weight_decay": 1e-4, "epochs": 400, "image_size": 64},
        **{"eval_resize": 64, "interpolation": "bicubic", "decay_norm_and_bias": True, "mix_draws": "step"},
        **{"median_evals": 10, "opt": "momentum", "clip_grad": None, "schedule_by": "epoch"},
    },
    "OpenMixup's CUB": {  # cub200/mixups/basic/r18_mixups_CE_none; aircrafts: the same
        **{"lr": 1e-3, "min_lr": 0.0, "batch_size": 16, "weight_decay": 5e-4, "epochs": 200, "crop_scale": [0.5, 1.0]},
        **{"eval_resize": 256, "interpolation": "bilinear", "decay_norm_and_bias": True, "mix_draws": "step"},
        **{"opt": "momentum", "clip_grad": None, "schedule_by": "epoch", "median_evals": 10},
    },
    "timm": {
        "bce_threshold": 0.2,
        "opt_args": {"max_grad_norm": 1.0},
        "eval_resize": 235,
        "opt": "sgd",
    },  # see test_sources of mixups
}
WHOSE = {  # recipe -> the source that it is, then those that its comments may name
    "deit-300": ["DeiT code", "OpenMixup's DeiT", "OpenMixup's DeiT-B", "OpenMixup's TransMix", "AutoMix Table 10"],
    "automix-deit": ["OpenMixup's AutoMix", "AutoMix Table 10", "DeiT code"],
    "transmix": [
        *("TransMix paper", "TransMix code", "TransMix code, as written", "TransMix code, DeiT-B"),
        *("TransMix code 7e313ca", "MixPro paper", "OpenMixup's TransMix", "DeiT code"),
    ],
    "transmix-as-run": ["TransMix code", "TransMix code 7e313ca"],
    "mixpro": ["MixPro code", "MixPro paper", "DeiT code"],
    "rsb-a2": ["OpenMixup's RSB A2", "timm"],
    "rsb-a3": ["OpenMixup's RSB A3", "timm"],
    "imagenet-r50": ["OpenMixup's R-50", "timm"],
    "cifar100": ["OpenMixup's CIFAR-100", "OpenMixup's CIFAR-100 page", "timm"],
    "tiny-imagenet": ["OpenMixup's Tiny-ImageNet", "timm"],
    "cub": ["OpenMixup's CUB", "timm"],
    "cifar10": ["OpenMixup's CIFAR-100", "timm"],
    **{name: ["OpenMixup's R-50", "timm"] for name in ("inat2017", "inat2018", "places205")},
}
# (recipe, key) of values that no source has as they are, and why. timm drops colour jitter beside RandAugment, clipping
# after the step does nothing (see tests/train/mixups/test_sources.py); bfloat16 instead of half precision throughout.
OURS = {
    ("deit-300", "color_jitter"): 0.0,
    ("mixpro", "color_jitter"): 0.0,
    ("transmix", "color_jitter"): 0.0,
    ("deit-300", "amp"): "bf16",
    ("mixpro", "amp"): "bf16",
    ("transmix", "amp"): "bf16",
    ("mixpro", "clip_grad"): None,
    ("transmix-as-run", "interpolation"): "bicubic",  # its header says so
}
NAMED = re.compile(r"OpenMixup|AutoMix Table|DeiT|TransMix|MixPro|\bpaper|\bcode|RSB|timm|\bpage\b|README|mmcv|\d")
NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w%]|\.\d)")
FACTORS = {  # of a product or a quotient that a comment writes, and counts in words
    **{"lr": {5e-4, 1024, 512}, "warmup_lr": {1e-5}, "micro_batch": {8, 4, 2}, "bn_batch": {4}, "epochs": {10}},
    **{
        "eval_resize": {0.95, 224, 0.875, 0.9},
        "median_evals": {1, 10, 300},
        "mixup": {0.8, 1.0},
    },
    "bce_threshold": {1},
}
PHRASES = {  # how a comment names a source; a part of one that names none may write what any of its recipe's says
    **{name: "(?!)" for name in SOURCES},
    **{
        "DeiT code": r"DeiT( code|:| passes)|as DeiT",
        "AutoMix Table 10": "AutoMix Table",
        "MixPro paper": "MixPro paper",
    },
    **{"TransMix paper": r"^ ?paper\b", "TransMix code": r"(TransMix|;|^) ?code\b", "MixPro code": "MixPro code"},
    **{"TransMix code, DeiT-B": "DeiT-B|for B", "OpenMixup's DeiT-B": "for B", "timm": "timm"},
    **{
        "OpenMixup's DeiT": "OpenMixup",
        "OpenMixup's TransMix": "OpenMixup",
        "TransMix code 7e313ca": "another revision",
    },
    "OpenMixup's CIFAR-100 page": "page",
}


def settled(recipe):
    """The configuration, with a switch as {method: probability}."""
    values = vars(config.load(TrainConfig, recipe, ["data_dir=x"]))
    mixup = values["mixup"]
    choices = mixup["choice"] if isinstance(mixup, dict) and "choice" in mixup else []
    return {**values, "mixup": {choice["name"]: choice["prob"] for choice in choices} or mixup}


def same(value, other):
    return value == pytest.approx(other) if isinstance(value, float) and isinstance(other, float) else value == other


def comments(recipe):
    """(key, comment) of the lines of a recipe file that set a key at the top level."""
    for line in config.find(recipe).read_text().splitlines():
        match = re.match(r"(\w+): .*?  # (.+)", line)
        if match and match[1] not in ("methods", "models"):
            yield match.groups()


@pytest.mark.parametrize("recipe", WHOSE)
def test_a_recipes_values_are_its_sources(recipe):
    values, own = settled(recipe), SOURCES[WHOSE[recipe][0]]
    commented = dict(comments(recipe))
    for key, value in own.items():
        others = [SOURCES[name][key] for name in WHOSE[recipe][1:] if key in SOURCES[name]]
        if (recipe, key) in OURS:
            assert values[key] == OURS[recipe, key] and key in {*commented, "interpolation", "epochs"}
        elif not same(values[key], value):
            assert values[key] in others and key in commented, f"{key}: {values[key]}, but {WHOSE[recipe][0]}: {value}"


@pytest.mark.parametrize("recipe", WHOSE)
def test_a_comment_writes_its_sources_numbers(recipe):
    values = settled(recipe)
    for key, comment in comments(recipe):
        if not NAMED.search(comment) or key in ("decode", "workers", "eval_epochs", "model"):
            continue
        if (recipe, key) == ("automix-deit", "mixup"):
            continue  # see test_published_settings
        said = [SOURCES[name][key] for name in WHOSE[recipe] if key in SOURCES[name]]
        assert said, f"{recipe}: no source here says anything of {key}: {comment}"
        known = any(same(values[key], value) for value in said)
        assert known or (recipe, key) in OURS, f"{recipe}: {key} is nobody's: {comment}"
        for part in re.split(r";|\. ", re.sub(r"(Table) \d+", r"\1", comment)):
            named = [source for source in WHOSE[recipe] if re.search(PHRASES[source], part)]
            found = [str(SOURCES[name][key]) for name in named or WHOSE[recipe] if key in SOURCES[name]]
            found += [] if named else [str(values[key])]
            numbers = {float(n) for text in found for n in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text)}
            written = {float(n) for n in NUMBER.findall(part)} - FACTORS.get(key, set())
            assert written <= numbers, f"{recipe}: {key}: {written - numbers}, but {named}: {found}"


def test_the_keys_that_openmixups_configurations_of_mixups_have_otherwise():
    """deit-300 is DeiT's; a line of it says what to add for the setting that its methods' numbers were trained in."""
    (line,) = (text for text in config.find("deit-300").read_text().splitlines() if text.startswith("methods:"))
    added = line.partition("are otherwise: add ")[2].split()
    cfg = vars(config.load(TrainConfig, "deit-300", ["data_dir=x", "mixup=cutmix", *added]))
    for key, value in SOURCES["OpenMixup's DeiT"].items():
        assert same(cfg[key], value), key


# recipes of anybody's own images: what their headers follow, in its own numbers. He et al., CVPR 2016, section 4.2;
# facebookresearch/pycls 2706545, configs/archive/imagenet/resnet/R-50-1x64d_step_8gpu.yaml (NESTEROV: timm's sgd);
# google-research/vision_transformer 0f6b288, vit_jax/configs/common.py and train.py (optax.sgd without Nesterov)
FOLLOWED = {
    "small": {
        **{"lr": 0.1, "lr_batch": 128, "momentum": 0.9, "opt": "momentum", "weight_decay": 1e-4},
        **{"decay_norm_and_bias": True, "augment": "pad-crop-flip", "warmup_lr": 0.0},
    },
    "scratch": {
        **{"lr": 0.1, "lr_batch": 256, "epochs": 100, "momentum": 0.9, "opt": "sgd", "weight_decay": 1e-4},
        **{"augment": "rrc", "clip_grad": None, "label_smoothing": 0.0},
    },
    "finetune": {
        **{"lr": 0.03, "lr_batch": 512, "momentum": 0.9, "opt": "momentum", "schedule": "cosine", "clip_grad": 1.0},
        "weight_decay": 0.0,
    },
}
FURTHER = {  # numbers of the sources that are not the recipe's, and of the networks with settings of their own
    "small": {round(64_000 * 128 / 45_000), 4},  # steps of batches of 45,000 images; pixels of padding
    "scratch": {0.05, 0.1},  # DeiT's weight decay and label smoothing
    "finetune": {500},
}


@pytest.mark.parametrize("recipe", FOLLOWED)
def test_recipes_of_own_images_follow_what_their_headers_name(recipe):
    text = config.find(recipe).read_text()
    values = yaml.safe_load(text)
    for key, value in FOLLOWED[recipe].items():
        assert same(values[key], value), key
    header = " ".join(line.removeprefix("# ") for line in text.partition("\nmodel:")[0].splitlines())
    said = re.sub(
        r"arXiv [\d.]+\d|CVPR \d+|(section|appendix) [\w.]*\w|CIFAR-10|R-50-\w+|\S+\.py|ResNet-50", "", header
    )
    said = said[said.index("Follows") : said.index("picked from the data")]
    theirs, ours = said.split("Ours:")
    numbers = [{float(n) for n in NUMBER.findall(part)} for part in (theirs, ours)]
    known = {v for v in FOLLOWED[recipe].values() if isinstance(v, float | int)}
    assert numbers[0] <= known | FURTHER[recipe] and {values["lr"], values["lr_batch"], 0.9} <= numbers[0]
    assert numbers[1] <= {values["epochs"], values["warmup_epochs"]} | FURTHER[recipe]
    for settings in filter(None, (values.get("models") or {}).values()):
        own = (settings["weight_decay"], settings["label_smoothing"])
        assert own == (SOURCES["DeiT code"]["weight_decay"], SOURCES["DeiT code"]["label_smoothing"])


# whai362/PVT 57e2dfa, classification/configs/pvt; MixPro's configs/swin; XCiT's Table B.1 (facebookresearch/xcit
# 82f5291's README has S12's rate; birder's xcit.py repeats the table's) and CaiT's Table 5 (repeated by PaddleViT's
# configs, cait_xxs36_224.yaml b155a0c): drop path, clipping, epochs (400 for XCiT and CaiT in TransMix's and MixPro's
# papers)
NETWORKS = {
    "pvt_tiny": (0.1, None, 300),
    "pvt_small": (0.1, None, 300),
    "pvt_medium": (0.3, 1.0, 300),
    "pvt_large": (0.3, 1.0, 300),
    "ca_swin_tiny_patch4_window7_224": (0.2, None, 300),
    "ca_swin_small_patch4_window7_224": (0.3, None, 300),
    "xcit_small_12_p16_224": (0.05, None, 400),
    "xcit_tiny_24_p16_224": (0.05, None, 400),
    "xcit_medium_24_p16_224": (0.15, None, 400),
    "xcit_large_24_p16_224": (0.25, None, 400),
    "cait_xxs36_224": (0.1, None, 400),
    "deit_tiny_patch16_224": (0.1, None, 300),
    "deit_base_patch16_224": (0.1, None, 300),
}


def test_mixpros_networks_are_trained_as_their_authors_trained_them():
    models = yaml.safe_load(config.find("mixpro").read_text())["models"]
    assert set(NETWORKS) | {"deit_small_patch16_224"} == set(models) and len(models) == 14  # all of Table 1
    for name, expected in NETWORKS.items():
        cfg = config.load(TrainConfig, "mixpro", ["data_dir=x", f"model={name}"])
        assert (cfg.model_args.get("drop_path_rate"), cfg.clip_grad, cfg.epochs) == expected
        assert ("patch_size" in cfg.model_args) == name.startswith("deit")  # MASK_PATCH_SIZE 56 with patches of 14
        swin = cfg.mixup["choice"][0].get("preset") == "swin"  # MASK_PATCH_SIZE 56 where attention has a stride of 32
        assert swin == name.startswith(("pvt", "ca_swin"))
