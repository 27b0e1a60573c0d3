"""Pictures that a decoder turns into something else without a word: every command says so."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from evalkit import data
from evalkit.cli import invoke
from evalkit.data import pack as packing
from evalkit.downstream.decoding import OPENCV
from evalkit.downstream.readers import detection, segmentation
from evalkit.train.showcase import preview

from .cases import Case
from .make import folders, run_folder, splits, training
from .odd_images import KINDS, RARE, RGB, alpha, cmyk, damaged, grey16, palette_alpha, profile, rgb16, turned
from .test_coco import whole

KIND = "What a decoder does silently, said by every command"


def drawn(folder, kind):
    """A program that draws a picture, called one."""
    path = splits(folder / "data") / "val" / "a" / "odd.png"
    Image.fromarray(RGB).save(path, kind)
    return invoke(training(folder / "data"))


def notes(folder) -> str:
    (record,) = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return "; ".join(record["notes"])


def trained(folder, save, *overrides):
    save(splits(folder / "data") / "train" / "a")
    return noted(folder, *overrides)


def noted(folder, *overrides):
    code, line = invoke(training(folder / "data", *overrides))
    assert code == 0, line
    return notes(folder / "run")


def trained_fast(folder, save):
    return trained(folder, save, "decode=fast", "interpolation=bicubic")


def trained_in_memory(folder, save):
    return trained(folder, save, "cache=memory")


def trained_packed(folder, save, encoding=None):
    save(splits(folder / "files") / "train" / "a")
    list(packing.pack(folder / "files", folder / "data", encoding))
    return noted(folder, "data=packed")


def packed(folder, save):
    """Training images that are re-encoded, after which nobody can tell."""
    save(splits(folder / "files") / "train" / "a")
    return "; ".join(packing.pack(folder / "files", folder / "out", packing.Encoding(16)))


def packed_links(folder):
    """What is left out of a pack."""
    (splits(folder / "files") / "train" / "a" / "x.gif").write_bytes(b"GIF89a")
    lines = list(packing.pack(folder / "files", folder / "out"))
    return "; ".join([*lines, *data.load("packed", "train", root=folder / "out").remarks])


def packed_twice(folder, split):
    """Images that a packed set holds twice."""
    root = splits(folder / "files")
    (root / split / "b" / "again.png").write_bytes((root / "train" / "a" / "0.png").read_bytes())
    list(packing.pack(root, folder / "data"))
    return noted(folder, "data=packed")


def probed(folder, save):
    root, run = splits(folder / "data"), run_folder(folder / "run")
    save(root / "val" / "b")
    keys = [f"data={root}", "mode=knn", "k=[1]", "device=cpu", "workers=0", "threads=1", "--out", str(folder / "out")]
    code, line = invoke(["transfer", "cls", str(run), *keys])
    assert code == 0, line
    return notes(folder / "out")


def dropped(folder, save):
    root, run = folders(folder / "data"), run_folder(folder / "run")
    save(root / "b")
    keys = [
        "device=cpu",
        "workers=0",
        "levels=[0.5]",
        "modes=[random]",
        "repeats=1",
        "grid=4",
        "--out",
        str(folder / "out"),
    ]
    code, line = invoke(["robustness", "occlusion", str(run), "--data", str(root), *keys])
    assert code == 0, line
    return notes(folder / "out")


def refusing(folder, meet):
    """The line of a command that meets a PNG whose pixels are damaged."""
    try:
        meet(folder, damaged)
    except AssertionError as e:  # it did not end with 0
        return 1, str(e).splitlines()[0]


def unread(folder):
    """An evaluation of a folder with a damaged PNG goes on, and is not complete."""
    root, run = folders(folder / "data"), run_folder(folder / "run")
    damaged(root / "b")
    assert invoke(["eval", str(run), "--data", str(root), "device=cpu", "workers=0", "--out", str(folder)])[0] == 2
    return notes(folder)


def natural(folder, save, protocol):
    """The shifted sets: images of classes that the model knows (-a), images of none (-o) beside them, or -c's folders
    of corruptions and severities."""
    root, run = folder / "data", run_folder(folder / "run")
    if protocol == "imagenet-c":
        for severity in "12345":
            folders(root / "fog" / severity, count=1)
        save(root / "fog" / "1" / "b")
    else:
        save(folders(root) / "b")
    keys = ["device=cpu", "workers=0", "--out", str(folder / "out")]
    if protocol == "imagenet-c":
        keys = ["corruptions=[fog]", "allow_partial=true", "preprocess=published", *keys]
    if protocol == "imagenet-o":
        keys.insert(0, f"id_data={folders(folder / 'known')}")
    code, line = invoke(["robustness", protocol, str(run), "--data", str(root), *keys])
    assert code in (0, 2), line  # 2: of -c one corruption alone
    return notes(folder / "out")


def shown(folder, save):
    save(folder)
    (odd,) = folder.glob("odd.*")
    files = [odd, folders(folder / "data") / "a" / "0.png"]
    return "; ".join(preview.save(files, "mixup", folder / "sheet.png", None, preview.Look((0.5,))))


def through_timm(folder, save):
    save(folders(folder / "data") / "a")
    return "; ".join(data.load("torch/image_folder", "val", root=folder / "data").survey())


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


def detected(folder, save, split="train"):
    save(whole(folder) / split)
    path = folder / "annotations" / f"{split}.json"
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
        f"{name}, transfer det, for validation",
        partial(detected, split="val"),
        says=f"{OPENCV.get(note, note)} in 1 of the [0-9] val",
        fate="said",
        argument=save,
    )
    for name, (save, note) in KINDS.items()
    if save in (grey16, alpha)
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


CASES += [
    Case(f"{name}, {command}", meet, says=f"{note} in 1", fate="said", argument=save)
    for name, (save, note) in RARE.items()
    for command, meet in (("train", trained), ("eval", evaluated))
    if command == "train" or save in (rgb16, profile)
]
CASES += [
    Case(f"{name}, transfer seg", segmented, says=f"{note} in 1 of the 3 train", fate="said", argument=save)
    for name, (save, note) in RARE.items()
    if save is rgb16 or getattr(save, "func", None) is profile
]
COMMANDS = {
    "train decode=fast": trained_fast,
    "train cache=memory": trained_in_memory,
    "train data=packed": trained_packed,
    "train data=packed, re-encoded": partial(trained_packed, encoding=packing.Encoding(16)),
    "pack --short-side": packed,
    "robustness occlusion": dropped,
    "transfer cls": probed,
    "mixup preview": shown,
    "data=torch/image_folder": through_timm,
}
CASES += [
    Case(f"{name}, {command}", meet, says=note, fate="said", argument=save)
    for name, save, note in (
        ("an alpha channel", alpha, "alpha_dropped"),
        ("a 16-bit grey image", grey16, "grey16_saturated"),
    )
    for command, meet in COMMANDS.items()
]
CASES += [
    Case(f"{name}, robustness {protocol}", partial(natural, protocol=protocol), f"{note} in 1", "said", save)
    for name, (save, note) in KINDS.items()
    for protocol in ("imagenet-a", "imagenet-o", "imagenet-c")
    if save in (grey16, alpha, turned, cmyk)
]
CASES += [
    Case(f"{name}, eval", evaluated, says=f"{note} in 1", fate="said", argument=save)
    for name, (save, note) in KINDS.items()
    if save in (alpha, cmyk, turned) and name not in list(KINDS)[:5:2]
]
CASES += [
    Case(f"a damaged PNG, {command}", refusing, says="cannot read image a/odd.png: broken data", argument=meet)
    for command, meet in (
        ("train", trained),
        ("train cache=memory", trained_in_memory),
        ("train data=packed", trained_packed),
    )
]
CASES += [
    Case("an EPS called .png", drawn, says="a file of EPS, which is no picture", argument="EPS"),
    Case("a damaged PNG, eval", unread, says="unreadable: b/odd.png: broken data", fate="said"),
    Case("what a pack leaves out", packed_links, says=r"\.gif.*as they were packed: .*\.gif", fate="said"),
    Case("an image of two classes, packed", packed_twice, says="stand under two", fate="said", argument="train"),
    Case("a training image for validation, packed", packed_twice, says="1 of the 9 val", fate="said", argument="val"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)
