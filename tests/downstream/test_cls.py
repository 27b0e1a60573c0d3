"""Classification transfer from the command line, without any mm package."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from evalkit import checkpoint, data, models, results
from evalkit.cli import invoke
from evalkit.downstream import PROTOCOLS, features, probes
from evalkit.downstream.about.cls import ClsConfig
from evalkit.downstream.cls import TASK
from evalkit.errors import EvalkitError
from evalkit.robustness import compare
from evalkit.train import session
from tests.conftest import tiny
from tests.evalkit import listed_miniatures
from tests.train.test_sizes import folders

QUICK = ["workers=0", "device=cpu"]
FEW = ["sweep=[0.1, 1.0]", "iterations=100"]


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """All modes of a run of two dozen steps on digits, and of the same network at initial weights."""
    out = tmp_path_factory.mktemp("cls") / "out"
    digits = ["transfer", "cls", str(finished), "data=digits", *QUICK, "--out", str(out)]
    for init in ([], ["init=random"]):
        for words in (["mode=knn", "k=[20, 1]"], FEW, ["mode=fewshot", "shots=[1, 3]", "draws=3", "head=centroid"]):
            assert invoke([*digits, *init, *words])[0] == 0
    return out


def test_records_say_what_was_measured(measured, finished):
    found = results.read([measured])
    assert [r["config"]["mode"] for r in found] == ["knn", "linear", "fewshot"] * 2
    knn, linear, fewshot = found[:3]
    sha = checkpoint.verify((finished / "last").resolve())["sha256"]["model_ema.safetensors"]
    assert {r["checkpoint_sha256"] for r in found[:3]} == {sha} and knn["weights"] == "ema"
    assert {r["task"] for r in found} == {"transfer"} and all(r["demonstration"] and not r["published"] for r in found)
    assert knn["metrics"]["top1"] == knn["metrics"]["top1_k20"] != knn["metrics"]["top1_k1"]
    names = {"top1", "mean_per_class", "top1_shots1", "top1_shots3", "sd_shots1", "sd_shots3"}
    assert set(fewshot["metrics"]) == names and set(fewshot["intervals"]) == names - {"sd_shots1", "sd_shots3"}
    rows = list(csv.DictReader((measured / linear["records"]).open()))
    labels, found_ones = ([row[k] for row in rows] for k in ("label", "predicted_class"))
    assert linear["metrics"]["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, found_ones), abs=1e-12)
    assert linear["metrics"]["c"] in (0.1, 1.0) and "held out" in " ".join(linear["notes"])
    assert linear["standard_errors"]["top1"] == pytest.approx(
        (linear["metrics"]["top1"] * (1 - linear["metrics"]["top1"]) / (linear["n"] - 1)) ** 0.5, rel=2e-3
    )
    random = found[3]
    assert random["label"] == "vit_nano_patch4_32, random" and random["method"] is None
    assert random["checkpoint_sha256"] != sha and linear["metrics"]["top1"] > 0.3  # of ten
    assert len(list((measured / "features").glob("*.npz"))) == 4  # two networks, two sets, each seen once


def test_features_are_the_networks_and_neighbours_scikit_learns(measured, finished):
    """The record's number, from features made here by hand and scikit-learn's neighbours with DINO's weights."""
    network = models.load(str(finished)).network
    sets = [data.load("digits", split) for split in ("train", "val")]
    values = []
    for images in sets:
        x = torch.stack([torch.from_numpy(np.array(images.read(i))).permute(2, 0, 1) for i in range(len(images))])
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
        with torch.no_grad():
            tokens = network.model.forward_features((x / 255 - mean) / std)
            values.append(network.model.forward_head(tokens, pre_logits=True).double().numpy())
    values = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in values]
    weight = lambda d: np.exp((1 - d**2 / 2) / 0.07)  # noqa: E731  (unit vectors: d^2 = 2 - 2 cos)
    other = KNeighborsClassifier(20, weights=weight).fit(values[0], sets[0].labels)
    right = (other.predict(values[1]) == sets[1].labels).mean()
    assert results.read([measured])[0]["metrics"]["top1"] == pytest.approx(right, abs=2.5 / len(sets[1]))


