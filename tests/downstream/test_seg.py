"""Segmentation: what the recipes ask of mmsegmentation, and what a run of it leaves behind. Needs no training but one of seconds."""

import importlib
import importlib.util
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit import cli, config, recipes, results
from evalkit.downstream import layout_seg, seg
from evalkit.downstream.backbone import Source
from evalkit.downstream.config import merge
from evalkit.downstream.run import transfer
from evalkit.downstream.seg import SegConfig
from evalkit.downstream.task import Data
from evalkit.errors import EvalkitError

needs_mm = pytest.mark.skipif(importlib.util.find_spec("mmseg") is None, reason="the extra 'downstream' is not installed")
DEIT = Source("deit_small_patch16_224", {}, "deit.pth", None, "0" * 64, None, "deit", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], [384] * 12, [16] * 12)
CONTEXT = Data("pascal-context", [str(i) for i in range(60)], {"train": 4998, "val": 5105}, "f", True, {"type": "T"}, {"type": "V"})
TINY = ["crop=32", "stride=32", "steps=8", "warmup_steps=2", "batch_size=4", "log_steps=2", "checkpoint_steps=4", "ratios=[0.75,1.0]", "device=cpu"]


def loaded(recipe, *overrides):
    return config.load(SegConfig, recipe, list(overrides), folder="seg")


def built(recipe, *overrides):
    cfg = loaded(recipe, *overrides)
    made = seg.mm_config(cfg, DEIT, CONTEXT, Path("run"))
    merge(made, cfg.mm)
    return made


# ---- recipes


@pytest.mark.parametrize("name", sorted(config.recipes("seg")))
def test_recipe_loads_and_says_what_it_costs(name):
    loaded(name)
    header = recipes.header(config.find(name, "seg"))
    assert header[0] and any(line.startswith("Cost: ") for line in header)


@pytest.mark.parametrize("head", seg.HEADS)
def test_pascal_context_recipe_is_segmenters(head):
    """rstrudel/segmenter: config.yml and train.py for pascal_context."""
    cfg = loaded(f"pascal-context-{head}")
    assert (cfg.opt, cfg.lr, cfg.min_lr, cfg.power, cfg.weight_decay, cfg.batch_size) == ("sgd", 1e-3, 1e-5, 0.9, 0.0, 16)
    assert cfg.steps == 80000 and abs(cfg.steps - 256 * 312) < 200  # 256 epochs of 312 steps, rounded
    assert (cfg.short_side, cfg.scale, cfg.crop, cfg.stride, cfg.drop_path, cfg.warmup_steps) == (520, [0.5, 2.0], 480, 320, 0.1, 0)
    assert cfg.classes == 60 and cfg.head == head and cfg.head_dropout == {"linear": 0.0, "segmenter": 0.1}[head]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["head=linaer"], "unknown head 'linaer'. Did you mean 'linear'?"),
        (["classes=58"], "key 'classes' must be 60"),
        (["stride=128"], "stride=128 leaves gaps between windows of crop=32"),
        (["warmup_steps=600"], "warmup_steps=600 leaves nothing of steps=600"),
        (["scale=[2.0,0.5]"], "key 'scale' must be two numbers above 0"),
        (["scale=[0.5,2.0]"], "key 'scale' needs short_side"),
        (["crop=0"], "key 'crop' must be larger than 0"),
        (["flip=2"], "key 'flip' must lie between 0 and 1, but got 2"),
        (["lr=nan"], "key 'lr' must be larger than 0, but got nan"),
        (["ratios=[]"], "key 'ratios' must be numbers above 0"),
        (["init=none"], "unknown value of init 'none'"),
        (["stpes=3"], "unknown key 'stpes'. Did you mean 'steps'?"),
    ],
)
def test_wrong_values_are_one_line(overrides, message):
    with pytest.raises(EvalkitError) as e:
        loaded("digits-scenes", *overrides)
    assert message in str(e.value)


