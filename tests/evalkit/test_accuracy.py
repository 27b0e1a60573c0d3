import csv
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from evalkit import data, inference, models, results
from evalkit.accuracy import evaluate
from evalkit.cli import invoke
from evalkit.errors import EvalkitError
from evalkit.train import measure, session, snapshot
from tests.conftest import tiny


def test_default_data_and_predictions(finished, tmp_path, capsys):
    assert evaluate(str(finished), None, tmp_path, ["weights=raw", "workers=0", "device=cpu"]) == 0
    record, trained = results.read([tmp_path])[0], results.read([finished])[0]
    assert (
        record["metrics"]["top1"] == trained["metrics"]["top1"]
        and record["checkpoint_sha256"] == trained["checkpoint_sha256"]
    )
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert len(rows) == 450 and np.mean([int(r["correct"]) for r in rows]) == pytest.approx(record["metrics"]["top1"])
    assert all(
        0 < float(r["predicted_probability"]) <= 1 and (r["label"] == r["predicted_class"]) == (r["correct"] == "1")
        for r in rows
    )
    assert "top-1" in capsys.readouterr().out


def test_the_checkpoints_other_weights_are_named_with_their_accuracy(finished, tmp_path, capsys):
    """Beside the measured ones, by eval and robustness alike; and what makes the numbers of a short run low."""
    trained = {r["weights"]: 100 * r["metrics"]["top1"] for r in results.read([finished]) if r["task"] == "train"}
    commands = (
        ["eval", str(finished)],
        ["robustness", "occlusion", str(finished), "data=digits", "limit=10", "modes=[random]"],
    )
    for words in commands:
        for measured, other in (("ema", "raw"), ("raw", "ema")):
            assert invoke([*words, f"weights={measured}", "--out", str(tmp_path / measured), "workers=0"])[0] == 0
            said = capsys.readouterr().out
            assert f"weights={other} measures the checkpoint's" in said and f"weights={measured} m" not in said
            assert f"of which training recorded top-1 {trained[other]:.2f} %" in said
            assert "training noted: the run ended within its warm-up of 1 epochs" in said
            assert {"raw": ", raw weights ", "ema": ", averaged weights (ema) "}[measured] in said
            notes = " ".join(results.read([tmp_path / measured])[-1]["notes"])  # what the screen says, the record says
            assert f"weights={other} measures" in notes and f"top-1 {trained[other]:.2f} %" in notes
            assert "training noted: the run ended within its warm-up" in notes
    shutil.copytree(finished / "last", tmp_path / "alone")  # without the record of the training
    assert invoke(["eval", str(tmp_path / "alone"), "workers=0"])[0] == 0
    assert "raw weights, of which training recorded no accuracy" in capsys.readouterr().out


def test_folder_is_matched_by_class_name(finished, tmp_path):
    """Folders 3 and 7 only, upscaled files: every label must be the folder's digit, though it is the first or second
    folder."""
    images = data.load("digits", "val")
    for digit in (3, 7):
        (tmp_path / "d" / str(digit)).mkdir(parents=True)
        for i in np.flatnonzero(images.labels == digit)[:4]:
            images.read(int(i)).resize((40, 40)).save(tmp_path / "d" / str(digit) / f"{i}.png")
    arguments = [
        "eval",
        str(finished),
        "--data",
        str(tmp_path / "d"),
        "--out",
        str(tmp_path / "out"),
        "workers=0",
        "device=cpu",
    ]
    code, message = invoke(arguments)
    assert code == 1 and "the class folder '0' is missing" in message and "allow_partial=true" in message
    assert invoke([*arguments, "allow_partial=true"])[0] == 2  # finished, but incomplete
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert {r["label"] for r in rows} == {"3", "7"} and all(r["file_name"].startswith(r["label"] + "/") for r in rows)


def test_unreadable_image_is_named_and_the_exit_code_is_2(finished, tmp_path, capsys):
    for digit in range(10):
        (tmp_path / "d" / str(digit)).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "d" / str(digit) / "a.png")
    (tmp_path / "d" / "4" / "b.png").write_bytes(b"")
    assert evaluate(str(finished), str(tmp_path / "d"), tmp_path / "out", ["workers=0", "device=cpu"]) == 2
    assert "4/b.png" in capsys.readouterr().out and results.read([tmp_path / "out"])[0]["complete"] is False


