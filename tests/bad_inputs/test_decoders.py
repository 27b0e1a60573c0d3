"""Pictures that a decoder turns into something else without a word: every command says so."""

import json

import numpy as np
import pytest
from PIL import Image

from evalkit.cli import invoke
from evalkit.downstream.decoding import OPENCV
from evalkit.downstream.readers import detection, segmentation

from .cases import Case
from .make import folders, run_folder, splits, training
from .test_coco import whole

KIND = "What a decoder does silently, said by every command"
RNG = np.random.default_rng(1)
RGB = RNG.integers(0, 255, (32, 32, 3), dtype=np.uint8)


def grey16(path):
    Image.fromarray(RNG.integers(0, 60_000, (32, 32), dtype=np.uint16)).save(path / "odd.png")


def floats(path):
    Image.fromarray(RNG.random((32, 32), dtype=np.float32)).save(path / "odd.tif")


def alpha(path):
    Image.fromarray(np.dstack([RGB, RGB[..., 0]])).save(path / "odd.png")


def palette_alpha(path):
    Image.fromarray(RGB).convert("P").save(path / "odd.png", transparency=0)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path / "odd.jpg", exif=exif)


def cmyk(path):
    Image.fromarray(RGB).convert("CMYK").save(path / "odd.jpg")


def frames(path):
    first, *others = (Image.fromarray(RGB + np.uint8(i)) for i in range(3))
    first.save(path / "odd.tif", save_all=True, append_images=others)


def grey32(path):
    Image.fromarray(RNG.integers(0, 60_000, (32, 32), dtype=np.int32)).save(path / "odd.tif")


KINDS = {
    "a 16-bit grey image": (grey16, "grey16_saturated"),
    "a 32-bit grey image": (grey32, "grey16_saturated"),
    "a float image of 0 to 1": (floats, "float_clipped"),
    "an alpha channel": (alpha, "alpha_dropped"),
    "a transparent colour of a palette": (palette_alpha, "alpha_dropped"),
    "a camera's orientation": (turned, "exif_orientation_ignored"),
    "a CMYK image": (cmyk, "cmyk_converted"),
    "several frames": (frames, "first_of_several_frames"),
}


def notes(folder) -> str:
    (record,) = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return "; ".join(record["notes"])


def trained(folder, save):
    save(splits(folder / "data") / "train" / "a")
    code, line = invoke(training(folder / "data"))
    assert code == 0, line
    return notes(folder / "run")


def evaluated(folder, save):
    root, run = folders(folder / "data"), run_folder(folder / "run")
    save(root / "b")
    command = ["eval", str(run), "--data", str(root), "device=cpu", "workers=0", "--out", str(folder / "out")]
    code, line = invoke(command)
    assert code == 0, line
    return notes(folder / "out")


def attacked(folder, save):
    root, run = folders(folder / "data"), run_folder(folder / "run")
    save(root / "b")
    keys = ["device=cpu", "workers=0", "eps=[2]", "--out", str(folder / "out")]
    code, line = invoke(["robustness", "fgsm", str(run), "--data", str(root), *keys])
    assert code == 0, line
    return notes(folder / "out")


def labelled(folder, save):
    """A set of images and label maps of two classes, with one image that `save` writes, of one size with its map."""
    for split in ("train", "val"):
        folders(folder / "images", [split], count=2)
        (folder / "masks" / split).mkdir(parents=True)
        for i in range(2):
            labels = np.zeros((32, 32), dtype=np.uint8)
            labels[:8] = 1
            Image.fromarray(labels).save(folder / "masks" / split / f"{i}.png")
    (folder / "classes.txt").write_text("background\ncat\n")
    save(folder / "images" / "train")
    Image.fromarray(labels).save(folder / "masks" / "train" / "odd.png")
    return folder


def segmented(folder, save):
    return "; ".join(segmentation(str(labelled(folder, save)), folder).notes)


def detected(folder, save):
    save(whole(folder) / "train")
    path = folder / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["images"].append({"id": 3, "file_name": "odd.png", "width": 32, "height": 32})
    path.write_text(json.dumps(content))
    return "; ".join(detection(str(folder), folder).notes)


def lacking(folder, split):
    """Label maps without a class in one split."""
    labelled(folder, alpha)
    for path in (folder / "masks" / split).iterdir():
        Image.fromarray(np.zeros((32, 32), dtype=np.uint8)).save(path)
    return "; ".join(segmentation(str(folder), folder).notes)


CASES = [
    Case(f"{name}, {command}", meet, says=f"{note} in 1", fate="said", argument=save)
    for name, (save, note) in KINDS.items()
    for command, meet in (("train", trained), ("eval", evaluated), ("robustness", attacked))
    if command == "train" or name in list(KINDS)[:5:2]
]
CASES += [
    Case(
        f"{name}, transfer {task}",
        meet,
        says=f"{OPENCV.get(note, note)} in 1 of the 3 train",
        fate="said",
        argument=save,
    )
    for name, (save, note) in KINDS.items()
    for task, meet in (("seg", segmented), ("det", detected))
    if save in (grey16, alpha, palette_alpha)
]
CASES += [
    Case(
        f"{split} label maps without a class",
        lacking,
        says=f"no {split} label map holds 1 of .*: cat",
        fate="said",
        argument=split,
    )
    for split in ("train", "val")
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)