@pytest.mark.parametrize(
    "overrides, name",
    [
        ([], "digits-scenes"),
        (["head=segmenter"], "digits-scenes"),
        (["data=pascal-context"], "pascal-context-linear"),
        (["data=my/scenes", "head=segmenter"], "pascal-context-segmenter"),
    ],
)
def test_the_data_call_for_a_recipe(overrides, name):
    assert seg.recipe(overrides) == name


# ---- the mm config


def test_linear_decoder_is_one_convolution_and_segmenter_two_layers():
    linear, mask = (built(f"pascal-context-{head}")["model"]["decode_head"] for head in seg.HEADS)
    assert linear["type"] == "FCNHead" and linear["num_convs"] == 0 and linear["num_classes"] == 60 and linear["channels"] == linear["in_channels"] == 384
    assert mask["type"] == "SegmenterMaskTransformerHead" and (mask["num_layers"], mask["num_heads"], mask["embed_dims"]) == (2, 6, 384)


def test_images_are_resized_by_the_short_side_and_scales_multiply_it():
    made = built("pascal-context-linear")
    train, test = made["train_dataloader"]["dataset"]["pipeline"], made["test_dataloader"]["dataset"]["pipeline"]
    assert [t for t in train if t["type"] == "RandomResize"] == [{"type": "RandomResize", "scale": (4160, 520), "ratio_range": (0.5, 2.0), "keep_ratio": True}]
    assert [t["scale"] for t in test if t["type"] == "Resize"] == [(4160, 520)]
    scales, flips, *_ = made["tta_pipeline"][1]["transforms"]
    assert [t["scale"][1] for t in scales] == [260, 390, 520, 650, 780, 910] and [t["prob"] for t in flips] == [0.0, 1.0]


def test_what_is_not_mirrored_in_training_is_not_mirrored_in_the_test():
    made = built("digits-scenes")
    assert [t["prob"] for t in made["train_dataloader"]["dataset"]["pipeline"] if t["type"] == "RandomFlip"] == [0.0]
    assert [t["prob"] for t in made["tta_pipeline"][1]["transforms"][1]] == [0.0]


def test_the_config_is_the_recipe():
    made = built("pascal-context-segmenter")
    assert made["optim_wrapper"] == {"type": "OptimWrapper", "optimizer": {"type": "SGD", "momentum": 0.9, "lr": 1e-3, "weight_decay": 0.0}}
    assert made["model"]["test_cfg"] == {"mode": "slide", "crop_size": (480, 480), "stride": (320, 320)}
    backbone, prepare = made["model"]["backbone"], made["model"]["data_preprocessor"]
    assert backbone["img_size"] == 480 and backbone["out_indices"] == [11] and backbone["norm"] and backbone["model_args"] == {"drop_path_rate": 0.1}
    assert prepare["mean"] == pytest.approx([123.675, 116.28, 103.53]) and prepare["std"] == pytest.approx([58.395, 57.12, 57.375])
    assert prepare["bgr_to_rgb"] and prepare["test_cfg"] == {"size_divisor": 16}


def test_overrides_reach_the_mm_config():
    changes = ["mm.model.decode_head.loss_decode.avg_non_ignore=true", "mm.param_scheduler.0.power=2", "mm.model.test_cfg={mode: whole}"]
    made = built("pascal-context-linear", *changes)
    assert made["model"]["decode_head"]["loss_decode"]["avg_non_ignore"] is True and made["param_scheduler"][0]["power"] == 2
    assert made["model"]["test_cfg"]["mode"] == "whole" and made["model"]["decode_head"]["num_classes"] == 60
    with pytest.raises(EvalkitError, match=r"unknown key 'mm.modle'. Did you mean 'mm.model'\?"):
        built("pascal-context-linear", "mm.modle.x=1")
    with pytest.raises(EvalkitError, match="'mm.param_scheduler' is a list of 1, so 'mm.param_scheduler.7' names nothing"):
        built("pascal-context-linear", "mm.param_scheduler.7.power=2")


