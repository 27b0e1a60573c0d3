"""What a step costs, against the loop's own step and known FLOPs."""

import json

import pytest
import torch

from evalkit import config
from evalkit.cli import invoke
from evalkit.errors import EvalkitError
from evalkit.train import loop, session
from evalkit.train.config import TrainConfig
from evalkit.train.network import make_network
from evalkit.train.showcase import step_bench

TINY = ["model_args={depth: 2}", "batch_size=8", "micro_batch=4", "workers=0", "device=cpu", "threads=1"]


def recipe(*more):
    return config.load(TrainConfig, "digits-photo", [*TINY, *more])


def test_a_step_of_the_bench_is_a_step_of_the_loop():
    """The same weights after the same batch."""
    images = step_bench.synthetic(32, 4, "train"), step_bench.synthetic(32, 4, "val")
    cfg = recipe("batch_size=4", "mixup=mixup", "auto_augment=null", "augment=none", "ema=0.9")
    bench, own = (session.build(cfg, torch.device("cpu"), images) for _ in range(2))
    step_bench._Trained(bench).step()
    context, batch = loop.context_maker(own, 10**6), next(loop.batch_iterator(own, 0))
    loop.forward(own, own.trainee, context(0, 0), batch).backward()
    own.optimizer.step()
    for a, b in zip(bench.network.parameters(), own.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert bench.step == 1 and bench.ema is not None


def test_costs():
    costs = step_bench.bench(recipe(), ["cutmix", "vanilla", "transmix"], torch.device("cpu"), repeats=2)
    assert [cost.name for cost in costs] == ["vanilla", "cutmix", "transmix"] and costs[0].relative == 1
    for cost in costs:
        median, low, high = cost.seconds
        assert 0 < low <= median <= high and cost.memory is None and set(cost.parts) == set(step_bench.PARTS)
        assert all(seconds >= 0 for seconds in cost.parts.values()) and cost.parts["backward"] > 0
        # none of these methods has parameters of its own
        assert cost.parameters == sum(p.numel() for p in make_network(recipe(), 1000).parameters())
    teacher = {
        "name": "attentive_cutmix",
        "teacher": make_network(recipe("model=resnet10_cifar", "model_args={}"), 10),
    }
    taught = step_bench.bench(recipe(), [teacher], torch.device("cpu"), repeats=1)
    own, both = (cost.parameters for cost in taught)
    assert both - own == sum(p.numel() for p in teacher["teacher"].parameters())
    with pytest.raises(EvalkitError, match=r"alignmix: .+"):
        step_bench.bench(recipe(), ["alignmix"], torch.device("cpu"), repeats=1)


def test_flops_are_those_known():
    """DeiT-S: 4.60 GMAC forward; a step is six times that in operations."""
    cfg = recipe("model=deit_small_patch16_224", "model_args={}", "image_size=224")
    assert step_bench.flops_per_image(cfg) == pytest.approx(6 * 4.60e9, rel=0.01)


def test_the_commands(tmp_path, capsys):
    words = ["digits-photo", *TINY, "--repeats", "1", "--json", str(tmp_path / "made.json")]
    code, message = invoke(["bench", "step", *words, "--methods", "mixup", "--peak", "1"])
    out = capsys.readouterr().out
    assert code == 0, message
    assert "of vanilla" in out and "% of 1 TFLOP/s" in out
    assert [m["method"] for m in json.loads((tmp_path / "made.json").read_text())["methods"]] == ["vanilla", "mixup"]
    words[-1] = str(tmp_path / "input.json")
    code, message = invoke(["bench", "input", *words, "workers=1", "auto_augment=rand-m9-mstd0.5-inc1", "--batch", "4"])
    assert code == 0, message
    names = [rate["name"] for rate in json.loads((tmp_path / "input.json").read_text())["rates"]]
    assert [name.split(", ")[0] for name in names] == ["one core", "one core", "one core", "1 workers"]
    assert "augment_device=device" in names[2] and all(
        rate["images_per_second"][1] > 0 for rate in json.loads((tmp_path / "input.json").read_text())["rates"]
    )
    assert invoke(["bench", "step", "amp=bf16"]) == (1, "one recipe, then key=value: `evalkit recipes list` names them")
