import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch._dynamo.exc import TorchDynamoException

from evalkit import checkpoint, config, data, results
from evalkit.errors import EvalkitError
from evalkit.train import loop, session, snapshot
from evalkit.train.config import TrainConfig
from evalkit.train.network import make_network
from evalkit.train.run import not_compiled, train
from tests.conftest import tiny

# what is settled when a run begins there
ON_A_CPU = {"augment_device": "cpu", "channels_last": False, "compile": False, "opt_kernels": "for-loop"}


def test_what_a_run_leaves_behind(finished):
    cfg = config.load(TrainConfig, finished / "config.yaml", [])
    assert cfg == dataclasses.replace(tiny("ema=0.9"), **ON_A_CPU)  # the saved config reruns it
    raw, ema = results.read([finished])
    assert (raw["weights"], ema["weights"]) == ("raw", "ema") and raw["method"] == "transmix" and raw["n"] == 450
    assert (
        0 <= raw["metrics"]["top1"] <= raw["metrics"]["top1_best"] <= 1
        and raw["metrics"]["top5"] >= raw["metrics"]["top1"]
    )
    meta = checkpoint.verify((finished / "last").resolve())
    assert (
        meta["classes"] == [str(d) for d in range(10)]
        and meta["sha256"]["model.safetensors"] == raw["checkpoint_sha256"]
    )
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [v["step"] for v in lines if "loss" in v] == [5, 10, 15, 20, 21] and {
        "lr",
        "grad_norm",
        "images_per_second",
    } <= lines[0].keys()


def test_median_of_the_last_evaluations(tmp_path):
    """Stopped and resumed on its way: an evaluation before the stop counts."""
    assert train(tiny("eval_epochs=0.25", "median_evals=3", "checkpoint_steps=1", "keep=30"), tmp_path / "run") == 0
    seen = [
        v["val_top1_raw"]
        for v in map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
        if "val_top1_raw" in v
    ]
    record = results.read([tmp_path / "run"])[0]
    assert (
        len(seen) == 5
        and record["metrics"]["top1_median"] == sorted(seen[-3:])[1]
        and "top1_median: of the last 3 evaluations" in record["notes"]
    )
    for folder in (tmp_path / "run" / "ckpts").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > 18:
            shutil.rmtree(folder)
    assert train(None, resume=tmp_path / "run") == 0
    assert results.read([tmp_path / "run"])[-1]["metrics"]["top1_median"] == sorted(seen[-3:])[1]


def test_export_is_a_plain_timm_model(finished):
    """The checkpoint's accuracy, computed by timm and torch alone, is the recorded one."""
    model = timm.create_model(
        "vit_nano_patch4_32", num_classes=10, depth=1, checkpoint_path=str(finished / "last" / "model.safetensors")
    ).eval()
    images = session.data.load("digits", "val")
    x = np.stack([np.asarray(images.read(i)) for i in range(len(images))]).transpose(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        predicted = model((torch.from_numpy(x).float() - mean) / std).argmax(1).numpy()
    assert (predicted == images.labels).mean() == pytest.approx(
        results.read([finished])[0]["metrics"]["top1"], abs=1e-12
    )


def test_mixed_samples_are_mixtures(finished):
    mixed = np.load(finished / "mixed.npz")
    assert mixed["x"].shape == (8, 3, 32, 32) and mixed["x"].dtype == np.uint8 and mixed["weights"].shape == (8, 64)
    assert np.allclose(mixed["weights"].sum(1), 1, atol=1e-6) and (mixed["weights"] > 0).sum(1).max() == 2


def test_a_folder_with_a_run_is_refused(finished):
    with pytest.raises(EvalkitError, match="already holds a run; continue it with --resume"):
        train(tiny(), finished)


def test_resume_of_a_finished_run_changes_no_weights(finished):
    before = checkpoint.verify((finished / "last").resolve())["sha256"]
    assert train(None, resume=finished, overrides=["workers=0"]) == 0
    assert checkpoint.verify((finished / "last").resolve())["sha256"] == before


@pytest.mark.parametrize(
    ("override", "message"), [("lr=1", "cannot change on resume"), ("workrs=1", "Did you mean 'workers'")]
)
def test_resume_refuses_what_would_change_the_run(finished, override, message):
    with pytest.raises(EvalkitError, match=message):
        train(None, resume=finished, overrides=[override])


def test_resume_of_no_run(tmp_path):
    with pytest.raises(EvalkitError, match="not a run folder"):
        train(None, resume=tmp_path)


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match="choose another --out"):
        train(tiny(), tmp_path / "file" / "run")


