"""Every protocol whose data are there, and a line for what is not."""

from pathlib import Path

import pytest

from evalkit import config
from evalkit.errors import EvalkitError
from evalkit.robustness import PROTOCOLS, AllConfig, run_all, runner, suite

from .fakes import records, save_checkpoint, write_corruptions, write_tree

CLASSES = ["bird", "cat", "dog"]
TREE = {"cat": 2, "dog": 3, "bird": 2}


@pytest.fixture
def calls(monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "run", lambda name, specs, cfg: seen.append((name, cfg)) or 0)
    return seen


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_every_protocol_is_known_and_its_sets_have_folders():
    assert set(suite.NEEDS) == set(PROTOCOLS)
    assert {kind for kinds in suite.NEEDS.values() for kind in kinds.values()} == set(suite.FOLDERS)


def test_what_is_found_is_run_and_what_is_not_is_said(tmp_path, calls, capsys):
    root = write(tmp_path, "imagenet/val", "imagenet-a", "sketch", "imagenetv2-top-images-format-val")
    assert run_all(["m"], AllConfig(data_root=str(root), workers=7, out="there", val_labels="labels.txt")) == 0
    assert [name for name, _ in calls] == ["imagenet-val", "imagenet-a", "imagenet-sketch", "imagenet-v2", "fgsm", "pgd", "occlusion"]
    by_name = dict(calls)
    assert by_name["imagenet-val"].data == by_name["pgd"].data == str(root / "imagenet" / "val") and by_name["imagenet-sketch"].data == str(root / "sketch")
    assert all((cfg.workers, cfg.out) == (7, "there") for cfg in by_name.values()) and by_name["occlusion"].val_labels == "labels.txt"
    out = capsys.readouterr().out
    assert "ran: imagenet-val, imagenet-a, imagenet-sketch, imagenet-v2, fgsm, pgd, occlusion" in out
    for line in ("imagenet-o (ImageNet-O, ImageNet val:", "imagenet-r (ImageNet-R:", "imagenet-c (ImageNet-C:"):
        assert f"not run: {line} not below {root})" in out


def test_imagenet_o_needs_both_sides(tmp_path, calls):
    run_all(["m"], AllConfig(data_root=str(write(tmp_path, "imagenet-o", "ILSVRC2012_img_val"))))
    cfg = dict(calls)["imagenet-o"]
    assert (cfg.data, cfg.id_data) == (str(tmp_path / "imagenet-o"), str(tmp_path / "ILSVRC2012_img_val"))


def test_a_protocol_that_stops_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def run(name, specs, cfg):
        if name == "imagenet-a":
            raise EvalkitError("imagenet-a is broken; mend it")
        return 2 if name == "imagenet-r" else 0

    monkeypatch.setattr(runner, "run", run)
    assert run_all(["m"], AllConfig(data_root=str(write(tmp_path / "partial", "imagenet-r", "imagenet-sketch")))) == 2
    assert run_all(["m"], AllConfig(data_root=str(write(tmp_path / "stopped", "imagenet-a", "imagenet-sketch")))) == 2
    assert run_all(["m"], AllConfig(data_root=str(write(tmp_path / "whole", "imagenet-sketch")))) == 0
    out = capsys.readouterr().out
    assert "stopped: imagenet-a: imagenet-a is broken; mend it" in out and "ran: imagenet-r, imagenet-sketch" in out


def test_one_clear_line(tmp_path, calls):
    with pytest.raises(EvalkitError, match="no such folder: .*none; give the one that holds the data sets with --data-root DIR"):
        run_all(["m"], AllConfig(data_root=str(tmp_path / "none")))
    with pytest.raises(EvalkitError, match="no data for any protocol: not below .*; give the folder that holds imagenet-a, imagenet/val"):
        run_all(["m"], AllConfig(data_root=str(tmp_path)))
    with pytest.raises(EvalkitError, match="no data for any protocol: no embedded stand-in"):
        run_all([str(save_checkpoint(tmp_path / "run", CLASSES))], AllConfig())
    with pytest.raises(EvalkitError, match="unknown key 'data_rot'. Did you mean 'data_root'"):
        config.load(AllConfig, None, ["data_rot=x"])


def test_a_checkpoint_trained_on_digits_photo_runs_on_the_stand_ins(tmp_path, calls, capsys):
    checkpoint = save_checkpoint(tmp_path / "run", [str(d) for d in range(10)], data="digits-photo")
    assert run_all([str(checkpoint)], AllConfig()) == 0
    assert {name: cfg.data for name, cfg in calls} == {
        **{"imagenet-val": "digits-photo", "imagenet-a": "digits-a", "imagenet-o": "digits-o"},
        **dict.fromkeys(("fgsm", "pgd", "occlusion"), "digits-photo"),
    }
    assert "not run: imagenet-c (ImageNet-C: no embedded stand-in)" in capsys.readouterr().out


def test_from_the_folders_to_the_records_and_the_report(tmp_path, capsys):
    """A model of its own classes on all sets at once; occlusion stops, since its grid of 14 does not fit the model's 16 pixels."""
    from evalkit.report import build

    root = tmp_path / "sets"
    for name in ("imagenet-a", "imagenet-o", "imagenet-r", "imagenet-sketch", "imagenet-v2", "val"):
        write_tree(root / name, TREE, side=16)
    write_corruptions(root / "imagenet-c", TREE, ("fog",), (1,))
    checkpoint, out = save_checkpoint(tmp_path / "run", CLASSES), tmp_path / "out"
    cfg = AllConfig(data_root=str(root), out=str(out), workers=0, forward_batch=4, preprocess="published", allow_partial=True)
    assert run_all([str(checkpoint)], cfg) == 2
    got = {record["protocol"]: record for record in records(out)}
    assert set(got) == set(PROTOCOLS) - {"occlusion"} and not any(record["published_protocol"] for record in got.values())
    assert "stopped: occlusion: a grid of 14 patches does not divide images of 16 pixels" in capsys.readouterr().out
    page = Path(build([out], tmp_path / "report")).read_text()
    text = (tmp_path / "report" / "report.md").read_text()
    for title in ("ImageNet-R", "ImageNet-Sketch", "ImageNetV2", "ImageNet-C", "ImageNet-A", "ImageNet-O", "ImageNet val", "FGSM", "PGD"):
        assert title in text and title in page, title
