"""Every preset of every method beside what its source has, each value read there, under our names;
what a preset leaves at its default as well."""

import pytest

from evalkit.train.mixups import METHODS, arguments

OPENMIXUP = "Westlake-AI/openmixup 37e1372, configs/classification/"
R18_CIFAR = {"lam_embed": False, "momentum": 0.999, "momentum_end": 0.999999, "alpha": 2, "lam_margin": 0.08}
SOURCES = {  # (method, preset) -> source, attributes of the method
    ("adautomix", "released"): (
        "JinXins/Adversarial-AutoMixup 9d6fd12, experiments/CIFAR100/adautomix_r18_800e.log; its margin: lam <= or >",
        {"images": 3, "beta": 0.3, "lam_embed": False, "momentum_end": 0.999999, "port_margin": False, "norm": "none"},
    ),
    ("adautomix", "cifar"): ("the same", {"images": 3, "beta": 0.3, "lam_embed": False, "momentum_end": 0.999999}),
    ("adautomix", "openmixup"): (
        OPENMIXUP + "cifar100/adautomix/basic; models/classifiers/adautomix.py: margin < 1 - lam",
        {"images": 3, "beta": 0.3, "lam_embed": False, "momentum_end": 0.999999, "port_margin": True},
    ),
    ("adautomix", "cifar_vit"): (
        OPENMIXUP + "cifar100/adautomix/vit/deit_s_l6_a1_near_sz224_mlr1e_4_bs100_ep200",
        {"images": 3, "beta": 0.3, "upsample": "nearest", "switch_off": 0.8, "momentum_end": 0.99996}
        | {"momentum_start": 0.25},
    ),
    ("adautomix", "imagenet_r50"): (
        OPENMIXUP + "imagenet/adautomix/basic/r50_adautomix_bilinear",
        {"images": 2, "beta": 0.1, "lam_embed": True, "momentum_end": 0.99999, "norm": "bn"},
    ),
    ("attentivemix_plus", "openmixup"): ("augments/attentivemix.py: Beta(alpha, alpha)", {"alpha": 2, "beta": None}),
    ("attentivemix_plus", "paper"): (OPENMIXUP + "attentivemix=dict(beta=8); its pages", {"alpha": 2, "beta": 8}),
    ("augmix", "imagenet"): (
        "google-research/augmix, imagenet.py's defaults (cifar.py: severity 3)",
        {"severity": 1, "width": 3, "depth": 0, "jsd": True, "jsd_weight": 12, "all_ops": False},
    ),
    ("automix", "cifar"): (
        OPENMIXUP + "cifar100/automix/basic/r18_l2_a2_near_L1_01_mlr5e_2, without a hook for the mask loss",
        {**R18_CIFAR, "mask_loss_schedule": "constant", "upsample": "nearest", "mask_adjust": 0},
    ),
    ("automix", "cifar_vit"): (
        OPENMIXUP + "cifar100/automix/vits/deit_s_l6_a2_near_L1_01_sz224_mlr1e_4_bs100_ep200",
        {"switch_off": 1, "momentum_end": 0.99996, "momentum_start": 0.25},
    ),
    ("automix", "convnext"): (
        OPENMIXUP + "imagenet/automix/convnext/convnext_t_l2_a2_near_lam_cat_switch0_8_8x128_accu4_ep300",
        {"switch_off": 0.8, "momentum_end": 0.99996, "momentum_start": 0.25, "lam_embed": True},
    ),
    ("automix", "vit"): (
        OPENMIXUP + "imagenet/automix/deit/deit_s_l6_a2_near_lam_cat_switch0_8_8x128_ep300",
        {"switch_off": 0.8, "momentum_end": 0.99999, "momentum_start": 0.25, "lam_embed": True},
    ),
    ("comixup", "released"): (
        "snu-mllab/Co-Mixup 2a76816, README's commands and main.py's defaults",
        {"alpha": 2, "part": 20, "iterations": 4, "beta": 0.32, "gamma": 1, "eta": 0.05, "omega": 0.001, "grid": 4}
        | {"threshold_first": True},
    ),
    ("comixup", "imagenet"): (
        "snu-mllab/Co-Mixup 2a76816, comix-imagenet/lib/utils.py",
        {"alpha": 1, "part": 16, "iterations": 3, "peak_stride": 8, "threshold_first": True},
    ),
    ("cutmix", "openmixup"): ("augments/cutmix.py: redraws fixed points", {"pairing": "derange", "edge": "old"}),
    ("cutmix", "timm"): ("timm 1.0.31, data/mixup.py: rand_bbox, flip(0)", {"pairing": "flip", "edge": "new"}),
    ("fmix", "openmixup"): ("augments/fmix.py", {"lam": "sampled", "pairing": "derange", "decay": 3}),
    ("fmix", "released"): ("ecs-vlc/FMix, fmix.py", {"lam": "sampled", "pairing": "perm", "decay": 3, "max_soft": 0}),
    ("fmix", "paper"): ("arXiv 2002.12047, section 4.1", {"spectrum": "isotropic", "decay": 3}),
    ("gridmix", "released"): (
        "IlyaDobrynin/GridMixup, GridMixupLoss's defaults",
        {"alpha": (0.1, 0.9), "holes": 20, "area": 1, "aspect": 1, "hole_aspect": 1},
    ),
    ("guidedmixup", "released"): ("3neutronstar/GuidedMixup, main.py: model.train()", {"saliency_training": True}),
    ("guidedmixup", "sr"): ("3neutronstar/GuidedMixup, spectral_residual.py", {"saliency": "sr"}),
    ("maskmix", "released"): ("fistyee/MixPro 53a229e, utils.py: MaskMix", {"lam_from_count": True, "pairing": "perm"}),
    ("maskmix", "paper"): ("MixPro paper, equation 6, algorithm 1", {"pairing": "flip", "count_rounding": "floor"}),
    ("maskmix", "block"): (
        "MixPro paper, table 7, figure 4, after TokenMix",
        {"mask": "block", "scale": 1, "pairing": "flip"},
    ),
    ("maskmix", "random"): ("MixPro paper, table 7", {"mask": "random", "scale": 1}),
    ("maskmix", "random4x"): ("MixPro paper, table 7", {"mask": "random", "scale": 4}),
    ("maskmix", "shuffle_crop"): ("MixPro paper, table 9", {"shuffle": "crop", "scale": 4}),
    ("maskmix", "shuffle_canvas"): ("MixPro paper, table 9", {"shuffle": "canvas", "scale": 4}),
    ("maskmix", "shuffle_both"): ("MixPro paper, table 9", {"shuffle": "both", "scale": 4}),
    ("mergemix", "cifar"): (
        OPENMIXUP
        + "cifar100/mixups/vits/deit_small/deit_s_mergemix_l9_a1_tm98_s_sz224_bs100_ep200: out_indices (8, 11)",
        {"merged": 98 / 196, "resample": True, "attn_depth": 8 + 1, "alpha": 1},
    ),
    ("mixpro", "released"): (
        "fistyee/MixPro 53a229e, main.py: hard cross-entropies weighted by a cosine that has a gradient",
        {"lam_from_count": True, "pal_detach": False, "pal_hard_ce": True, "pairing": "perm", "normalize_attn": True},
    ),
    ("mixpro", "paper"): (
        "MixPro paper, equations 5 to 9, algorithm 1",
        {"pairing": "flip", "count_rounding": "floor", "normalize_attn": False, "pal": "cosine"},
    ),
    ("mixpro", "swin"): ("MixPro code, configs/swin: MASK_PATCH_SIZE 56, stride 32", {"scale": 56 / 32, "alpha": 1}),
    ("mixpro", "pal_cutmix"): ("MixPro paper, table 6: CutMix + PAL", {"mask": "region", "pal": "cosine"}),
    ("mixpro", "misaligned"): ("MixPro paper, table 8, B", {"misaligned": True, "scale": 4}),
    ("mixpro", "reduced"): ("MixPro paper, table 8, C: smaller than a patch", {"scale": 0.5}),
    ("mixpro", "equal"): ("MixPro paper, table 10", {"pal": "equal"}),
    ("mixpro", "linear"): ("MixPro paper, table 10", {"pal": "linear"}),
    ("mixpro", "parabolic"): ("MixPro paper, table 10", {"pal": "parabolic"}),
    ("mixpro", "learnable"): ("MixPro paper, table 10", {"pal": "learnable"}),
    ("mixtoken", "paper"): ("arXiv 2104.10858, equation 3: beta 0.5", {"dense_weight": 0.5, "alpha": 1}),
    ("mixtoken", "released"): ("zihangJiang/TokenLabeling, TokenLabelCrossEntropy's defaults", {"dense_weight": 1.0}),
    ("mixup", "timm"): ("timm 1.0.31, data/mixup.py: flip(0)", {"pairing": "flip"}),
    ("patchmix", "paper"): ("arXiv 2106.09011: losses over patches, weights not public", {"patch_loss": 1.0}),
    ("puzzlemix", "paper"): (
        "snu-mllab/PuzzleMix e2dbf3a, README's commands for CIFAR-100; main.py: block_num of 1 to 4",
        {"grids": (2, 4, 8, 16), "t_size": 4, "beta": 1.2, "gamma": 0.5, "eta": 0.2, "neighbourhood": 4, "t_eps": 0.8},
    ),
    ("puzzlemix", "released"): (
        "snu-mllab/PuzzleMix e2dbf3a, imagenet: 300 epochs",
        {"grids": (2, 4, 8, 16), "neighbourhood": 2, "t_size": None, "clean_lam": 0},
    ),
    ("puzzlemix", "released_tiny"): (
        "snu-mllab/PuzzleMix e2dbf3a, README's commands for Tiny-ImageNet",
        {"grids": (2, 4, 8, 16), "clean_lam": 1.0, "t_size": None},
    ),
    ("puzzlemix", "openmixup"): (
        OPENMIXUP + "imagenet/mixups/basic: block_num 4 is randint(1, 4), t_size -1",
        {"grids": (2, 4, 8), "t_size": None, "beta": 1.2, "gamma": 0.5, "eta": 0.2, "neighbourhood": 4, "t_eps": 0.8},
    ),
    ("puzzlemix", "openmixup_cifar"): (
        OPENMIXUP + "cifar100/mixups/basic: block_num 5 is randint(1, 5)",
        {"grids": (2, 4, 8, 16), "t_size": 4},
    ),
    ("regmixup", "released"): ("FrancescoPinto/RegMixup fd78465, commands.sh: cifar10", {"alpha": 20, "eta": 1}),
    ("regmixup", "cifar100"): ("FrancescoPinto/RegMixup fd78465, commands.sh: cifar100", {"alpha": 10, "eta": 1}),
    ("resizemix", "openmixup"): (
        OPENMIXUP + "resizemix=dict(scope=(0.1, 0.8), use_alpha=True); augments/resizemix.py: np.clip",
        {"alpha": 1, "box": "clipped", "scope": (0.1, 0.8)},
    ),
    ("saliencymix", "paper"): ("arXiv 2006.01791: each source image's peak", {"per_sample": True}),
    ("saliencymix", "released"): (
        "afm-shahab-uddin/SaliencyMix: image of rand_index[0], floats",
        {"per_sample": False, "saliency": "float_compat"},
    ),
    ("saliencymix", "openmixup"): ("augments/saliencymix.py, the same", {"saliency": "float_compat"}),
    ("samix", "cifar"): (
        OPENMIXUP + "cifar100/samix/basic/r18/..._lam_mul_k0_25, whose mask_adjust is left out",
        {"lam_shape": 0.25, "dropout": 0, "mask_loss_schedule": "constant", "momentum_end": 0.999999, "mask_adjust": 0},
    ),
    ("samix", "released_cifar"): (
        OPENMIXUP + "cifar100/samix/basic/r18/..._lam_mul_k0_25_mask_adjust0_25_ep800",
        {"lam_shape": 0.25, "dropout": 0, "mask_adjust": 0.25, "adjust_to_k": True, "upsample": "bilinear"}
        | {"momentum_end": 0.999999, "mask_loss_schedule": "constant"},
    ),
    ("samix", "cifar_vit"): (
        OPENMIXUP + "cifar100/samix/vits/deit_s_l6_a2_near_val_dp01_sz224_mlr1e_4_bs100_ep200",
        {"switch_off": 1, "momentum_end": 0.99996, "momentum_start": 0.25, "upsample": "nearest", "dropout": 0.1},
    ),
    ("samix", "vit"): ("none is public: AutoMix's", {"switch_off": 0.8, "momentum_start": 0.25, "upsample": "nearest"}),
    ("samix", "convnext"): (
        "none is public: AutoMix's",
        {"switch_off": 0.8, "momentum_end": 0.99996, "momentum_start": 0.25},
    ),
    ("smoothmix", "openmixup"): ("augments/smoothmix.py: lam is the mean of the partner's mask", {"swap_labels": True}),
    ("smoothmix", "released"): ("the same", {"swap_labels": True, "sigma": (0.25, 0.5)}),
    ("snapmix", "released"): ("Shaoli-Huang/SnapMix: weights of one class added to both", {"same_label": "official"}),
    ("sumix", "imagenet"): (
        "JinXins/SUMix 0469ec2, configs/classification/imagenet/mixups/uncertain: gama, is_norm=False",
        {"method": "cutmix", "weight": 0.5, "own_head": False},
    ),
    ("sumix", "released"): (
        "JinXins/SUMix 0469ec2, cls_mixup_head.py: a mean loss times lam_a; cifar100/mixups/uncertain: gama",
        {"method": "cutmix", "weight": 0.5, "own_head": True, "average": True},
    ),
    ("sumix", "tiny"): (
        "JinXins/SUMix 0469ec2, configs/classification/tiny_imagenet/mixups/uncertain: gama",
        {"method": "cutmix", "weight": 1, "own_head": True},
    ),
    ("supermix", "released_cifar"): ("alldbi/SuperMix, README: w=8, sigma=1", {"width": 8, "sigma": 1, "images": 2}),
    ("supermix", "released_imagenet"): ("alldbi/SuperMix, README: w=16, sigma=2", {"width": 16, "sigma": 2}),
    ("switch", "rsb"): ("arXiv 2110.00476, table 2: mixup 0.1, cutmix 1", {"mixup_alpha": 0.1, "cutmix_alpha": 1}),
    ("switch", "timm"): ("timm 1.0.31, data/mixup.py", {"edge": "new", "mixup_alpha": 0.8, "switch_prob": 0.5}),
    ("tokenmix", "released"): (
        "Sense-X/TokenMix: saved maps, no clamp",
        {"teacher": "offline", "clamp": False, "lam_const": 0.5},
    ),
    ("transmix", "released"): (
        "Beckschen/TransMix 0e4d31e, transmix.py: lam = (lam0 + ratio) / 2",
        {"attn_ratio": 0.5, "normalize_attn": True, "mask_down": "nearest"},
    ),
    ("transmix", "paper"): ("arXiv 2111.09833, equation 5", {"attn_ratio": 1.0, "normalize_attn": False}),
    ("transmix", "aligned"): ("MixPro paper, table 8, A", {"aligned": True}),
}


def test_each_preset_has_its_source():
    presets = {(name, preset) for name, cls in METHODS.items() for preset in cls.PRESETS if preset != "default"}
    assert presets == set(SOURCES) | {key for key in presets if key[0] == "choice"}  # see test_choice


@pytest.mark.parametrize(("name", "preset"), SOURCES)
def test_a_preset_is_its_source(name, preset):
    source, values = SOURCES[name, preset]
    changed = METHODS[name].PRESETS[preset]
    found = {key: p.default for key, p in arguments(METHODS[name]).items()} | changed
    assert {key: found[key] for key in values} == values, source
    assert set(changed) <= set(values), f"{source}: what it says of {set(changed) - set(values)} is not written here"
