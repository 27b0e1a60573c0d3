"""Every cell of every study that ships, resolved to the training it stands for, against what its source says of it."""

import pytest

from evalkit import config
from evalkit.study import spec
from evalkit.train.combination import obstacle
from evalkit.train.config import TrainConfig
from evalkit.train.mixups import from_config
from evalkit.train.mixups.choice import Choice

EPOCHS = {
    "pytorch-100": 100,
    "pytorch-300": 300,
    "rsb-a2": 300,
    "rsb-a3": 100,
    "openmixup-deit": 300,
    "tiny-400": 400,
    "transmix": 300,
    "transmix-distilled": 300,
    "mixpro": 300,
}
# OpenMixup's page names an alpha for Co-Mixup, whose code for ImageNet draws with 1, and for SmoothMix and TokenMix,
# which draw no lambda; of ResizeMix the page prints 1 where AutoMix's appendix says 0.2; its configurations of
# MogaNet-T, and of TransMix with DeiT-T, have a Mixup of 0.1.
WITHOUT = {
    ("Co-Mixup", "imagenet"),
    ("SmoothMix", "tiny-imagenet"),
    ("ResizeMix", "imagenet"),
    ("TokenMix", "imagenet"),
}
WITHOUT |= {("Mixup + CutMix", "moganet_tiny"), ("TransMix", "deit_tiny_patch16_224")}
# Swin has no class token; the row of TransMix is of the network whose last block is class attention.
OTHER_NETWORK = {("swin_tiny_patch4_window7_224", "TransMix"): "ca_swin_tiny_patch4_window7_224"}


def alphas(method):
    """Of a method, or of the branches of a choice between Mixup and CutMix."""
    parts = method.branches if isinstance(method, Choice) else [method]
    return [float(part.alpha) for part in parts]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in spec.names() if spec.load(name).published])
def test_cells_are_what_their_source_says(name):
    study = spec.load(name)
    for cell in study.cells:
        if cell.values.get("seed", "0") != "0":
            continue
        if cell.excluded or cell.weights:
            continue
        printed = [v for v, of in study.beside(cell)]
        cfg = config.load(TrainConfig, cell.recipe, [*cell.overrides(), "data_dir=somewhere"])
        assert obstacle(cfg) is None, cell.name
        for value in printed:
            assert OTHER_NETWORK.get((value.model, value.method), value.model) == cfg.model, (cell.name, value)
            if value.task == "accuracy":
                epochs = EPOCHS.get(value.setting) or int(value.setting.removeprefix("cifar-"))
                longer = cfg.model.startswith(("xcit", "cait"))  # 400 epochs, as the text of both papers says
                assert cfg.epochs - cfg.cooldown_epochs == (400 if longer else epochs), (cell.name, value)
            if value.form.startswith("median of the last"):
                assert cfg.median_evals == int(value.form.rpartition(" ")[2]) and cfg.eval_epochs == 1, cell.name
            if value.alpha and not {(value.method, value.data), (value.method, value.model)} & WITHOUT:
                wanted = [float(a) for a in value.alpha.split(", ")]
                assert alphas(from_config(cfg.mixup)) == wanted, (cell.name, value)
