"""Miniatures of published data sets in the layout that their authors distribute: the same files, folders and lines, a
few images."""

import json
from pathlib import Path

import numpy as np
from numpy.lib.recfunctions import repack_fields
from PIL import Image
from scipy.io import savemat


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


def cars(root: Path, withlabels: str = "") -> Path:
    """As torchvision wants it; `withlabels`: the folder of the file with the labels of the test images."""
    root, names = root / "stanford_cars", ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "BMW M3 Coupe 2012"]
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    kinds = [(f"bbox_{corner}", object) for corner in ("x1", "y1", "x2", "y2")] + [("class", object), ("fname", object)]
    for part, n, path in (("train", 6, "devkit/cars_train_annos.mat"), ("test", 4, "cars_test_annos_withlabels.mat")):
        table = np.zeros((1, n), dtype=kinds)
        for i in range(n):
            picture(root / f"cars_{part}" / f"{i + 1:05d}.jpg", 10 * i)
            table[0, i] = (1, 2, 30, 20, np.uint8(1 + i % 3), f"{i + 1:05d}.jpg")
        savemat(root / (withlabels if part == "test" else "") / path, {"annotations": table})
        if part == "test":  # the devkit's own of the test images have no classes
            bare = repack_fields(table[[*table.dtype.names[:4], "fname"]])
            savemat(root / "devkit" / "cars_test_annos.mat", {"annotations": bare})
    return root


def flowers(root: Path) -> Path:
    root = root / "flowers-102"
    for i in range(1, 11):
        picture(root / "jpg" / f"image_{i:05d}.jpg", 10 * i)
    labels = np.array([[3, 1, 2, 2, 1, 3, 3, 1, 2, 2]], dtype=np.uint8)
    savemat(root / "imagelabels.mat", {"labels": labels})
    parts = {"trnid": [[3, 1, 2]], "valid": [[4, 5, 6]], "tstid": [[10, 7, 8, 9]]}
    savemat(root / "setid.mat", {k: np.array(v, dtype=np.uint16) for k, v in parts.items()})
    return root


def pets(root: Path) -> Path:
    root, breeds = root / "oxford-iiit-pet", ["Abyssinian", "american_bulldog", "Bengal"]
    (root / "annotations" / "trimaps").mkdir(parents=True)
    for part, first, n in (("trainval", 1, 2), ("test", 3, 1)):
        lines = []
        for k, breed in enumerate(breeds, 1):
            for i in range(first, first + n):
                picture(root / "images" / f"{breed}_{i}.jpg", 20 * k)
                lines.append(f"{breed}_{i} {k} {1 + (breed[0] == 'a')} {k}\n")
        (root / "annotations" / f"{part}.txt").write_text("".join(lines))
    (root / "images" / "Abyssinian_100.mat").write_bytes(b"MATLAB 5.0")  # some of their images bring one
    (root / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n")
    return root


def food101(root: Path) -> Path:
    root, kinds = root / "food-101", ["apple_pie", "beet_salad", "creme_brulee"]
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "classes.txt").write_text("\n".join(kinds) + "\n")
    (root / "meta" / "labels.txt").write_text("Apple pie\nBeet salad\nCreme brulee\n")
    for part, first, n in (("train", 1000, 3), ("test", 2000, 1)):
        names = [f"{kind}/{first + i}" for kind in kinds for i in range(n)]
        for name in names:
            picture(root / "images" / f"{name}.jpg", 30)
        (root / "meta" / f"{part}.txt").write_text("\n".join(names))  # no line feed at the end, as theirs
        of = {kind: [name for name in names if name.startswith(kind)] for kind in kinds}
        (root / "meta" / f"{part}.json").write_text(json.dumps(of))
    return root
