"""What a run of segmentation leaves behind: records, checkpoints, numbers; and what it says of images it cannot use.
Runs of seconds."""

import importlib
import importlib.util
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit import checkpoint, config, results
from evalkit.cli import invoke
from evalkit.downstream import readers_seg, seg
from evalkit.downstream.run import transfer
from evalkit.downstream.seg import SegConfig
from evalkit.errors import EvalkitError

from .test_seg import TINY, loaded

needs_mm = pytest.mark.skipif(
    importlib.util.find_spec("mmseg") is None, reason="the extra 'downstream' is not installed"
)


@pytest.fixture(scope="module")
def finished(shapes, weights, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "finished"
    cfg = loaded(
        "digits-scenes",
        f"data={shapes}",
        *TINY,
        "head=segmenter",
        "ms=true",
        "ratios=[0.75,1.0]",
        "mm.model.decode_head.num_layers=1",
    )
    assert transfer(seg.TASK, str(weights), cfg, run) == 0
    return run


@needs_mm
def test_run_leaves_a_complete_record(finished, shapes):
    (record,) = results.read([finished])
    assert [record[key] for key in ("task", "protocol", "model", "label", "method")] == [
        "transfer",
        "seg",
        "vit_nano_patch4_32",
        "mine",
        "mixpro",
    ]
    assert record["complete"] and not record["published"] and record["n"] == 4 and record["checkpoint_sha256"]
    assert (
        record["data"]["name"] == "shapes"
        and record["data"]["classes"] == 3
        and record["config"]["head"] == "segmenter"
    )
    assert set(record["metrics"]) == {"miou", "miou_ms", "mean_accuracy", "pixel_accuracy", "parameters"}
    assert [row["class"] for row in record["series"]] == ["background", "red", "blue"]
    assert record["environment"]["mmsegmentation"] and (finished / "samples.png").stat().st_size > 1000


@needs_mm
def test_two_runs_are_compared_by_what_they_keep_of_each_image(finished, shapes, weights, tmp_path, capsys):
    """Every metric with its interval, paired; numbers again from the images alone; what is gone is said and made
    again."""
    (record,) = results.read([finished])
    ids, statistics = seg.TASK.per_image(finished / record["records"])
    assert ids.tolist() == [f"{i:03d}.png" for i in range(4)]
    again = {name: value for s in statistics for name, value in s.values.items()}
    assert again == pytest.approx({name: record["metrics"][name] for name in again})
    assert set(again) == {"miou", "miou_ms", "mean_accuracy", "pixel_accuracy"} == set(record["intervals"])
    keys = ["head=segmenter", "ms=true", "ratios=[0.75,1.0]", "mm.model.decode_head.num_layers=1", "init=random"]
    other = tmp_path / "other"
    assert transfer(seg.TASK, str(weights), loaded("digits-scenes", f"data={shapes}", *TINY, *keys), other) == 0
    capsys.readouterr()
    assert invoke(["compare", str(finished), str(other), "--out", str(tmp_path)]) == (0, "")
    printed = capsys.readouterr().out
    assert "seg on shapes, 4 images: A = mine, B = vit_nano_patch4_32, random" in printed
    (made,) = json.loads((tmp_path / "compare.json").read_text())
    assert set(made["metrics"]) == set(again) and made["a"]["label"] == "mine"
    (second,) = results.read([other])
    for name, found in made["metrics"].items():
        assert found["difference"] == pytest.approx(record["metrics"][name] - second["metrics"][name])
        assert found["interval"][0] <= found["difference"] <= found["interval"][1] and found["standard_error"] >= 0
    (other / "per_image.npz").unlink()
    code, said = invoke(["compare", str(finished), str(other)])
    assert code == 1 and said.endswith(f"by `evalkit transfer seg`, a finished run by its --resume {other}")
    assert transfer(seg.TASK, None, None, resume=other) == 0
    assert invoke(["compare", str(finished), str(other)]) == (0, "") and len(results.read([other])) == 1


@needs_mm
def test_run_log_has_the_schedule(finished):
    """Linear warm-up over two steps, then (1 - t / 5) ^ 0.9 from lr to min_lr over the six that are left; the result
    last."""
    *lines, last = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    (record,) = results.read([finished])
    assert last == {"step": 8} | {f"val_{k}": v for k, v in record["metrics"].items() if k != "parameters"}
    assert [line["step"] for line in lines] == [2, 4, 6, 8] and all(math.isfinite(line["loss"]) for line in lines)
    expected = [1e-5 + (1e-3 - 1e-5) * (1 - t / 5) ** 0.9 for t in (1, 3, 5)]
    assert [line["lr"] for line in lines[1:]] == pytest.approx(expected, rel=1e-6)


@needs_mm
def test_run_saves_the_resolved_mm_config(finished):
    from mmengine.config import Config

    made = Config.fromfile(finished / "mm_config.py")
    assert (
        made.model.decode_head.num_layers == 1
        and made.model.backbone.model_args == {"depth": 1}
        and made.train_cfg.max_iters == 8
    )
    assert config.load(SegConfig, finished / "config.yaml", [], folder="seg").mm == {
        "model": {"decode_head": {"num_layers": 1}}
    }


@needs_mm
def test_checkpoints_hold_nothing_but_tensors_and_text(finished):
    paths = sorted((finished / "checkpoints").glob("*.pth"))
    assert [p.name for p in paths] == ["step-000000004.pth", "step-000000008.pth"]
    content = torch.load(paths[-1], weights_only=True)
    assert content["meta"]["iter"] == 8 and "backbone.model.pos_embed" in content["state_dict"] and content["optimizer"]


@needs_mm
def test_weights_arrive_and_are_reported(finished, weights, capsys):
    report = json.loads((finished / "weights.json").read_text())
    assert (
        len(report["loaded"]) > 10
        and report["head_dropped"] == ["head.bias", "head.weight"]
        and report["resized"] == report["unexpected"] == []
    )


@needs_mm
def test_a_run_folder_is_not_used_twice_and_a_finished_run_only_tests_again(finished, weights, shapes, capsys):
    cfg = loaded("digits-scenes", f"data={shapes}", *TINY)
    with pytest.raises(EvalkitError, match="already holds a run; continue it with --resume"):
        transfer(seg.TASK, str(weights), cfg, finished)
    with pytest.raises(EvalkitError, match="key 'lr' cannot change on resume"):
        transfer(seg.TASK, None, None, resume=finished, overrides=["lr=0.1"])
    with pytest.raises(EvalkitError, match="key 'mm' cannot change on resume"):
        transfer(seg.TASK, None, None, resume=finished, overrides=["mm.model.decode_head.num_layers=2"])
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    assert transfer(seg.TASK, None, None, resume=finished, overrides=["log_steps=3"]) == 0
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before
    assert "the run was finished, and nothing was added to it" in capsys.readouterr().out


@needs_mm
@pytest.mark.parametrize("harm", ["cut", "one bit", "no sha256", "other tensors"])
def test_a_damaged_checkpoint_is_passed_over_or_named(finished, tmp_path, harm):
    run = shutil.copytree(finished, tmp_path / "run")
    newest = run / "checkpoints/step-000000008.pth"
    whole = newest.read_bytes()
    if harm == "cut":
        newest.write_bytes(whole[:3000])
    elif harm == "one bit":
        newest.write_bytes(
            whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 4]) + whole[len(whole) // 2 + 1 :]
        )
    else:  # written by an earlier version: only what cannot be loaded shows
        newest.with_name(newest.name + ".sha256").unlink()
        (run / "results.jsonl").unlink()
    if harm == "other tensors":
        content = torch.load(newest, weights_only=True)
        del content["state_dict"]["backbone.model.pos_embed"]
        torch.save(content, newest)
        with (
            pytest.warns(UserWarning, match="no .sha256 file"),
            pytest.raises(
                EvalkitError, match="step-000000008.pth is damaged or of another run; remove it, and the run resumes"
            ),
        ):
            transfer(seg.TASK, None, None, resume=run)
        return
    expected = "no .sha256 file" if harm == "no sha256" else "passed over: .*step-000000008.pth is damaged"
    with pytest.warns(UserWarning, match=expected):
        assert transfer(seg.TASK, None, None, resume=run) == 0
    (again,), (record,) = results.read([run]), results.read([finished])
    assert again["metrics"] == record["metrics"]
    assert newest.read_bytes() == whole  # the same bytes