def test_59_classes_leave_background_out(monkeypatch):
    names = ["background", *(f"c{i}" for i in range(59))]
    both = dict.fromkeys(("train", "val"))
    found = seg.SegData("pascal-context", "root", names, both, both, {"train": ["a"], "val": ["b"]}, both, (".jpg", ".png"), {"train": "t", "val": "v"}, True)
    monkeypatch.setattr(seg.layout, "segmentation", lambda *args: found)
    cfg = loaded("pascal-context-linear")
    data = [seg.find_data(replace(cfg, classes=k), Path("run")) for k in (60, 59)]
    assert [len(d.classes) for d in data] == [60, 59] and data[1].classes[0] == "c0" and data[1].fingerprint == "v"
    assert [d.train["reduce_zero_label"] for d in data] == [False, True] and data[1].val["metainfo"]["classes"] == names[1:]
    monkeypatch.setattr(seg.layout, "segmentation", lambda *args: replace(found, classes=names[:11]))
    with pytest.raises(EvalkitError, match="classes=59 belongs to Pascal Context, but pascal-context has 11 classes"):
        seg.find_data(replace(cfg, classes=59), Path("run"))


@pytest.mark.parametrize(
    "overrides, whole, published",
    [
        ([], True, True),
        (["seed=3", "workers=0", "ms=true", "label=x", "data_dir=d"], True, True),
        ([], False, False),
        (["lr=0.01"], True, False),
        (["classes=59"], True, False),
        (["mm.model.test_cfg.mode=whole"], True, False),
    ],
)
def test_published_protocol_is_the_whole_set_by_the_recipe(overrides, whole, published):
    assert seg.published(loaded("pascal-context-linear", *overrides), replace(CONTEXT, published=whole)) is published


# ---- numbers


def test_means_are_over_the_classes_that_occur():
    """3 classes, the last nowhere: IoU 6/8 and 2/4, accuracy 6/6 and 2/4."""
    score = {"seg/iou": np.array([0.75, 0.5, np.nan]), "seg/accuracy": np.array([1.0, 0.5, np.nan]), "seg/all": 0.8}
    data = replace(CONTEXT, classes=["a", "b", "c"])
    cfg = loaded("pascal-context-linear", "ms=true")
    outcome = seg.measure(cfg, data, lambda tta=False: score | {"seg/iou": score["seg/iou"] / (2 if tta else 1)})
    assert outcome.metrics == {"miou": 0.625, "miou_ms": 0.3125, "mean_accuracy": 0.75, "pixel_accuracy": 0.8}
    assert outcome.series[1] == {"class": "b", "iou": 0.5, "iou_ms": 0.25} and math.isnan(outcome.series[2]["iou"])
    assert any("Segmenter's recipe" in note for note in outcome.notes) and any("1 of 3 classes" in note for note in outcome.notes)
    assert set(seg.measure(loaded("pascal-context-linear"), data, lambda tta=False: score).metrics) == {"miou", "mean_accuracy", "pixel_accuracy"}


@pytest.mark.filterwarnings("error")
def test_nothing_to_count_is_said():
    nothing = {"seg/iou": np.full(3, np.nan), "seg/accuracy": np.full(3, np.nan), "seg/all": np.nan}
    outcome = seg.measure(loaded("pascal-context-linear"), replace(CONTEXT, classes=["a", "b", "c"]), lambda tta=False: nothing)
    assert all(math.isnan(value) for value in outcome.metrics.values())
    assert outcome.undefined == dict.fromkeys(outcome.metrics, "no pixel of the validation images has a class")


# ---- a run of seconds