def test_hundreds_of_faults_are_a_screen_and_a_file(finished, tmp_path, capsys):
    for i in range(250):
        path = tmp_path / "d" / str(i % 8) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    Image.new("RGB", (32, 32)).save(tmp_path / "d" / "0" / "whole.png")
    words = ["allow_partial=true", "workers=0", "device=cpu"]
    assert evaluate(str(finished), str(tmp_path / "d"), tmp_path / "out", words) == 2
    printed, listed = capsys.readouterr().out, (tmp_path / "out" / "faults.txt").read_text().splitlines()
    assert len(printed.splitlines()) < 30 and f"and {len(listed) - 20} more, listed in faults.txt" in printed
    assert sum(line.startswith("unreadable: ") for line in listed) == 250
    assert sum("class folder" in line for line in listed) == len(listed) - 250 == 2


@pytest.mark.parametrize(
    ("spec", "match"),
    [("nowhere", "no such folder or data set"), ("fashion-mnist", "fashion-mnist"), ("digits-o", "images of no class")],
)
def test_wrong_data(finished, tmp_path, spec, match):
    with pytest.raises(EvalkitError, match=match):
        evaluate(str(finished), spec, tmp_path, ["workers=0", "device=cpu"])


@pytest.mark.parametrize(
    ("spec", "match"),
    [("no/where", "no such folder: no/where"), ("nowhere", "no such folder or"), (None, "which images")],
)
def test_data_that_are_not_there_are_said_before_weights_are_loaded(tmp_path, monkeypatch, spec, match):
    """Weights by a timm name may be a download."""
    monkeypatch.setattr("evalkit.models.load", lambda *args, **more: pytest.fail("weights"))
    with pytest.raises(EvalkitError, match=match):
        evaluate("resnet10t", spec, tmp_path, [])


@pytest.mark.parametrize(
    "override", ["weights=best", "preprocess=tim", "batch_size=0", "forward_batch=-1", "workers=-1", "device=gpu"]
)
def test_values_that_cannot_be(finished, tmp_path, override):
    """Each was a Python error, no effect, or (forward_batch) an endless loop."""
    code, message = invoke(["eval", str(finished), "--out", str(tmp_path / "out"), override])
    assert code == 1 and override.split("=")[1] in message and "Error" not in message


def test_results_of_a_checkpoint_lie_in_its_run(finished, tmp_path):
    """Checkpoints are deleted as training goes on."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "results.jsonl").unlink()
    assert evaluate(str(tmp_path / "run" / "best"), None, None, ["workers=0", "device=cpu"]) == 0
    assert (tmp_path / "run" / "predictions.csv").is_file() and len(results.read([tmp_path / "run"])) == 1
    assert not (tmp_path / "run" / "best" / "predictions.csv").exists()


def test_an_output_that_cannot_be_made_is_found_before_the_work(finished, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(inference, "predict", None)
    with pytest.raises(EvalkitError, match="choose another --out"):
        evaluate(str(finished), None, tmp_path / "file", ["workers=0", "device=cpu"])


RECIPES = {
    "larger than the images": ["image_size=48", "eval_resize=54", "interpolation=bilinear"],
    "as rsb-a3: another size, narrow border, bicubic": ["image_size=24", "eval_size=40", "eval_resize=42"],
    "as tiny-imagenet: no border": ["image_size=40", "eval_resize=40"],
    "lanczos, wide border": ["image_size=40", "eval_resize=71", "interpolation=lanczos"],
    "the images' own size": ["image_size=32"],
    "its own splits": ["train_split=val", "val_split=train"],
}


@pytest.mark.parametrize("keys", RECIPES.values(), ids=RECIPES)
def test_a_run_is_evaluated_as_it_validates(keys, tmp_path):
    """A network that takes any size, its architecture says 32: what training printed is what `eval` prints."""
    s = session.build(tiny("model=resnet10_cifar", "model_args={}", "mixup=vanilla", *keys), torch.device("cpu"))
    snapshot.save(s, tmp_path / "run")
    printed = measure.accuracy(s, s.network)
    assert evaluate(str(tmp_path / "run"), None, tmp_path, ["workers=0", "device=cpu"]) == 0
    record = results.read([tmp_path / "results.jsonl"])[0]
    assert record["metrics"] == {key: printed[key] for key in ("top1", "top5")}
    assert record["config"]["preprocess"] == "run" and record["data"]["prepared"] == str(s.eval_transform)
    assert record["data"]["split"] == s.cfg.val_split and record["n"] == len(s.val_images)


def test_the_key_preprocess_is_what_it_says(finished, tmp_path, capsys):
    """Also for images that have the network's size."""
    prepared = {
        "run": "as they are, 32",
        "native": "as they are, 32",
        "published": "shorter side 36 (bilinear), centre 32",
        "model": "timm's for the model (1.0, bicubic, center), 32",
    }
    for mode, words in prepared.items():
        out = tmp_path / mode
        assert evaluate(str(finished), None, out, [f"preprocess={mode}", "workers=0", "device=cpu"]) == 0
        record = results.read([out])[0]
        assert (record["config"]["preprocess"], record["data"]["prepared"]) == (mode, words)
        assert words in capsys.readouterr().out


