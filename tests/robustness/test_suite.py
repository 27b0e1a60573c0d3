"""Every protocol whose data are there, and a line for what is not."""

import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from evalkit import config
from evalkit.errors import EvalkitError
from evalkit.robustness import PROTOCOLS, AllConfig, measure, run_all
from evalkit.robustness.sets import SETS
from evalkit.runtime import leave_processes

from .fakes import records, save_checkpoint, write_corruptions, write_tree

CLASSES = ["bird", "cat", "dog"]
TREE = {"cat": 2, "dog": 3, "bird": 2}


@pytest.fixture
def calls(monkeypatch):
    seen = []
    monkeypatch.setattr(measure, "run", lambda name, specs, cfg: seen.append((name, cfg)) or 0)
    return seen


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_every_protocol_is_known_and_its_sets_have_folders():
    assert {kind for protocol in PROTOCOLS.values() for kind in protocol.needs.values()} == set(SETS)
    assert all(protocol.needs for protocol in PROTOCOLS.values())


def test_what_is_found_is_run_and_what_is_not_is_said(tmp_path, calls, capsys):
    root = write(tmp_path, "imagenet/val", "imagenet-a", "sketch", "imagenetv2-top-images-format-val")
    assert run_all(["m"], AllConfig(data_root=str(root), workers=7, out="there", val_labels="labels.txt")) == 0
    assert [name for name, _ in calls] == [
        "imagenet-val",
        "imagenet-a",
        "imagenet-sketch",
        "imagenet-v2",
        "fgsm",
        "occlusion",
        "pgd",
    ]
    by_name = dict(calls)
    assert by_name["imagenet-val"].data == by_name["pgd"].data == str(root / "imagenet" / "val") and by_name[
        "imagenet-sketch"
    ].data == str(root / "sketch")
    assert (
        all((cfg.workers, cfg.out) == (7, "there") for cfg in by_name.values())
        and by_name["occlusion"].val_labels == "labels.txt"
    )
    out = capsys.readouterr().out
    assert "ran: imagenet-val, imagenet-a, imagenet-sketch, imagenet-v2, fgsm, occlusion, pgd" in out
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

    monkeypatch.setattr(measure, "run", run)
    assert run_all(["m"], AllConfig(data_root=str(write(tmp_path / "partial", "imagenet-r", "imagenet-sketch")))) == 2
    assert run_all(["m"], AllConfig(data_root=str(write(tmp_path / "stopped", "imagenet-a", "imagenet-sketch")))) == 2
    assert run_all(["m"], AllConfig(data_root=str(write(tmp_path / "whole", "imagenet-sketch")))) == 0
    out = capsys.readouterr().out
    assert "stopped: imagenet-a: imagenet-a is broken; mend it" in out and "ran: imagenet-r, imagenet-sketch" in out


def test_one_clear_line(tmp_path, calls, monkeypatch):
    with pytest.raises(
        EvalkitError, match="no such folder: .*none; give the one that holds the data sets with --data-root DIR"
    ):
        run_all(["m"], AllConfig(data_root=str(tmp_path / "none")))
    with pytest.raises(
        EvalkitError,
        match="no data for any protocol: not below .*; give the folder that holds imagenet-a, imagenet/val",
    ):
        run_all(["m"], AllConfig(data_root=str(tmp_path)))
    with pytest.raises(EvalkitError, match="no data for any protocol: no embedded stand-in"):
        run_all([str(save_checkpoint(tmp_path / "run", CLASSES))], AllConfig())
    with monkeypatch.context() as patch, pytest.raises(EvalkitError, match="no data for any protocol: no embedded"):
        patch.setattr("evalkit.models.load", lambda *args, **more: pytest.fail("weights, perhaps a download"))
        run_all(["resnet10t"], AllConfig())
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
    """A model of its own classes on all sets at once; occlusion stops, since its grid of 14 does not fit the model's 16
    pixels."""
    from evalkit.report import build

    root = tmp_path / "sets"
    names = ("imagenet-a", "imagenet-o", "imagenet-r", "imagenet-sketch", "imagenet-v2", "val")
    for seed, name in enumerate(names):
        write_tree(root / name, TREE, side=16, seed=seed)
    write_corruptions(root / "imagenet-c", TREE, ("fog",), (1,))
    checkpoint, out = save_checkpoint(tmp_path / "run", CLASSES), tmp_path / "out"
    cfg = AllConfig(
        data_root=str(root), out=str(out), workers=0, forward_batch=4, preprocess="published", allow_partial=True
    )
    assert run_all([str(checkpoint)], cfg) == 2
    got = {record["protocol"]: record for record in records(out)}
    assert set(got) == set(PROTOCOLS) - {"occlusion"} and not any(record["published"] for record in got.values())
    assert "stopped: occlusion: a grid of 14 patches does not divide images of 16 pixels" in capsys.readouterr().out
    page = Path(build([out], tmp_path / "report", PROTOCOLS)).read_text(encoding="utf-8")
    text = (tmp_path / "report" / "report.md").read_text()
    for title in (
        "ImageNet-R",
        "ImageNet-Sketch",
        "ImageNetV2",
        "ImageNet-C",
        "ImageNet-A",
        "ImageNet-O",
        "ImageNet val",
        "FGSM",
        "PGD",
    ):
        assert title in text and title in page, title