@needs_mm
def test_a_full_disk_is_one_line(weights, shapes, tmp_path, monkeypatch):
    engine = importlib.import_module("evalkit.downstream.mm.engine")

    def half(runner, folder, name, **_):
        (Path(folder) / name).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.Runner, "save_checkpoint", half)
    with pytest.raises(
        EvalkitError, match="cannot write checkpoint .*: No space left on device; what was saved before is intact"
    ):
        transfer(seg.TASK, str(weights), loaded("digits-scenes", f"data={shapes}", *TINY), tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []  # nor the half that took the last of the space


@needs_mm
def test_measured_iou_is_that_of_the_predicted_pixels(finished, weights, shapes):
    """Intersection over union of every class, counted here over the predictions of the last checkpoint."""
    from mmengine.config import Config

    engine = importlib.import_module("evalkit.downstream.mm.engine")
    made = Config.fromfile(finished / "mm_config.py").to_dict()
    runner = engine.build(made, finished, scope="mmseg", seed=0, device=torch.device("cpu"), checkpoint=None)
    state = torch.load(finished / "checkpoints/step-000000008.pth", weights_only=True)["state_dict"]
    engine.plain_model(runner).load_state_dict(state)
    taken = engine.samples(runner, made, 4)
    for (image, _, _), name in zip(taken, ("000", "001", "002", "003")):
        assert np.array_equal(image, np.asarray(Image.open(shapes / f"images/val/{name}.png")))
    truth, prediction = (np.concatenate([sample[i].ravel() for sample in taken]) for i in (1, 2))
    expected = [((truth == k) & (prediction == k)).sum() / ((truth == k) | (prediction == k)).sum() for k in range(3)]
    record = results.read([finished])[0]
    assert [row["iou"] for row in record["series"]] == pytest.approx(expected) and record["metrics"][
        "miou"
    ] == pytest.approx(np.mean(expected))
    assert record["metrics"]["pixel_accuracy"] == pytest.approx((truth == prediction).mean())


@needs_mm
@pytest.mark.slow
@pytest.mark.parametrize("head", seg.HEADS)
def test_a_minute_of_training_beats_background_alone(head, shapes, weights, tmp_path):
    cfg = loaded(
        "digits-scenes",
        f"data={shapes}",
        *TINY,
        "steps=120",
        "warmup_steps=10",
        "batch_size=8",
        "lr=0.003",
        f"head={head}",
        "checkpoint_steps=120",
    )
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
    monkeypatch.setattr(readers_seg, "CHECKED", 1)
    shutil.copytree(shapes, tmp_path / "own")
    return tmp_path / "own"


def spoil(path, labels):
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)