def test_the_same_weights_read_as_another_network_are_another_model(tmp_path, capsys):
    """A weights file does not say how many heads its attention has: a row of the report each, two models to compare."""
    file, args = tmp_path / "w.pth", {"img_size": 32, "patch_size": 8, "depth": 1}
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=10, **args).state_dict(), file)
    command = ["eval", str(file), "--data", "digits", "--out", str(tmp_path / "out"), "workers=0", "device=cpu"]
    names = []
    for heads in (3, 6, 6):
        words = ", ".join(f"{k}: {v}" for k, v in (args | {"num_heads": heads}).items())
        assert invoke([*command, "model=vit_tiny_patch16_224", f"model_args={{{words}}}"])[0] == 0
        names.append(f"vit_tiny_patch16_224(depth=1, img_size=32, num_heads={heads}, patch_size=8)")
    assert [r["model"] for r in results.read([tmp_path / "out"])] == names[:2]
    assert invoke(["report", str(tmp_path / "out"), "--out", str(tmp_path / "report")])[0] == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert all(page.count(f"w ({name})") >= 1 for name in names)
    capsys.readouterr()
    both = str(tmp_path / "out")
    assert f"holds 2 models: w ({names[0]}, checkpoint" in invoke(["compare", both, both])[1]
    named = invoke(["compare", *(f"{both}:{name}" for name in names[:2])])[1]
    assert "does not hold the predictions of w" in named  # but those of the other, measured later into this folder


def test_a_file_without_class_names_is_measured_on_as_many_folders_in_their_order(tmp_path, capsys):
    """As torchvision's ImageFolder and timm number folders; of any other number of folders nothing is known."""
    for i, name in enumerate(("b", "a", "B")):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (80 * i, 0, 0)).save(tmp_path / "own" / name / "x.png")
    model = models.create("vit_nano_patch4_32", num_classes=3).model
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([0.0, 0.0, 1.0])  # always the third: 'b', behind 'B' and 'a'
    torch.save(model.state_dict(), tmp_path / "own.pth")
    words = ["eval", str(tmp_path / "own.pth"), "model=vit_nano_patch4_32", "--data", str(tmp_path / "own")]
    assert invoke([*words, "workers=0", "--out", str(tmp_path / "out")]) == (0, "")
    assert (
        "own.pth does not name its classes: its 3 outputs were taken for the class folders" in capsys.readouterr().out
    )
    (record,) = results.read([tmp_path / "out"])
    assert record["metrics"]["top1"] == pytest.approx(1 / 3) and any("in the order of" in n for n in record["notes"])
    lines = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1:]
    assert {line.split(",")[2] for line in lines} == {"b"}
    (tmp_path / "own" / "c").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "own" / "c" / "x.png")
    code, message = invoke(words)
    assert code == 1 and "does not name its 3 classes, and own has 4 class folders" in message