def test_random_is_what_the_training_began_with(finished):
    began = session.build(tiny("ema=0.9"), torch.device("cpu")).network.model
    own = features.extractor(str(finished), ClsConfig(init="random")).loaded.network.model.state_dict()
    assert own and all((began.state_dict()[name] == tensor).all() for name, tensor in own.items())


def test_the_same_bytes_for_any_batch_and_a_second_time_from_what_was_kept(
    measured, finished, tmp_path, monkeypatch, capsys
):
    words = ["transfer", "cls", str(finished), "data=digits", *QUICK, "mode=knn", "k=[20, 1]", "--out"]
    assert invoke([*words, str(tmp_path / "b"), "batch_size=7", "workers=1"])[0] == 0
    name = results.read([measured])[0]["records"]
    assert (tmp_path / "b" / name).read_bytes() == (measured / name).read_bytes()
    monkeypatch.setattr(features.inference, "predict", None)  # nothing is computed again
    capsys.readouterr()
    before = len(results.read([measured]))
    assert invoke([*words, str(measured)])[0] == 0
    assert "features of digits made before are used: " in capsys.readouterr().out
    assert len(results.read([measured])) == before  # the same command adds nothing
    monkeypatch.setattr(features.fingerprint, "remark", lambda known: "compared by a sample")
    assert invoke([*words, str(measured)])[0] == 0
    assert "features of digits made before are used, compared by a sample: " in capsys.readouterr().out


def test_features_of_others_are_not_used(tmp_path, finished):
    path, made = tmp_path / "a.npz", probes.Features(["x"], np.array([0]), np.ones((1, 2), np.float32))
    arrays = {"ids": np.array(made.ids), "labels": made.labels, "values": made.values, "notes": np.array(["n"])}
    np.savez(path, identity=np.array('{"data": "a"}'), **arrays)
    found, notes = features._read(path, '{"data": "a"}')
    assert found.ids == ["x"] and notes == ["n"]
    assert features._read(path, '{"data": "b"}') is None
    path.write_bytes(path.read_bytes()[:-30])
    assert features._read(path, '{"data": "a"}') is None


def test_predictions_pair_two_networks_and_the_report_has_the_table(measured, tmp_path, capsys):
    rows = list(csv.DictReader((measured / results.read([measured])[2]["records"]).open()))
    assert {row["correct"] for row in rows} <= {repr(i / 3) for i in range(4)}  # three draws
    labels = {r["label"] for r in results.read([measured])}
    (trained,) = labels - {"vit_nano_patch4_32, random"}
    pair = [f"{measured}:{trained}", f"{measured}:vit_nano_patch4_32, random"]
    capsys.readouterr()
    assert invoke(["compare", *pair, "--protocol", "cls"]) == (0, "")
    printed = capsys.readouterr().out
    assert printed.count("cls on digits") == 3 and "only A / only B" in printed
    for name in ("top1_k1 ", "top1_shots3 ", "mean_per_class "):  # every metric of each image, and of the classes
        assert name in printed
    damaged = tmp_path / "damaged"
    shutil.copytree(measured, damaged)
    for path in damaged.glob("predictions-*"):
        path.write_text(path.read_text().replace(",1.0", ",0.0", 1))
    with pytest.raises(EvalkitError, match="is not of the numbers that .* records; measure it again by `evalkit trans"):
        compare(f"{damaged}:{trained}", pair[1], ["cls"], transfers=PROTOCOLS)
    for path in damaged.glob("predictions-*"):
        path.write_text("file_name,label\n1,2\n")
    with pytest.raises(EvalkitError, match=r"predictions-.* is missing or damaged; measure it again"):
        compare(f"{damaged}:{trained}", pair[1], ["cls"], transfers=PROTOCOLS)
    assert invoke(["report", str(measured), "--out", str(tmp_path)]) == (0, "")
    text = (tmp_path / "report.md").read_text()
    assert "Classification" in text and "k nearest neighbours" in text and "linear probe" in text