@pytest.fixture(scope="module")
def finished(shapes, weights, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "finished"
    cfg = loaded("digits-scenes", f"data={shapes}", *TINY, "head=segmenter", "ms=true", "mm.model.decode_head.num_layers=1")
    assert transfer(seg.TASK, str(weights), cfg, run) == 0
    return run


@needs_mm
def test_run_leaves_a_complete_record(finished, shapes):
    (record,) = results.read([finished])
    assert [record[key] for key in ("task", "protocol", "model", "label", "method")] == ["transfer", "seg", "vit_nano_patch4_32", "mine", "mixpro"]
    assert record["complete"] and not record["published_protocol"] and record["n"] == 4 and record["checkpoint_sha256"]
    assert record["data"]["name"] == "shapes" and record["data"]["classes"] == 3 and record["config"]["head"] == "segmenter"
    assert set(record["metrics"]) == {"miou", "miou_ms", "mean_accuracy", "pixel_accuracy", "parameters"}
    assert [row["class"] for row in record["series"]] == ["background", "red", "blue"]
    assert record["environment"]["mmsegmentation"] and (finished / "samples.png").stat().st_size > 1000


@needs_mm
def test_run_log_has_the_schedule(finished):
    """Linear warm-up over two steps, then (1 - t / 5) ^ 0.9 from lr to min_lr over the six that are left."""
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8] and all(math.isfinite(line["loss"]) for line in lines)
    expected = [1e-5 + (1e-3 - 1e-5) * (1 - t / 5) ** 0.9 for t in (1, 3, 5)]
    assert [line["lr"] for line in lines[1:]] == pytest.approx(expected, rel=1e-6)


@needs_mm
def test_run_saves_the_resolved_mm_config(finished):
    from mmengine.config import Config

    made = Config.fromfile(finished / "mm_config.py")
    assert made.model.decode_head.num_layers == 1 and made.model.backbone.model_args == {"depth": 1} and made.train_cfg.max_iters == 8
    assert config.load(SegConfig, finished / "config.yaml", [], folder="seg").mm == {"model": {"decode_head": {"num_layers": 1}}}


@needs_mm
def test_checkpoints_hold_nothing_but_tensors_and_text(finished):
    paths = sorted((finished / "checkpoints").iterdir())
    assert [p.name for p in paths] == ["step-000000004.pth", "step-000000008.pth"]
    content = torch.load(paths[-1], weights_only=True)
    assert content["meta"]["iter"] == 8 and "backbone.model.pos_embed" in content["state_dict"] and content["optimizer"]


@needs_mm
def test_weights_arrive_and_are_reported(finished, weights, capsys):
    report = json.loads((finished / "weights.json").read_text())
    assert len(report["loaded"]) > 10 and report["head_dropped"] == ["head.bias", "head.weight"] and report["missing"] == report["unexpected"] == []


@needs_mm
def test_a_run_folder_is_not_used_twice_and_a_finished_run_only_tests_again(finished, weights, shapes):
    cfg = loaded("digits-scenes", f"data={shapes}", *TINY)
    with pytest.raises(EvalkitError, match="already holds a run; continue it with --resume"):
        transfer(seg.TASK, str(weights), cfg, finished)
    with pytest.raises(EvalkitError, match="key 'lr' cannot change on resume"):
        transfer(seg.TASK, None, None, resume=finished, overrides=["lr=0.1"])
    with pytest.raises(EvalkitError, match="key 'mm' cannot change on resume"):
        transfer(seg.TASK, None, None, resume=finished, overrides=["mm.model.decode_head.num_layers=2"])
    before = results.read([finished])[0]["metrics"]
    assert transfer(seg.TASK, None, None, resume=finished, overrides=["log_steps=3"]) == 0
    assert [r["metrics"] for r in results.read([finished])] == [before, before]


