"""A method as a run left it: what is shown is what was trained."""

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit import checkpoint
from evalkit.errors import EvalkitError
from evalkit.train.run import train
from evalkit.train.showcase import preview, stand_in, trained
from tests.conftest import tiny

CPU = torch.device("cpu")
RECIPE = ["batch_size=449", "micro_batch=449", "lr=1e-2", "warmup_epochs=0"]


@pytest.fixture(scope="module")
def automix(tmp_path_factory):
    """Three steps of a one-layer ViT with AutoMix."""
    run = tmp_path_factory.mktemp("trained") / "automix"
    assert train(tiny("mixup=automix", *RECIPE), run) == 0
    return run


def test_the_mix_block_and_both_networks_are_those_of_the_run(automix):
    run = trained.load(str(automix), CPU)
    state = checkpoint.load_state((automix / "last").resolve())
    assert run.name == "automix" and not run.method.training and not run.net.training
    for key, value in run.method.state_dict().items():
        assert torch.equal(value, state["method"][key])
    for key, value in run.net.model.state_dict().items():  # not the slow copy, which is what is exported
        assert torch.equal(value, state["network"][key])


def test_its_own_method_is_the_trained_one_and_others_ask_its_network(automix):
    run = trained.load(str(automix), CPU)
    assert run.named("automix") is run.method and run.named("samix") is not run.method
    assert run.named("mixpro").attention is True


def test_the_sweep_of_a_trained_block_is_its_masks(automix):
    """At each lambda the picture is the blend by phi's mask for it."""
    run = trained.load(str(automix), CPU)
    pixels = preview.load([], 32)[1]
    look = preview.Look(lambdas=(0.0, 0.25, 0.5))
    _, none, *sweep = preview.pictures("automix", run.method, pixels, run.net, look=look)
    assert np.array_equal(none.pixels, pixels[1].permute(1, 2, 0).numpy())  # all of it the partner
    std, mean = (torch.tensor(v)[:, None, None] for v in (run.net.std, run.net.mean))
    x = (pixels / 255 - mean) / std
    with torch.no_grad():
        z, _ = run.method.encoder.look(x)
        for item, lam in zip(sweep, look.lambdas[1:]):
            own = run.method.own_share(z, torch.tensor([1, 0]), lam, None, (32, 32))[0, 0]
            assert item.mask == pytest.approx(own.numpy(), abs=1e-6)
            blend = own * pixels[0] + (1 - own) * pixels[1]
            assert np.abs(item.pixels - blend.permute(1, 2, 0).numpy()).max() <= 1
    assert not np.array_equal(sweep[0].mask, sweep[1].mask)


def test_sheets_of_a_run(automix, finished, tmp_path):
    look = preview.Look(lambdas=(0, 0.5, 1), pairs=True, attention=True)
    assert preview.save([], None, tmp_path / "a.png", str(automix), look) == []
    assert preview.save([], "maskmix,samix,augmix", tmp_path / "b.png", str(finished)) == [
        "samix: its mix block is untrained; --checkpoint RUN shows a trained one"
    ]
    assert preview.save([], "snapmix,mixup", tmp_path / "c.png", str(finished))[0].startswith("left out: snapmix: ")
    assert all(min(Image.open(tmp_path / f"{n}.png").size) > 200 for n in "abc")


def test_what_holds_no_method(automix, tmp_path):
    for spec in (tmp_path, "resnet18", automix / "last" / "model.safetensors"):
        with pytest.raises(EvalkitError, match="is no run or checkpoint folder"):
            trained.load(str(spec), CPU)


def test_the_same_stand_in_each_time():
    one, two = (stand_in.method("automix", stand_in.network(64, 3)).state_dict() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.values(), two.values()))