def test_nothing_that_ran_is_an_error_of_one_line(tmp_path):
    root = write_tree(tmp_path / "imagenet-a", TREE).parent
    write_tree(root / "imagenet-r", TREE)
    with pytest.raises(EvalkitError, match="^no such checkpoint: none.pth$"):
        run_all(["none.pth"], AllConfig(data_root=str(root), out=str(tmp_path / "out")))
    write_tree(root / "imagenet-a", {"eagle": 1})
    (root / "imagenet-r" / "owl").mkdir()
    with pytest.raises(EvalkitError, match="^imagenet-a: the folder 'eagle' .*; imagenet-r: the folder 'owl' "):
        run_all(
            [str(save_checkpoint(tmp_path / "run", CLASSES))], AllConfig(data_root=str(root), out=str(tmp_path / "out"))
        )


# ---- two processes


def _process(number: int, folder: str, damage: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    if damage == "main":  # an error that the first process alone meets, before the pass
        make = Path.mkdir
        Path.mkdir = lambda path, *args, **kwargs: (
            (_ for _ in ()).throw(OSError(28, "No space left on device")) if path.name == "records" else make(path)
        )
    cfg = AllConfig(data_root=f"{folder}/sets", out=f"{folder}/out", workers=0, forward_batch=4, preprocess="native")
    try:
        end = str(run_all([f"{folder}/run"], cfg))
    except EvalkitError as e:
        end = f"error: {e}"
    Path(folder, f"end{number}").write_text(end, encoding="utf-8")
    if not end.startswith("error"):
        leave_processes()
    sys.exit(end.startswith("error"))


def _two_processes(folder: Path, damage: str = "") -> dict[int, str]:
    """How each of two processes ended; one that was killed because the other failed is not there."""
    save_checkpoint(folder / "run", CLASSES)
    processes = torch.multiprocessing.start_processes(
        _process, args=(str(folder), damage), nprocs=2, start_method="fork", join=False
    ).processes
    deadline = time.monotonic() + 600
    try:
        while any(p.is_alive() for p in processes) and not any(p.exitcode for p in processes):
            assert time.monotonic() < deadline, "a process waits for one that is gone"
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
    return {number: path.read_text() for number in range(2) if (path := folder / f"end{number}").exists()}


def test_processes_refuse_a_protocol_together_and_go_on_together(tmp_path):
    write_tree(tmp_path / "sets" / "imagenet-a", TREE | {"eagle": 1}, side=16)
    write_square(tmp_path / "sets" / "imagenet-r")
    assert _two_processes(tmp_path) == {0: "2", 1: "2"}
    assert [(r["protocol"], r["n"]) for r in records(tmp_path / "out")] == [("imagenet-r", 7)]


def test_an_error_of_one_process_before_the_pass_is_that_of_all(tmp_path):
    write_square(tmp_path / "sets" / "imagenet-a")
    ends = _two_processes(tmp_path, "main")
    assert set(ends.values()) == {
        f"error: cannot write to {tmp_path}/out/records: No space left on device; choose another output folder with"
        " --out"
    }


def test_an_error_of_one_process_within_a_pass_ends_all(tmp_path):
    for name in ("imagenet-a", "imagenet-r"):
        write_square(tmp_path / "sets" / name)
    # the second image: the second process reads it
    Image.new("RGB", (17, 17)).save(tmp_path / "sets" / "imagenet-a" / "bird" / "bird_0001.JPEG")
    assert _two_processes(tmp_path) == {
        1: (
            "error: imagenet-a: bird/bird_0001.JPEG: images of this set are used as they are, 17 x 17, but 16 x 16 is"
            " asked for"
        )
    }


def write_square(root: Path) -> None:
    for path in write_tree(root, TREE, side=16).rglob("*.JPEG"):
        Image.open(path).crop((0, 0, 16, 16)).save(path)