@needs_mm
def test_a_damaged_checkpoint_is_named(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    newest = run / "checkpoints/step-000000008.pth"
    newest.write_bytes(newest.read_bytes()[:3000])
    with pytest.raises(EvalkitError, match="step-000000008.pth is damaged; remove it, and the run resumes from the checkpoint before it"):
        transfer(seg.TASK, None, None, resume=run)
    newest.unlink()
    assert transfer(seg.TASK, None, None, resume=run) == 0
    assert results.read([run])[-1]["metrics"] == results.read([finished])[0]["metrics"]


@needs_mm
def test_a_full_disk_is_one_line(weights, shapes, tmp_path, monkeypatch):
    engine = importlib.import_module("evalkit.downstream.mm.run")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(engine.Runner, "save_checkpoint", lambda *args, **kwargs: (_ for _ in ()).throw(full))
    with pytest.raises(EvalkitError, match="cannot write a checkpoint to .*: No space left on device; earlier checkpoints are intact"):
        transfer(seg.TASK, str(weights), loaded("digits-scenes", f"data={shapes}", *TINY), tmp_path / "run")


@needs_mm
def test_measured_iou_is_that_of_the_predicted_pixels(finished, weights, shapes):
    """Intersection over union of every class, counted here over the predictions of the last checkpoint."""
    from mmengine.config import Config

    engine = importlib.import_module("evalkit.downstream.mm.run")
    made = Config.fromfile(finished / "mm_config.py").to_dict()
    runner = engine.build(made, finished, scope="mmseg", seed=0, device=torch.device("cpu"), resume=False)
    state = torch.load(finished / "checkpoints/step-000000008.pth", weights_only=True)["state_dict"]
    engine.plain_model(runner).load_state_dict(state)
    taken = engine.samples(runner, made, 4)
    for (image, _, _), name in zip(taken, ("000", "001", "002", "003")):
        assert np.array_equal(image, np.asarray(Image.open(shapes / f"images/val/{name}.png")))
    truth, prediction = (np.concatenate([sample[i].ravel() for sample in taken]) for i in (1, 2))
    expected = [((truth == k) & (prediction == k)).sum() / ((truth == k) | (prediction == k)).sum() for k in range(3)]
    record = results.read([finished])[0]
    assert [row["iou"] for row in record["series"]] == pytest.approx(expected) and record["metrics"]["miou"] == pytest.approx(np.mean(expected))
    assert record["metrics"]["pixel_accuracy"] == pytest.approx((truth == prediction).mean())


@needs_mm
@pytest.mark.slow
@pytest.mark.parametrize("head", seg.HEADS)
def test_a_minute_of_training_beats_background_alone(head, shapes, weights, tmp_path):
    cfg = loaded("digits-scenes", f"data={shapes}", *TINY, "steps=120", "warmup_steps=10", "batch_size=8", "lr=0.003", f"head={head}", "checkpoint_steps=120")
    assert transfer(seg.TASK, str(weights), cfg, tmp_path / "run") == 0
    background = np.mean([(np.asarray(Image.open(path)) == 0).mean() for path in (shapes / "masks/val").iterdir()]) / 3
    assert results.read([tmp_path / "run"])[0]["metrics"]["miou"] > background + 0.2


@needs_mm
def test_a_lost_loss_ends_the_run_without_a_result(weights, shapes, tmp_path):
    cfg = loaded("digits-scenes", f"data={shapes}", *TINY, "lr=1e30", "warmup_steps=0", "clip_grad=null", "opt=sgd")
    with pytest.raises(EvalkitError, match="the loss was not finite at step"):
        transfer(seg.TASK, str(weights), cfg, tmp_path / "run")
    assert not (tmp_path / "run" / results.FILE).exists() and not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture
def own(shapes, tmp_path, monkeypatch):
    """A copy of the shapes, of which only the first label map is looked at before the run."""
    monkeypatch.setattr(layout_seg, "CHECKED", 1)
    shutil.copytree(shapes, tmp_path / "own")
    return tmp_path / "own"


def spoil(path, labels):
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)


LATE = {
    "train photo": ("images/train/005.png", lambda path: path.write_bytes(b"?"), r"images/train/005.png or its truth cannot be used \(AssertionError: failed"),
    "val photo": ("images/val/002.png", lambda path: path.write_bytes(b"?"), "images/val/002.png or its truth cannot be used"),
    "train label": ("masks/train/005.png", lambda path: spoil(path, np.full((32, 40), 3)), "masks/train/005.png holds the label 3, but the last class is 2"),
    "val label": ("masks/val/002.png", lambda path: spoil(path, np.full((32, 40), 254)), "masks/val/002.png holds the label 254, but the last class is 2"),
    "size": ("masks/val/002.png", lambda path: spoil(path, np.zeros((40, 32))), "masks/val/002.png has the shape 40x32, its image 32x40"),
}


