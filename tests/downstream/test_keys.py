"""The keys that any mm config takes, on short runs: what they promise holds in the weights that are saved."""

import importlib.util
import json

import pytest
import torch

from evalkit import checkpoint, config, results
from evalkit.downstream import seg
from evalkit.downstream.run import transfer
from evalkit.downstream.seg import SegConfig
from evalkit.errors import EvalkitError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mmseg") is None, reason="mmseg is not installed"),
]
PLAIN = ["crop=32", "stride=32", "steps=3", "warmup_steps=0", "batch_size=4", "opt=sgd", "lr=0.1", "min_lr=0.1"]
PLAIN += ["weight_decay=0.01", "clip_grad=null", "device=cpu", "threads=1"]
HEAD = "decode_head.conv_seg.weight"


@pytest.fixture(scope="module")
def run(weights, shapes, tmp_path_factory):
    def runs(*words):
        out = tmp_path_factory.mktemp("run") / "run"
        cfg = config.load(SegConfig, "digits-scenes", [*PLAIN, f"data={shapes}", *words], folder="seg")
        assert transfer(seg.TASK, str(weights), cfg, out) == 0
        return out

    return runs


def saved(out, step=3):
    return torch.load(out / f"checkpoints/step-{step:09d}.pth", weights_only=True)


@pytest.fixture(scope="module")
def plain(run):
    return saved(run())["state_dict"]


def test_a_step_in_parts_is_the_step(run, plain):
    parts = saved(run("accumulate=2"))["state_dict"]
    assert all(torch.allclose(parts[k], v, atol=1e-5) for k, v in plain.items())
    with pytest.raises(EvalkitError, match="accumulate=3 does not divide the 4 images"):
        run("accumulate=3")


def test_a_frozen_backbone_is_the_one_that_was_loaded(run, plain, weights):
    found, loaded = saved(run("freeze=backbone"))["state_dict"], checkpoint.read_weights(weights)[0]
    body = [k for k in found if k.startswith("backbone.model.")]
    assert body and all(torch.equal(found[k], loaded[k.removeprefix("backbone.model.")]) for k in body)
    assert not torch.equal(plain["backbone.model.blocks.0.attn.qkv.weight"], loaded["blocks.0.attn.qkv.weight"])
    assert not torch.equal(found[HEAD], plain[HEAD])


def test_a_moving_average_is_measured_and_saved_beside_the_weights(run, plain):
    """e = d e + (1 - d) w, step by step; the weights themselves go on as without it."""
    out = run("ema=0.5", "checkpoint_steps=1", "keep=9")
    states = [saved(out, step) for step in (1, 2, 3)]
    own = [s["ema_state_dict"][f"module.{HEAD}"] for s in states]  # mmengine saves the average as the model
    assert torch.allclose(own[2], plain[HEAD], atol=1e-6)
    average = states[0]["state_dict"][HEAD]
    for step in (1, 2):
        average = 0.5 * average + 0.5 * own[step]
        assert torch.allclose(states[step]["state_dict"][HEAD], average, atol=1e-6)