def test_a_lost_loss_stops_with_the_batch_saved(tmp_path, monkeypatch):
    real = loop.forward

    def lost(s, module, ctx, batch):
        return real(s, module, ctx, batch) * (float("nan") if batch.step == 7 else 1.0)

    monkeypatch.setattr(loop, "forward", lost)
    with pytest.raises(EvalkitError, match="not finite at step 7"):
        train(tiny("checkpoint_steps=5"), tmp_path / "run")
    saved = np.load(tmp_path / "run" / "crash" / "step-000000007.npz")
    assert saved["x"].shape == (64, 3, 32, 32) and saved["step"] == 7
    s = session.build(tiny(), torch.device("cpu"))
    expected = next(b for b in loop.batch_iterator(s, 0) if b.step == 7)
    assert np.array_equal(saved["x"], expected.x.numpy()) and np.array_equal(saved["index"], expected.index.numpy())
    folder, meta = checkpoint.newest(tmp_path / "run")
    assert meta["step"] == 5 and all(v.isfinite().all() for v in checkpoint.read_weights(folder)[0].values())


def test_start_from_a_checkpoint(finished, tmp_path):
    """Same classes: all weights. Another number of classes: all but the head."""
    weights = checkpoint.read_weights(finished)[0]
    same = make_network(tiny(f"init={finished}"), 10).model.state_dict()
    assert all(torch.equal(same[k], v) for k, v in weights.items())
    other = make_network(tiny(f"init={finished}"), 7).model.state_dict()
    assert (
        all(torch.equal(other[k], v) for k, v in weights.items() if not k.startswith("head."))
        and other["head.weight"].shape[0] == 7
    )
    with pytest.raises(EvalkitError, match="does not fit|more layers|lacks"):
        make_network(tiny(f"init={finished}", "model_args={depth: 2}"), 10)


def test_restore_refuses_another_model(finished):
    s = session.build(tiny("model_args={depth: 2}"), torch.device("cpu"))
    with pytest.raises(EvalkitError, match="does not fit this recipe"):
        snapshot.restore(s, (finished / "last").resolve())


def test_loss_and_schedule_of_the_recipe_are_used(tmp_path):
    """A run of one step over all 1347 images, in 3 micro-batches, plain SGD without mixing: the update by hand."""
    plain = [
        "mixup=vanilla",
        "opt=momentum",
        "momentum=0.0",
        "weight_decay=0.0",
        "label_smoothing=0.1",
        "batch_size=1347",
        "micro_batch=449",
    ]
    cfg = tiny(*plain, "lr=0.5", "schedule=constant", "warmup_epochs=0")
    s = session.build(cfg, torch.device("cpu"))
    before = {k: v.clone() for k, v in s.network.model.named_parameters()}
    batches = list(loop.batch_iterator(s, 0))
    x, y = torch.cat([b.x for b in batches]).float() / 255, torch.cat([b.y for b in batches])
    x = (x - torch.tensor(s.network.mean).view(3, 1, 1)) / torch.tensor(s.network.std).view(3, 1, 1)
    loss = torch.nn.functional.cross_entropy(s.network.model(x), y, label_smoothing=0.1)
    gradients = torch.autograd.grad(loss, list(s.network.model.parameters()))
    assert train(cfg, tmp_path / "run") == 0
    after = checkpoint.read_weights(tmp_path / "run", "raw")[0]
    for (name, p), g in zip(before.items(), gradients):
        assert torch.allclose(after[name], p - 0.5 * g, atol=1e-6), name


