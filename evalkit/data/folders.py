"""Image folders, one sub-folder per class, mapped to classes by name; and data sets that timm reads."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import EvalkitError, suggest
from .images import BadImage, Images, decode

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
NOT_CLASSES = ("__MACOSX",)
USUAL_SPLITS = ("train", "val", "valid", "validation", "test")


class FolderImages(Images):
    """Image files below `root`, read when asked for; ids are their POSIX paths relative to it."""

    def __init__(self, name: str, root: Path, ids: Sequence[str], labels: Sequence[int], classes: Sequence[str], problems: Sequence[str]):
        super().__init__(name, ids, labels, classes, problems=problems)
        self.root = str(root)

    def read(self, i: int) -> Image.Image:
        return decode(os.path.join(self.root, self.ids[i]), self.ids[i])


def folder(root: str | Path, *, classes: Sequence[str] | None = None, name: str | None = None, allow_partial: bool = False) -> FolderImages:
    """The images in root/<class>/..., at any depth.

    Without `classes`, the classes are the folder names, sorted. With it, labels index into that list and a folder gets its label by its name, so that a
    missing or additional folder can never shift labels. Raises EvalkitError if there are no images, for a folder that is none of `classes`, and for missing
    or empty class folders unless `allow_partial`; then they are listed in `problems`.
    """
    root = Path(root)
    folders = _class_folders(root)
    if classes is not None:
        known = set(classes)
        for found in folders:
            if found not in known:
                raise EvalkitError(f"the folder '{found}' in {root} is none of the {len(known)} classes; rename it or move it away.{suggest(found, known)}")
    names = folders if classes is None else list(classes)
    ids: list[str] = []
    labels: list[int] = []
    present = set(folders)
    problems = [f"the class folder '{missing}' is missing" for missing in names if missing not in present]
    index = {label: i for i, label in enumerate(names)}
    for found in folders:
        files = _image_files(root, found)
        ids += files
        labels += [index[found]] * len(files)
        if not files:
            problems.append(f"the class folder '{found}' holds no image")
    if not ids:
        raise EvalkitError(f"{root} holds no images in class folders; expected {root}/CLASS/image.jpg")
    if problems and not allow_partial:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise EvalkitError(f"{root} is incomplete: {', '.join(problems[:3])}{more}; complete it, or allow partial data with allow_partial=true")
    return FolderImages(name or root.resolve().name, root, ids, labels, names, problems)


def split_folder(root: str | Path, split: str) -> Path:
    """root/<split> where there is one, else `root` itself if it holds class folders and not other splits. Raises EvalkitError."""
    root = Path(root)
    # a split holds folders; a class may well be called "train"
    splits = [name for name in _class_folders(root) if name in (split, *USUAL_SPLITS) and any(entry.is_dir() for entry in os.scandir(root / name))]
    if split in splits:
        return root / split
    if splits:
        raise EvalkitError(f"{root} has no folder '{split}'.{suggest(split, splits)}")
    return root


def _class_folders(root: Path) -> list[str]:
    """Names of the sub-folders of `root`, sorted, without hidden ones and leavings of archives."""
    try:
        entries = list(os.scandir(root))
    except OSError as e:
        raise EvalkitError(f"cannot read the data folder {root}: {e.strerror or e}; give an existing one") from e
    names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".") and entry.name not in NOT_CLASSES)
    if not names:
        flat = sum(entry.name.lower().endswith(EXTENSIONS) for entry in entries)
        has = f"{flat} images but no class folders" if flat else "no class folders"
        raise EvalkitError(f"{root} holds {has}; expected {root}/CLASS/image.jpg")
    return names


def _image_files(root: Path, class_folder: str) -> list[str]:
    """POSIX paths, relative to `root` and sorted, of the images below one class folder."""
    found = []
    for at, folders, files in os.walk(root / class_folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in NOT_CLASSES]
        inside = Path(at).relative_to(root).as_posix()
        found += [f"{inside}/{name}" for name in files if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
    return sorted(found)


# ---- timm's readers

READERS = ("hfds", "torch")  # with random access
STREAMS = ("hfids", "tfds", "wds")  # without


class ReaderImages(Images):
    """A random-access data set that timm opened."""

    def __init__(self, name: str, split: str, dataset: Any, labels: Sequence[int], classes: Sequence[str]):
        super().__init__(name, [f"{split}/{i:07d}" for i in range(len(labels))], labels, classes)
        self.dataset = dataset

    def read(self, i: int) -> Image.Image:
        reader = getattr(self.dataset, "reader", None)
        if reader is not None:  # timm's own __getitem__ would put the next image in place of one that it cannot read
            return decode(reader[i][0], self.ids[i])
        try:
            return self.dataset[i][0].convert("RGB")
        except Exception as e:
            raise BadImage(self.ids[i], " ".join(str(e).split())) from e


def timm_images(name: str, split: str, root: str | Path | None = None) -> ReaderImages:
    """A data set that timm reads: torch/NAME (torchvision, already on disk below `root`) or hfds/NAME (Hugging Face datasets, cached in `root`).

    Raises EvalkitError for readers that only stream: a run could not be resumed exactly.
    """
    prefix = name.partition("/")[0].lower()
    if prefix in STREAMS:
        raise EvalkitError(f"data '{name}' can only be streamed in order, which evalkit does not support; use hfds/NAME or an image folder")
    if prefix == "hfds" and importlib.util.find_spec("datasets") is None:
        raise EvalkitError(f"data '{name}' needs the package datasets; run `pip install datasets`")
    if prefix == "torch" and root is None:
        raise EvalkitError(f"data '{name}' needs the folder it lies in; give data_dir=DIR")
    from timm.data import create_dataset

    try:
        dataset = create_dataset(name, root=None if root is None else str(root), split=split)
    except Exception as e:  # readers fail in many ways: not there, not downloaded, unknown split
        reason = (str(e).strip() or type(e).__name__).splitlines()[0].partition(". You can use download")[0]
        raise EvalkitError(f"cannot open data '{name}', split '{split}': {reason}") from e
    if prefix == "hfds":
        reader = dataset.reader
        labels, classes = list(reader.dataset[reader.label_key]), list(reader.class_to_idx)
    else:
        if not hasattr(dataset, "targets"):
            raise EvalkitError(f"data '{name}' does not list its labels; convert it to an image folder")
        # torchvision's ImageNet has tuples of synonyms as classes and the names of its folders as wnids
        labels, classes = [int(t) for t in dataset.targets], [str(c) for c in getattr(dataset, "wnids", dataset.classes)]
    return ReaderImages(name, split, dataset, labels, classes or [str(c) for c in range(max(labels) + 1)])