@needs_mm
@pytest.mark.parametrize("case", LATE)
@pytest.mark.parametrize("workers", [0, 1])
def test_what_turns_out_bad_in_the_run_is_named(case, workers, own, weights, tmp_path):
    name, fault, message = LATE[case]
    fault(own / name)
    with pytest.raises(EvalkitError, match=f"^{tmp_path}/own/{message}") as e:
        transfer(seg.TASK, str(weights), loaded("digits-scenes", f"data={own}", *TINY, f"workers={workers}"), tmp_path / "run")
    assert "\n" not in str(e.value) and not (tmp_path / "run" / results.FILE).exists()


@needs_mm
def test_a_label_beyond_the_59_classes_is_named_as_the_file_holds_it(tmp_path):
    engine = importlib.import_module("evalkit.downstream.mm.seg")
    spoil(tmp_path / "a.png", [[0, 59, 60], [0, 0, 0]])
    entry = {"seg_map_path": str(tmp_path / "a.png"), "ori_shape": (2, 3), "reduce_zero_label": True, "seg_fields": []}
    with pytest.raises(EvalkitError, match="holds the label 60, but the last class is 59"):
        engine.EvalkitLabels(59)(dict(entry))
    spoil(tmp_path / "a.png", [[0, 1, 59], [2, 3, 255]])
    found = engine.EvalkitLabels(59)(dict(entry))["gt_seg_map"]
    assert found.tolist() == [[255, 0, 58], [1, 2, 255]]


@needs_mm
def test_folders_below_are_not_part_of_the_set(own, weights, tmp_path):
    for folder in ("sub", ".hidden"):
        for split in ("train", "val"):
            (own / "images" / split / folder).mkdir()
            shutil.copy(own / f"images/{split}/000.png", own / f"images/{split}/{folder}/900.png")
    assert transfer(seg.TASK, str(weights), loaded("digits-scenes", f"data={own}", *TINY), tmp_path / "run") == 0
    assert results.read([tmp_path / "run"])[0]["n"] == 4


@needs_mm
def test_bad_requests_leave_no_run_behind(weights, shapes, tmp_path):
    for spec, overrides, message in [
        (str(weights), ["data=nowhere"], "data 'nowhere' is no folder"),
        ("nothing/there", [f"data={shapes}"], "no such checkpoint"),
        (str(weights), [f"data={shapes}", "mm.modle.x=1"], "unknown key 'mm.modle'"),
    ]:
        with pytest.raises(EvalkitError, match=message):
            transfer(seg.TASK, spec, loaded("digits-scenes", *TINY, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["transfer", "seg"], "give either a checkpoint (a run or checkpoint folder, a weights file, a timm name) or --resume DIR"),
        (["transfer", "seg", "a", "--resume", "b"], "give either a checkpoint (a run or checkpoint folder, a weights file, a timm name) or --resume DIR"),
        (["transfer", "seg", "a", "b"], "one checkpoint at a time, but got a, b; settings are written key=value"),
        (["transfer", "seg", "--resume", "b", "--ms"], "--resume continues the run inside b as it is; leave out --out, --recipe and --ms"),
        (["transfer", "det", "a", "--ms"], "--ms belongs to seg; detection is tested at one scale"),
        (["transfer", "seg", "a", "haed=linear"], "unknown key 'haed'. Did you mean 'head'?"),
        (["transfer", "seg", "a", "--recipe", "digit-scenes"], "unknown recipe 'digit-scenes'. Did you mean 'digits-scenes'?"),
    ],
)
def test_command_line_errors_are_one_line(words, message):
    assert cli.invoke(words) == (1, message)


def test_command_line_reaches_the_run(monkeypatch, tmp_path):
    import evalkit.downstream.run as module

    seen = []
    monkeypatch.setattr(module, "transfer", lambda *args: seen.append(args) or 0)
    assert cli.invoke(["transfer", "seg", "ckpt", "head=segmenter", "--ms", "--out", str(tmp_path)]) == (0, "")
    task, spec, cfg, out, resume, _ = seen[0]
    assert (task.name, spec, cfg.head, cfg.ms, cfg.data, out, resume) == ("seg", "ckpt", "segmenter", True, "digits-scenes", tmp_path, None)