def test_validation_at_another_size(tmp_path):
    """Images of 24 pixels to train on and 32 to be tested on; who evaluates the checkpoint is told 32."""
    s = session.build(
        tiny("model=resnet10_cifar", "model_args={}", "mixup=vanilla", "image_size=24", "eval_size=32"),
        torch.device("cpu"),
    )
    assert s.train_transform(s.train_images.read(0), np.random.default_rng(0)).shape == (3, 24, 24)
    assert s.eval_transform(s.val_images.read(0)).shape == (3, 32, 32) and snapshot.meta(s)["image_size"] == 32


def test_the_record_names_a_teacher_and_its_weights(finished, tmp_path):
    cfg = tiny(
        "mixup=attentive_cutmix",
        f"mixup.teacher={finished}",
        "model=resnet10_cifar",
        "model_args={}",
        "batch_size=449",
        "micro_batch=449",
    )
    assert train(cfg, tmp_path / "run") == 0
    digest = hashlib.sha256((finished / "last" / "model_ema.safetensors").read_bytes()).hexdigest()
    assert results.read([tmp_path / "run"])[0]["notes"][0] == f"teacher {finished}: sha256 {digest}"
    assert json.loads((tmp_path / "run" / "last" / "meta.json").read_text())["teachers"] == {str(finished): digest}


@pytest.mark.slow
def test_views_from_the_loader_reach_the_method(tmp_path):
    """AugMix, on its own and in a choice: the same bytes with and without data workers."""
    for mixup in ("augmix", "{choice: [augmix, mixup]}"):
        weights = []
        for workers in (0, 2):
            run = tmp_path / f"{mixup[:3]}{workers}"
            # 5 steps
            assert train(tiny(f"mixup={mixup}", f"workers={workers}", "batch_size=256", "epochs=1"), run) == 0
            weights.append(checkpoint.verify((run / "last").resolve())["sha256"])
        assert weights[0] == weights[1]
        assert np.load(run / "mixed.npz")["x"].shape == (8, 3, 32, 32)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=4096", "micro_batch=64"], "more than the 1347"),
        (["image_size=64"], "does not take images of 64 x 64"),
        (["eval_size=64"], "64 x 64"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, overrides, message):
    """The command with the mistake mended would be told that the folder holds a run."""
    with pytest.raises(EvalkitError, match=message):
        train(tiny(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_seconds_are_those_of_all_parts_of_a_run(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    first = results.read([run])[0]["seconds"]
    (run / "results.jsonl").unlink()
    assert train(None, resume=run) == 0
    assert results.read([run])[0]["seconds"] == pytest.approx(first) and first > 0.1


def test_resume_with_other_training_images_is_refused(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    load = data.load
    monkeypatch.setattr(
        session.data,
        "load",
        lambda name, split, **kw: load(name, split, **kw, limit=1300 if split == "train" else None),
    )
    with pytest.raises(EvalkitError, match="training images are not those"):
        train(None, resume=run)


@pytest.mark.parametrize("classes", [2, 3])
def test_fewer_than_five_classes(tmp_path, classes):
    """The first validation stopped the run."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "abc"[:classes]:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
                    tmp_path / split / name / f"{i}.png"
                )
    assert (
        train(
            tiny("data=folder", f"data_dir={tmp_path}", "batch_size=4", "micro_batch=4", "eval_resize=32"),
            tmp_path / "run",
        )
        == 0
    )
    (record,) = results.read([tmp_path / "run"])
    assert set(record["metrics"]) == {"top1", "top1_best", "loss"}


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")],
)
def test_memory_that_ran_out_is_a_line_of_advice(tmp_path, monkeypatch, error):
    def forward(*_):
        raise error

    monkeypatch.setattr(loop, "forward", forward)
    advice = "with micro_batch=64; .* auto_micro_batch=true, .* micro_batch=32 .* or fewer workers"
    with pytest.raises(EvalkitError, match=advice):
        train(tiny(), tmp_path / "run")
    monkeypatch.setattr(loop, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), tmp_path / "other")


def test_a_network_that_cannot_be_compiled_is_a_line_of_advice():
    s = session.build(tiny(), torch.device("cpu"))
    error = TorchDynamoException("\nno C compiler found\nand much more")
    assert "at step 0 (no C compiler found); begin a new run with compile=false" in str(not_compiled(s, error))
    assert not_compiled(s, RuntimeError("another")) is None
