"""Every method trains a ViT and a ResNet on digits: the loss falls, and a run that goes on from its middle ends in the
same bits."""

import json

import numpy as np
import pytest
import torch

from evalkit import checkpoint, config
from evalkit.train import METHODS, loop, session, snapshot
from evalkit.train.config import TrainConfig
from evalkit.train.run import train

STEPS, MIDDLE = 30, 15
MODELS = {"vit": ["model=vit_nano_patch4_32", "model_args={depth: 2}"], "resnet": ["model=resnet10_cifar"]}
COMMON = [
    # 30 steps in the epoch
    *("batch_size=44", "micro_batch=44", "epochs=1", "lr=2e-3", "schedule=constant", "warmup_epochs=0"),
    *("threads=1", "workers=0", "device=cpu", "log_steps=1", f"checkpoint_steps={MIDDLE}", "keep=3", "eval_epochs=9"),
]
SIZES = {  # for images of 32 pixels
    "attentive_cutmix": ["mixup.teacher={teacher}"],
    "attentivemix_plus": ["mixup.teacher={teacher}"],
    "comixup": ["mixup.part=11"],
    "supermix": ["mixup.teacher={teacher}", "mixup.width=8", "mixup.iterations=10"],
    "mixpro": ["mixup.scale=2"],
    "tokenmix": ["mixup.network={teacher}"],
}
CNN = {"maskmix": ["mixup.cell=8"], "tokenmix": ["mixup.cell=8"]}  # a network without patches
VIT_ONLY = {"mergemix", "mixpro", "mixtoken", "smmix", "tl_align", "transmix"}
CNN_ONLY = {"alignmix", "snapmix"}
OWN_MASS = {"snapmix"}  # label shares of any sum, drawn for each batch, and the loss with them
PRESETS = ["mixpro-learnable"]  # besides each method's default


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A ResNet that knows its digits."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    overrides = ["model=resnet10_cifar", "epochs=2", "threads=1", "workers=0", "device=cpu"]
    assert train(config.load(TrainConfig, "digits", overrides), run) == 0
    return run


@pytest.fixture(scope="module")
def young_vit(tmp_path_factory):
    """A ViT after three epochs without mixing: from random weights, 30 steps are too few for it to learn anything."""
    run = tmp_path_factory.mktemp("vit") / "run"
    assert train(config.load(TrainConfig, "digits", [*MODELS["vit"], *COMMON, "epochs=3", "mixup=vanilla"]), run) == 0
    return run


def run_from(cfg, folder, start=None):
    """Train in this process, from the checkpoint `start` if given; the final session."""
    folder.mkdir()
    s = session.build(cfg, torch.device("cpu"))
    if start is not None:
        snapshot.restore(s, start)
    loop.fit(s, folder)
    return s


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [*METHODS, *PRESETS])
def test_the_loss_falls_and_a_resumed_run_is_the_same(name, model, teacher, young_vit, tmp_path):
    name, _, preset = name.partition("-")
    if model == "resnet" and name in VIT_ONLY:
        pytest.skip("needs class attention or patch embeddings")
    if model == "vit" and name in CNN_ONLY:
        pytest.skip("needs a pooled feature map")
    torch.set_num_threads(1)
    own = [o.format(teacher=teacher) for o in SIZES.get(name, [])] + (
        CNN.get(name, []) if model == "resnet" else [f"init={young_vit}"]
    )
    cfg = config.load(
        TrainConfig, "digits", [*MODELS[model], *COMMON, f"mixup={{name: {name}, preset: {preset or 'default'}}}", *own]
    )
    whole = run_from(cfg, tmp_path / "whole")
    assert whole.step == STEPS
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS
    if name in OWN_MASS:
        assert whole.scores["raw"]["loss"] < np.log(10) - 0.1  # less than that of a network that knows nothing
    else:
        assert np.mean(losses[-6:]) < np.mean(losses[:6])  # an even number: adautomix's terms alternate

    (middle,) = (f for f in (tmp_path / "whole").rglob("meta.json") if json.loads(f.read_text())["step"] == MIDDLE)
    resumed = run_from(cfg, tmp_path / "resumed", middle.parent)
    assert resumed.step == STEPS
    first, second = (checkpoint.load_state((tmp_path / run / "last").resolve()) for run in ("whole", "resumed"))
    for a, b in (
        (whole.network.state_dict(), resumed.network.state_dict()),
        (whole.method.state_dict(), resumed.method.state_dict()),
    ):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert str(first["optimizer"]) == str(second["optimizer"])
    if preset == "learnable":
        assert whole.method.progress.a != 0 and first["method"]["progress.a"] == whole.method.progress.a
        assert [
            g["weight_decay"]
            for g in whole.optimizer.param_groups
            if any(p is whole.method.progress.a for p in g["params"])
        ] == [0.0]
