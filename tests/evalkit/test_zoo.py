"""The zoo is what its cards say, and goes wherever a checkpoint goes."""

import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import zoo as maker
from evalkit import accuracy, checkpoint, cli, config, models, results, zoo
from evalkit.data.embedded import FASHION_FOLDER
from evalkit.errors import EvalkitError
from evalkit.train.config import TrainConfig

STUDY = Path(__file__).parents[2] / "benchmarks/results/fashion_mnist/records/cells"
SMALL = ["modes=[random]", "levels=[0.5]", "repeats=1", "limit=20", "workers=0"]
FILES = {"model.safetensors", "meta.json", "results.jsonl", "predictions.csv", "card.json"}


def records(name):
    return {(r["task"], r["protocol"]): r for r in results.read([zoo.located(name)])}


def test_what_there_is_is_what_the_script_makes():
    assert zoo.specs() == [f"zoo:{name}" for name in sorted(maker.MEMBERS)]
    assert {f"{method}-digits" for method in ("vanilla", "mixup", "cutmix", "transmix", "mixpro")} < set(zoo.names())
    assert sum(path.stat().st_size for path in zoo.FOLDER.rglob("*") if path.suffix != ".py") < 10_000_000


@pytest.mark.parametrize("spec", zoo.specs())
def test_a_card_is_whole(spec):
    folder = zoo.located(spec)
    others = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - FILES
    assert all(name.startswith("records/") and name.endswith((".npz", ".json")) for name in others)
    meta, made = checkpoint.verify(folder), records(spec)
    assert list(meta["sha256"]) == ["model.safetensors"] and meta["label"] == spec.removeprefix("zoo:")
    for record in made.values():
        assert record["checkpoint_sha256"] == meta["sha256"]["model.safetensors"] and record["complete"]
        assert len(record["environment"]["commit"]) == 40 and record["environment"]["evalkit"]
        assert record["records"] is None or (folder / record["records"]).is_file()
    assert set(made) >= {("train", "accuracy"), ("eval", "accuracy"), ("robustness", "occlusion")}
    assert '"/' not in (folder / results.FILE).read_text() + (folder / "meta.json").read_text()  # no path
    assert sum(p.numel() for p in models.load(spec).network.model.parameters()) < 400_000


@pytest.mark.parametrize("spec", zoo.specs())
def test_the_command_of_a_card_gives_the_settings_of_its_checkpoint(spec):
    first, *_ = zoo.commands(spec)
    words = shlex.split(first)
    assert words[:2] == ["evalkit", "train"] and words[-2] == "--out"
    asked = config.to_dict(config.load(TrainConfig, words[2], words[3:-2]))
    kept = checkpoint.read_meta(spec)["config"]
    settled = {key for key in asked.keys() & kept.keys() if asked[key] != kept[key]}
    assert settled <= {"augment_device", "channels_last", "compile", "opt_kernels"}, settled
    assert all(asked[key] in (None, "auto") for key in settled)
    plain = config.to_dict(config.load(TrainConfig, words[2], []))  # what came after the checkpoint was made
    assert all(asked[key] == plain[key] for key in asked.keys() - kept.keys()) and kept.keys() <= asked.keys()


@pytest.mark.parametrize(("name", "cell"), maker.CELLS.items())
def test_a_cell_of_the_study_has_the_numbers_that_the_study_recorded(name, cell):
    """Another processor moves the last bits, and 160 steps later a few of the images."""
    recorded = results.read([STUDY / cell])
    assert {(r["task"], r["protocol"]) for r in recorded} == set(records(f"zoo:{name}")) - {("eval", "accuracy")}
    for theirs in recorded:
        ours = records(f"zoo:{name}")[theirs["task"], theirs["protocol"]]
        assert all(ours["config"][k] == v for k, v in results.settings(theirs).items())
        assert (ours["data"]["fingerprint"], ours["n"]) == (theirs["data"]["fingerprint"], theirs["n"])
        assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=0.01)
    assert len(zoo.commands(f"zoo:{name}")) == 1 + len(recorded)