def test_a_published_set_is_measured_as_publications_do(tmp_path, finished, capsys):
    """Its parts and its metric, of a set in its distributed layout; other parts by name."""
    listed_miniatures.pets(tmp_path)
    words = ["transfer", "cls", str(finished), "data=pets", f"data_dir={tmp_path}", *QUICK, "mode=fewshot", "shots=[1]"]
    assert invoke([*words, "draws=2", "--out", str(tmp_path / "out")])[0] == 0
    (record,) = results.read([tmp_path / "out"])
    assert (record["config"]["train_split"], record["data"]["split"], record["n"]) == ("trainval", "test", 3)
    assert record["data"]["train_images"] == 6 and not record["published"]
    note = "publications train on trainval of Oxford-IIIT Pets and print mean accuracy of the classes on test"
    assert note in record["notes"] and any("not the published set" in text for text in record["notes"])
    assert "mean of the classes" in capsys.readouterr().out
    tuning = TASK.training("runs/a", ["mode=finetune", "data=pets", "data_dir=x", "val_split=trainval"])
    assert tuning == [
        "finetune",
        "init=runs/a",
        "data=pets",
        "train_split=trainval",
        "data_dir=x",
        "val_split=trainval",
    ]
    assert "splits 'test' and 'test'" in invoke([*words, "train_split=test", "--out", str(tmp_path / "same")])[1]


def test_own_folders_fine_tuning_and_what_is_refused(tmp_path, finished, capsys):
    root = folders(tmp_path / "my", 32, 3, each=8)
    own = ["transfer", "cls", str(finished), f"data={root}"]
    assert invoke([*own, *QUICK, "mode=fewshot", "shots=[2]", "draws=2", "--out", str(tmp_path / "few")])[0] == 0
    many = [*own, *QUICK, "mode=fewshot", "shots=[9]", "--out", str(tmp_path / "many")]
    assert invoke(many)[1].endswith("give shots of at most that")
    assert invoke([*own, *QUICK, "mode=knn", "k=[100]", "--out", str(tmp_path / "k")])[1].endswith("give smaller ones")
    assert invoke([*own, "mode=knn", "sweep=[1.0]"]) == (1, "key 'sweep' has no effect here; it belongs to mode=linear")
    assert "leave out data_dir" in invoke([*own, *QUICK, "data_dir=x", "--out", str(tmp_path / "d")])[1]
    assert "nothing to resume" in invoke(["transfer", "cls", "--resume", str(tmp_path)])[1]
    (root / "val" / "c00" / "0.png").write_bytes(b"no image")
    code, _ = invoke([*own, *QUICK, "mode=fewshot", "shots=[2]", "draws=2", "--out", str(tmp_path / "few")])
    assert code == 2 and not results.read([tmp_path / "few"])[-1]["complete"]
    Image.new("RGB", (32, 32)).save(root / "val" / "c00" / "0.png")
    capsys.readouterr()
    for path in (str(root), json.dumps(str(root))):  # as typed, and as a study writes it
        of_a_folder = TASK.training("run", [f"data={path}", "mode=finetune"])
        assert of_a_folder == ["finetune", "init=run", "data=folder", f"data_dir={path}"]
    words = ["mode=finetune", "epochs=1", "threads=1", *QUICK, "--out", str(tmp_path / "tuned")]
    assert invoke([*own, *words])[0] == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"evalkit train finetune init={finished} data=folder data_dir={root} epochs=1")
    record = results.read([tmp_path / "tuned"])[0]
    assert (record["task"], record["model"], record["config"]["init"]) == ("train", "vit_nano_patch4_32", str(finished))
    assert invoke([*own, "mode=finetune", "sweep=[1.0]"])[1].startswith("unknown key 'sweep'")


def test_data_that_are_not_there_are_said_before_weights_are_loaded(tmp_path, monkeypatch):
    """Weights by a timm name may be a download."""
    monkeypatch.setattr("evalkit.models.load", lambda *args, **more: pytest.fail("weights"))
    code, message = invoke(["transfer", "cls", "resnet10t", "data=cub", f"data_dir={tmp_path / 'none'}"])
    assert code == 1 and str(tmp_path / "none") in message


def test_no_mm_package_is_needed():
    mm = ("mmengine", "mmcv", "mmseg", "mmdet", "pycocotools")
    code = f"import sys, evalkit.downstream.cls; print([m for m in sys.modules if m.split('.')[0] in {mm}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