LATE = {
    "train photo": (
        "images/train/005.png",
        lambda path: path.write_bytes(b"?"),
        r"images/train/005.png or its truth cannot be used \(AssertionError: failed",
    ),
    "val photo": (
        "images/val/002.png",
        lambda path: path.write_bytes(b"?"),
        "images/val/002.png or its truth cannot be used",
    ),
    "train label": (
        "masks/train/005.png",
        lambda path: spoil(path, np.full((32, 40), 3)),
        "masks/train/005.png holds the label 3, but the last class is 2",
    ),
    "val label": (
        "masks/val/002.png",
        lambda path: spoil(path, np.full((32, 40), 254)),
        "masks/val/002.png holds the label 254, but the last class is 2",
    ),
    "size": (
        "masks/val/002.png",
        lambda path: spoil(path, np.zeros((40, 32))),
        "masks/val/002.png has the shape 40x32, its image 32x40",
    ),
}


@needs_mm
@pytest.mark.parametrize("case", LATE)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_turns_out_bad_in_the_run_is_named(case, workers, own, weights, tmp_path):
    name, fault, message = LATE[case]
    fault(own / name)
    with pytest.raises(EvalkitError, match=f"^{tmp_path}/own/{message}") as e:
        transfer(
            seg.TASK,
            str(weights),
            loaded("digits-scenes", f"data={own}", *TINY, f"workers={workers}"),
            tmp_path / "run",
        )
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


@needs_mm
def test_a_run_without_a_checkpoint_begins_with_no_other_weights(finished, weights, tmp_path):
    run, own = tmp_path / "run", tmp_path / "own"
    shutil.copytree(finished, run)
    shutil.copytree(weights, own, symlinks=True)
    shutil.rmtree(run / "checkpoints")
    (run / results.FILE).unlink()
    (folder,) = (own / "checkpoints").iterdir()
    source = json.loads((run / "source.json").read_text())
    (run / "source.json").write_text(json.dumps(source | {"checkpoint": str(folder)}))
    meta = {k: v for k, v in checkpoint.verify(folder).items() if k not in ("sha256", "schema", "step")}
    tensors = checkpoint.read_weights(own)[0]
    shutil.rmtree(own)
    checkpoint.save(own, 1, {name: tensor + 1 for name, tensor in tensors.items()}, None, {}, meta)
    with pytest.raises(EvalkitError, match=f"the weights {folder} are not those that {run} began with"):
        transfer(seg.TASK, None, None, resume=run)