def write_fashion(folder, pixels):
    """Its test images in four files, the smallest that are some."""
    for prefix in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", np.arange(len(pixels), dtype=np.uint8))):
            head = np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes()
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "zoo:vanilla-fashion"],
        ["robustness", "occlusion", "zoo:vanilla-fashion", *SMALL],
        ["robustness", "fgsm", "zoo:vanilla-fashion", "workers=0"],
        ["transfer", "cls", "zoo:vanilla-fashion", "data=fashion-mnist", "mode=knn", "k=[1]", "workers=0"],
    ],
)
def test_images_that_do_not_come_along(words, tmp_path, monkeypatch):
    """One line says what to give, and what it says to give is taken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evalkit.data.embedded.FASHION_FOLDER", tmp_path / "absent")
    code, message = cli.invoke([*words, "--out", "absent-results"])
    advice = "run `apt install dataset-fashion-mnist`, or give the folder of its idx.gz files as data_dir=DIR"
    assert code == 1 and re.fullmatch(rf"{tmp_path}/absent/\S+ is not there; {advice}", message)
    assert not list(tmp_path.rglob("results.jsonl"))
    write_fashion(tmp_path, np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8))
    assert cli.invoke([*words, f"data_dir={tmp_path}", "--out", "r"]) == (0, "")
    (record,) = results.read([tmp_path / "r"])
    assert record["data"]["name"] == "fashion-mnist" and record["n"] == 10


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
@pytest.mark.parametrize("name", maker.CELLS)
def test_the_occlusion_of_a_card_is_what_the_protocol_gives(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (words,) = (w for line in zoo.commands(f"zoo:{name}") if (w := shlex.split(line))[2] == "occlusion")
    assert cli.invoke([*words[1:], "--out", "now"]) == (0, "")
    (now,) = results.read([tmp_path / "now"])
    assert now["metrics"] == records(f"zoo:{name}")["robustness", "occlusion"]["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("spec", [s for s in zoo.specs() if s.endswith("-digits")])
def test_the_number_of_a_card_is_what_eval_gives(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.invoke(["eval", spec, "workers=0", "--out", "now"]) == (0, "")
    (now,) = results.read([tmp_path / "now"])
    card = records(spec)["eval", "accuracy"]
    assert (
        now["metrics"]
        == card["metrics"]
        == {k: records(spec)["train", "accuracy"]["metrics"][k] for k in card["metrics"]}
    )
    assert now["data"] == card["data"] and now["standard_errors"] == card["standard_errors"]
    ids, right = accuracy.read_predictions(tmp_path / "now" / accuracy.PREDICTIONS)
    known, before = accuracy.read_predictions(zoo.located(spec) / accuracy.PREDICTIONS)
    assert (ids == known).all() and (right == before).all() and np.isclose(right.mean(), card["metrics"]["top1"])


@pytest.mark.slow
def test_an_eval_needs_no_data_and_writes_nothing_into_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(zoo.FOLDER.rglob("*"))
    assert cli.invoke(["eval", "zoo:mixpro-digits", "workers=0"]) == (0, "")
    assert "on 450 images of digits" in capsys.readouterr().out
    assert (tmp_path / "runs" / "mixpro-digits" / results.FILE).is_file() and sorted(zoo.FOLDER.rglob("*")) == before


def test_occlusion_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = "saliency=zoo:vanilla-digits"
    code = cli.invoke(["robustness", "occlusion", "zoo:mixpro-digits", *SMALL[1:], "modes=[random, salient]", other])
    assert code == (0, "")
    (record,) = results.read([tmp_path / "results"])
    assert record["data"]["name"] == "digits" and record["label"] == "mixpro-digits" and record["n"] == 20
    assert record["config"]["saliency"] == "zoo:vanilla-digits"


def test_compare_show_and_list(capsys, tmp_path):
    assert cli.invoke(["compare", "zoo:mixpro-digits", "zoo:vanilla-digits", "--out", str(tmp_path)]) == (0, "")
    text = capsys.readouterr().out
    assert (
        "accuracy on digits, 450 images: A = mixpro-digits, B = vanilla-digits" in text
        and "occlusion on digits" in text
    )
    assert cli.invoke(["show", "zoo:mixpro-digits"]) == (0, "")
    text = capsys.readouterr().out
    assert "checkpoint of the zoo" in text and all(line in text for line in zoo.commands("zoo:mixpro-digits"))
    assert cli.invoke(["zoo", "list"]) == (0, "")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == zoo.specs()
    for line, spec in zip(lines, zoo.specs()):
        assert line.endswith(f"top-1 {100 * records(spec)['eval', 'accuracy']['metrics']['top1']:.1f} %")


def test_training_begins_with_its_weights_and_its_network():
    from evalkit.train import session

    cfg = config.load(TrainConfig, "finetune", ["init=zoo:mixpro-digits", "data=digits", "device=cpu"])
    assert cfg.model == "vit_nano_patch4_32"
    mine = session.make_network(cfg, 10).model.state_dict()
    theirs = checkpoint.read_weights("zoo:mixpro-digits")[0]
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_transfer_reads_it():
    from evalkit.downstream.backbone import Backbone, resolve

    source = resolve("zoo:mixpro-digits", model=None, model_args={}, weights=None, random=False, label=None)
    assert source.checkpoint == "zoo:mixpro-digits" and source.label == "mixpro-digits"
    backbone = Backbone(source.model, 32, [3], checkpoint=source.checkpoint)
    assert backbone.report["head_dropped"] and backbone(torch.zeros(1, 3, 32, 32))[0].shape == (1, 64, 8, 8)


@pytest.mark.slow
def test_nearest_neighbours_by_its_features(tmp_path):
    out = ["--out", str(tmp_path), "workers=0"]
    assert cli.invoke(["transfer", "cls", "zoo:mixpro-digits", "data=digits", "mode=knn", *out]) == (0, "")
    (record,) = results.read([tmp_path])
    assert record["label"] == "mixpro-digits" and record["metrics"]["top1"] > 0.9


def test_preview_and_teachers(tmp_path):
    from evalkit.train.mixups.parts.teacher import Teacher

    out = str(tmp_path / "sheet.png")
    assert cli.invoke(["mixup", "preview", "--checkpoint", "zoo:mixpro-digits", "--lambdas", "0.5", "--out", out]) == (
        0,
        "",
    )
    teacher = Teacher("zoo:vanilla-digits")
    assert teacher.load().num_classes == 10
    assert teacher.sha256 == checkpoint.read_meta("zoo:vanilla-digits")["sha256"]["model.safetensors"]
    taken = config.load(
        TrainConfig, "digits", ["mixup={name: tokenmix, teacher: image, network: 'zoo:vanilla-digits'}"]
    )
    assert taken.mixup["network"] == "zoo:vanilla-digits"


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "zoo:mixpo-digits"],
        ["robustness", "occlusion", "zoo:mixpo-digits"],
        ["transfer", "cls", "zoo:mixpo-digits", "data=digits"],
        ["transfer", "seg", "zoo:mixpo-digits"],
        ["train", "digits", "init=zoo:mixpo-digits"],
        ["train", "finetune", "init=zoo:mixpo-digits", "data=digits"],
        ["compare", "zoo:mixpo-digits", "zoo:vanilla-digits"],
        ["mixup", "preview", "--checkpoint", "zoo:mixpo-digits"],
        ["robustness", "occlusion", "zoo:vanilla-digits", "saliency=zoo:mixpo-digits"],
        ["show", "zoo:mixpo-digits"],
    ],
)
def test_an_unknown_name_is_refused_with_the_near_one(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.invoke(words) == (1, "unknown checkpoint 'zoo:mixpo-digits'. Did you mean 'zoo:mixpro-digits'?")


def test_a_name_leads_nowhere_else():
    for odd in ("zoo:", "zoo:..", "zoo:../zoo/mixpro-digits", "zoo:mixpro-digits/meta.json"):
        with pytest.raises(EvalkitError, match="unknown checkpoint"):
            zoo.located(odd)
    assert zoo.located("runs/zoo:x") == Path("runs/zoo:x")


def test_without_its_prefix_it_is_named():
    code, message = cli.invoke(["eval", "mixpro-digits"])
    assert (code, message) == (1, "unknown model or checkpoint 'mixpro-digits'. Did you mean 'zoo:mixpro-digits'?")


def test_the_script_lays_out_a_run(finished, tmp_path, monkeypatch):
    measured = tmp_path / "measured"
    out = ["workers=0", "--out", str(measured)]
    assert cli.invoke(["eval", str(finished), "weights=raw", *out]) == (0, "")
    assert cli.invoke(["robustness", "occlusion", str(finished), "weights=raw", *SMALL, *out]) == (0, "")
    folder = maker.assemble("x", ["digits", "a=b c"], (finished, measured), tmp_path / "out")
    meta, known = checkpoint.verify(folder), checkpoint.read_meta(finished)
    assert meta["sha256"] == {"model.safetensors": known["sha256"]["model.safetensors"]}
    assert json.loads((folder / zoo.CARD).read_text())["commands"] == [
        *("evalkit train digits 'a=b c'", "evalkit eval zoo:x", "evalkit robustness occlusion zoo:x"),
    ]
    made = results.read([folder])
    assert [r["task"] for r in made] == ["train", "eval", "robustness"] and {r["weights"] for r in made} == {"raw"}
    assert (folder / made[2]["records"]).is_file() and (folder / "predictions.csv").is_file()

    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    monkeypatch.setattr(maker, "pack", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):  # what was there stays
        maker.assemble("x", ["digits"], (finished, measured), tmp_path / "out")
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_a_network_without_class_attention_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, message = cli.invoke(["robustness", "occlusion", "zoo:vanilla-resnet-digits"])
    assert code == 1 and "'resnet10_cifar' has no class attention" in message
    assert message.endswith("Give saliency=MODEL, one of those, or do without salient and nonsalient: modes=[random]")
    assert not list(tmp_path.iterdir())  # refused before any pass, and no folder is left
