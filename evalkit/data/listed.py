"""Data sets whose archives bring lists of their images: Tiny-ImageNet, CUB-200-2011, FGVC-Aircraft, iNaturalist 2017
and 2018, Places205, each in the layout that its authors distribute."""

import itertools
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EvalkitError
from ..files import parse_json
from .folders import FolderImages, flat_folder, folder

Row = tuple[str, int]  # the path of an image below the folder of images, and its class


def tiny_imagenet(root: str | Path, split: str) -> FolderImages:
    """Tiny-ImageNet: train/WNID/images/*.JPEG, val/images/*.JPEG with val/val_annotations.txt, and wnids.txt.

    Args:
        root: Folder that the archive unpacks to, or its parent.
        split: "train" or "val"; the labels of its test images are not public.
    """
    root = unpacked(root, ("tiny-imagenet-200",), "wnids.txt", "Tiny-ImageNet")
    classes = sorted(lines_of(root / "wnids.txt"))
    if split == "train":
        return folder(root / "train", classes=classes, name="tiny-imagenet")
    annotations, images = root / "val" / "val_annotations.txt", root / "val" / "images"
    if not images.is_dir():  # as some tools rearrange it: val/WNID/
        return folder(root / "val", classes=classes, name="tiny-imagenet")
    labels = {}
    for line in lines_of(annotations):
        name, wnid = fields_of(line, "\t", 2, annotations)
        labels[name] = one_of(wnid, set(classes), annotations)
    _complain(images, [name for name in labels if not (images / name).is_file()], len(labels), annotations)
    return flat_folder(images, labels, classes=classes, name="tiny-imagenet")


def cub(root: str | Path, split: str) -> FolderImages:
    """CUB-200-2011: images.txt, image_class_labels.txt, classes.txt and train_test_split.txt, 1 for training.

    Args:
        root: Folder that the archive unpacks to, or its parent.
        split: "train" or "test".
    """
    root = unpacked(root, ("CUB_200_2011",), "train_test_split.txt", "CUB-200-2011")
    table = {}
    for file in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"):
        table[file] = dict(fields_of(line, " ", 2, root / file) for line in lines_of(root / file))
    names = [table["classes.txt"][k] for k in sorted(table["classes.txt"], key=lambda k: number_of(k, root))]
    position = {k: i for i, k in enumerate(sorted(table["classes.txt"], key=lambda k: number_of(k, root)))}
    wanted, rows = "1" if split == "train" else "0", []
    for key, path in table["images.txt"].items():
        label, part = table["image_class_labels.txt"].get(key), table["train_test_split.txt"].get(key)
        if label not in position or part not in ("0", "1"):
            raise EvalkitError(
                f"{root}: image {key} ({path}) has no class of classes.txt or no part 0 or 1 in train_test_split.txt;"
                " unpack the archive again"
            )
        if part == wanted:
            rows.append((path, position[label]))
    return listed("cub", root / "images", rows, names, root / "images.txt")


def aircraft(root: str | Path, split: str) -> FolderImages:
    """FGVC-Aircraft by variants: variants.txt and images_variant_SPLIT.txt, lines of an image's number and its
    variant.

    Args:
        root: Folder that the archive unpacks to, or its parent.
        split: "train", "val", "trainval" or "test".
    """
    inside = ("data", "fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b")
    root = unpacked(root, inside, "variants.txt", "FGVC-Aircraft")
    variants, path = list(lines_of(root / "variants.txt")), root / f"images_variant_{split}.txt"
    position, rows = {name: i for i, name in enumerate(variants)}, []
    for line in lines_of(path):
        number, variant = fields_of(line, " ", 2, path)
        rows.append((f"{number}.jpg", position[one_of(variant, position, path)]))
    return listed("aircraft", root / "images", rows, variants, path)


def inaturalist(year: int, root: str | Path, split: str) -> FolderImages:
    """iNaturalist 2017 or 2018: SPLITyear.json, with images, annotations and categories as in COCO.

    Args:
        year: 2017 or 2018, the competition.
        root: Folder of the annotation files and of the images' own.
        split: "train" or "val".
    """
    root, path = Path(root), Path(root) / f"{split}{year}.json"
    try:
        content: Any = parse_json(path.read_bytes())
        names = {c["id"]: str(c["name"]) for c in content["categories"]}
        files = {i["id"]: str(i["file_name"]) for i in content["images"]}
        pairs = [(a["image_id"], a["category_id"]) for a in content["annotations"]]
    except OSError as e:
        raise EvalkitError(
            f"{root} does not hold iNaturalist {year}: {path.name}: {e.strerror}; put it beside train_val_images"
            f" ({year}: {'train_val2018' if year == 2018 else 'train_val_images'})"
        ) from e
    except (ValueError, KeyError, TypeError) as e:
        what = f"{type(e).__name__}: {e}".splitlines()[0]
        raise EvalkitError(f"{path} is not the annotation file of iNaturalist {year} ({what}); unpack it again") from e
    order = sorted(names)
    position = {key: i for i, key in enumerate(order)}
    odd = next((p for p in pairs if p[0] not in files or p[1] not in position), None)
    if odd is not None or len({p[0] for p in pairs}) != len(pairs):
        raise EvalkitError(f"{path}: annotations do not give each image one class, e.g. {odd}; unpack it again")
    unique = len(set(names.values())) == len(names)  # other years of the competition repeat names
    classes = [names[k] if unique else f"{k} {names[k]}" for k in order]
    return listed(f"inat{year}", root, [(files[i], position[c]) for i, c in pairs], classes, path)