def test_measurements_on_the_way_change_nothing_and_keep_the_best(run, plain):
    out = run("val_steps=1")
    assert all(torch.equal(saved(out)["state_dict"][k], v) for k, v in plain.items())
    lines = [json.loads(line) for line in (out / "val.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and all(0 <= line["miou"] <= 1 for line in lines)
    best = torch.load(out / "best.pth", weights_only=True)
    assert best["meta"]["iter"] == max(lines, key=lambda line: line["miou"])["step"]


DAMAGED = b'\xff\n[1]\n{"step": 2, "miou": "x"}\n{"st'


@pytest.mark.parametrize(("at", "left"), [(1, b""), (2, b""), (2, DAMAGED)], ids=["not yet", "written", "damaged"])
def test_killed_between_checkpoint_measurement_and_best_weights(run, at, left):
    """A run that was killed behind a checkpoint measures it as it goes on, so that no best weights are lost."""
    out = run("val_steps=1", "checkpoint_steps=1", "keep=9")
    whole, best = (out / "val.jsonl").read_text(), torch.load(out / "best.pth", weights_only=True)
    written = [out / "best.pth"] * (best["meta"]["iter"] == 2)
    for path in [*out.glob(f"checkpoints/step-{3:09d}*"), *written, out / "results.jsonl"]:
        path.unlink()
    lines = whole.splitlines(keepends=True)[:at]  # the best weights of step 2, if its line is there, were not yet put
    (out / "val.jsonl").write_bytes("".join(lines).encode() + left)
    assert transfer(seg.TASK, None, None, resume=out, overrides=[]) == 0
    assert (out / "val.jsonl").read_text().splitlines()[-1] == whole.splitlines()[-1]
    now = torch.load(out / "best.pth", weights_only=True)
    assert now["meta"]["iter"] == best["meta"]["iter"]
    assert all(torch.equal(now["state_dict"][k], v) for k, v in best["state_dict"].items())


def test_half_precision_trains_in_float32_weights(run, plain):
    found = saved(run("amp=bf16"))["state_dict"]
    assert all(v.dtype == plain[k].dtype for k, v in found.items())
    assert not torch.equal(found[HEAD], plain[HEAD]) and torch.allclose(found[HEAD], plain[HEAD], atol=0.05)
    with pytest.raises(EvalkitError, match="amp=fp16 needs a GPU"):
        run("amp=fp16")


def test_layers_have_rates_and_sets_have_no_decay(run):
    groups = saved(run("layer_decay=0.5", "no_decay=timm"))["optimizer"]["param_groups"]
    # every rate falls to the one of min_lr
    rates, decays = {round(g["initial_lr"], 6) for g in groups}, {g["weight_decay"] for g in groups}
    # heads, then the block and the last norm, then the stem
    assert max(rates) == 0.1 and {0.05, 0.025} <= rates and decays == {0.0, 0.01}


def test_keys_that_the_config_says_itself_have_no_effect():
    with pytest.raises(EvalkitError, match="'crop' has no effect here; config=... says it"):
        config.load(SegConfig, "stock-seg", ["config=x", "crop=32"], folder="seg")
    with pytest.raises(EvalkitError, match="leave freeze_stages out"):
        config.load(SegConfig, "digits-scenes", ["freeze=backbone", "freeze_stages=1"], folder="seg")
    with pytest.raises(EvalkitError, match="key 'steps' is null"):
        config.load(SegConfig, "digits-scenes", ["steps=null"], folder="seg")


def test_records_say_by_which_config(shapes, tmp_path):
    name = "upernet_r50_4xb4-160k_ade20k-512x512"
    words = [f"data={shapes}", f"config={name}", "steps=1", "batch_size=2", "device=cpu", "threads=1", "workers=0"]
    words += ["init=random", "mm.model.decode_head.channels=8", "mm.model.auxiliary_head=_delete_"]
    words += ["mm.model.data_preprocessor.size=[32, 32]", "mm.train_dataloader.dataset.pipeline.2=_delete_"]
    words += ["mm.test_dataloader.dataset.pipeline.1=_delete_"]
    cfg = config.load(SegConfig, "stock-seg", words, folder="seg")
    assert transfer(seg.TASK, "resnet18", cfg, tmp_path / "run") == 0
    (record,) = results.read([tmp_path / "run"])
    own = record["config"]
    assert (own["config"], own["head"], own["steps"], own["batch_size"], own["crop"]) == (name, "UPerHead", 1, 2, None)
    assert len(own["config_sha256"]) == 64 and not record["published"] and (tmp_path / "run/mm_base.txt").exists()
    assert any("ResNetV1c of the config is replaced by resnet18" in note for note in record["notes"])
    assert transfer(seg.TASK, None, None, resume=tmp_path / "run") == 0  # finished: nothing is added
    assert len(results.read([tmp_path / "run"])) == 1
