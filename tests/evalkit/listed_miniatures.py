"""Miniatures of published data sets in the layout that their authors distribute: the same files, folders and lines, a
few images."""

import json
from pathlib import Path

from PIL import Image


def picture(path: Path, shade: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 50, 200 - shade)).save(path)


def tiny_imagenet(root: Path, wnids=("n01443537", "n01629819", "n01641577"), each=(3, 2)) -> Path:
    root = root / "tiny-imagenet-200"
    root.mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join([*wnids[1:], wnids[0], ""]))  # not sorted, as theirs
    (root / "words.txt").write_text("".join(f"{w}\tsome fish, whatever\n" for w in wnids))
    lines = []
    for k, wnid in enumerate(wnids):
        for i in range(each[0]):
            picture(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * k)
        boxes = "".join(f"{wnid}_{i}.JPEG\t0\t0\t62\t62\n" for i in range(each[0]))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    for i in range(each[1] * len(wnids)):
        picture(root / "val" / "images" / f"val_{i}.JPEG", 5 * i)
        lines.append(f"val_{i}.JPEG\t{wnids[i % len(wnids)]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    picture(root / "test" / "images" / "test_0.JPEG")
    return root


def cub(root: Path) -> Path:
    root = root / "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird"]
    images = [(n, f"{n}/{n[4:]}_{i:04d}_{i}.jpg") for n in names for i in range(3)]
    for _, path in images:
        picture(root / "images" / path)
    (root / "classes.txt").write_text("".join(f"{k} {n}\n" for k, n in enumerate(names, 1)))
    (root / "images.txt").write_text("".join(f"{k} {path}\n" for k, (_, path) in enumerate(images, 1)))
    text = "".join(f"{k} {names.index(n) + 1}\n" for k, (n, _) in enumerate(images, 1))
    (root / "image_class_labels.txt").write_text(text)
    (root / "train_test_split.txt").write_text("".join(f"{k} {int(k % 3 != 0)}\n" for k in range(1, 10)))
    return root


def aircraft(root: Path) -> Path:
    root = root / "fgvc-aircraft-2013b" / "data"
    variants = ["707-320", "Falcon 2000", "F/A-18"]  # with spaces and slashes, as theirs
    for i in range(9):
        picture(root / "images" / f"{1025794 + i:07d}.jpg")
    (root / "variants.txt").write_text("\n".join(variants) + "\n")
    parts = {"train": [0, 1, 2], "val": [3, 4], "trainval": [0, 1, 2, 3, 4], "test": [5, 6, 7, 8]}
    for part, numbers in parts.items():
        lines = [f"{1025794 + i:07d} {variants[i % 3]}\n" for i in numbers]
        (root / f"images_variant_{part}.txt").write_text("".join(lines))
    return root


def inaturalist(root: Path, year: int) -> Path:
    folder = "train_val_images" if year == 2017 else "train_val2018"
    names = ["Anax junius", "Rana clamitans", "Ulmus alata"]
    categories = [{"id": i, "name": n, "supercategory": "Life"} for i, n in enumerate(names)][::-1]
    for part, n in (("train", 5), ("val", 4)):
        images, annotations = [], []
        for i in range(n):
            name = f"{folder}/Life/{names[i % 3]}/{part}{i}.jpg"
            picture(root / name)
            images.append({"id": 100 + i, "file_name": name, "width": 40, "height": 30, "license": 3})
            annotations.append({"id": i, "image_id": 100 + i, "category_id": i % 3})
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories, "licenses": []}
        (root / f"{part}{year}.json").write_text(json.dumps(content))
    return root


def places205(root: Path) -> Path:
    kinds = ["a/abbey", "a/airport_terminal", "a/apartment_building/outdoor"]
    lists, images = root / "trainvalsplit_places205", root / "data/vision/torralba/deeplearning/images256"
    lists.mkdir(parents=True)
    for part, n in (("train", 6), ("val", 3)):
        lines = []
        for i in range(n):
            name = f"{kinds[i % 3]}/gsun_{part}{i}.jpg"
            picture(images / name)
            lines.append(f"{name} {i % 3}\n")
        (lists / f"{part}_places205.csv").write_text("".join(lines))
    return root