def places205(root: str | Path, split: str) -> FolderImages:
    """Places205: train_places205.csv and val_places205.csv, lines of a path such as a/abbey/NAME.jpg and a class
    number, in the folder of the lists or above it, and the images as their archive unpacks.

    Args:
        root: Folder that the archives unpack to.
        split: "train" or "val"; the labels of its test images are not public.
    """
    root, file = Path(root), f"{split}_places205.csv"
    path = next((p for p in (root / file, root / "trainvalsplit_places205" / file) if p.is_file()), None)
    if path is None:
        raise EvalkitError(
            f"{root} does not hold Places205: neither {file} nor trainvalsplit_places205/{file} is there"
        )
    images = next(
        (f for f in (root / "data/vision/torralba/deeplearning/images256", root / "images256") if f.is_dir()), root
    )
    of: dict[int, str] = {}
    rows = []
    for line in lines_of(path):
        name, number = fields_of(line.replace(",", " "), None, 2, path)
        label, kind = number_of(number, path), os.path.dirname(name)
        if of.setdefault(label, kind) != kind:
            raise EvalkitError(f"{path}: class {label} is {of[label]} and {kind}; unpack it again")
        rows.append((name, label))
    if sorted(of) != list(range(len(of))):
        raise EvalkitError(f"{path}: its class numbers are not 0 to {len(of) - 1}; unpack it again")
    return listed("places205", images, rows, [of[i].strip("/") for i in range(len(of))], path)


# ---- what they share


def listed(name: str, root: Path, rows: Sequence[Row], classes: Sequence[str], source: Path) -> FolderImages:
    """The images of a list.

    Args:
        name: Of the set.
        root: Folder of the images.
        rows: Path below `root` and class of each image.
        classes: Their names.
        source: The file that lists them.

    Raises EvalkitError for a list that is empty, names an image twice or one that is not there."""
    if not rows:
        raise EvalkitError(f"{source} lists no image of this split; unpack the archive again")
    rows = sorted((path.lstrip("/"), label) for path, label in rows)
    twice = next((a[0] for a, b in itertools.pairwise(rows) if a[0] == b[0]), None)
    if twice is not None:
        raise EvalkitError(f"{source} lists {twice} twice; unpack the archive again")
    outside = next((path for path, _ in rows if ".." in path.split("/")), None)
    if outside is not None:
        raise EvalkitError(f"{source} lists {outside}, which lies outside {root}")
    inside: dict[str, list[str]] = defaultdict(list)
    for path, _ in rows:
        inside[os.path.dirname(path)].append(path)
    missing = []
    for part, paths in inside.items():
        try:  # one look into each folder, not one at each of millions of files
            there = set(os.listdir(root / part))
        except OSError:
            there = set()
        missing += [path for path in paths if os.path.basename(path) not in there]
    _complain(root, missing, len(rows), source)
    return FolderImages(name, root, [path for path, _ in rows], [label for _, label in rows], classes, ())


def unpacked(root: str | Path, inside: Sequence[str], file: str, title: str) -> Path:
    """`root`, or the folder in it that the archive unpacks to: the one that holds `file`.

    Args:
        root: What the user gave.
        inside: Folders that may lie in it.
        file: What only the right one holds.
        title: Of the set.

    Raises EvalkitError where none does."""
    for place in (Path(root), *(Path(root) / part for part in inside)):
        if (place / file).is_file():
            return place
    raise EvalkitError(
        f"{root} does not hold {title}: neither it nor {' or '.join(inside)} in it has {file}; give the folder that the"
        " archive unpacks to"
    )


def _complain(root: Path, missing: Sequence[str], of: int, source: Path) -> None:
    if missing:
        raise EvalkitError(
            f"{len(missing):,} of the {of:,} images that {source.name} lists are not below {root}, e.g. {missing[0]};"
            " unpack the images there"
        )


def lines_of(path: Path) -> list[str]:
    """The lines of a list that hold something. Raises EvalkitError for a file that cannot be read."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not text"
        raise EvalkitError(f"cannot read {path}: {reason}; unpack the archive again") from e


def fields_of(line: str, at: str | None, least: int, path: Path) -> tuple[str, str]:
    """The first field of a line, and the second: up to the next tab, or all that is left. Raises EvalkitError.

    Args:
        line: The line.
        at: What parts the fields; None: white space.
        least: Fields that there must be.
        path: The file, for errors.
    """
    fields = line.strip().split(at) if at == "\t" else line.strip().split(at, 1)
    if len(fields) < least:
        raise EvalkitError(f"{path}: a line should have {least} fields, but is {line.strip()[:80]!r}; unpack it again")
    return fields[0], fields[1].strip()


def one_of(name: str, known: Any, path: Path) -> str:
    """`name`, a class of a list. Raises EvalkitError for none of them.

    Args:
        name: As the list has it.
        known: The classes.
        path: The file, for errors.
    """
    if name not in known:
        raise EvalkitError(f"{path} names the class {name!r}, which is none of the {len(known)}; unpack it again")
    return name


def number_of(text: str, path: Path) -> int:
    """A number in a list. Raises EvalkitError for another text.

    Args:
        text: As the list has it.
        path: The file, for errors.
    """
    if not text.isdecimal():
        raise EvalkitError(f"{path}: {text!r} should be a number; unpack the archive again")
    return int(text)
