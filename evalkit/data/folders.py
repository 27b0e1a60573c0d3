"""Image folders, one sub-folder per class, mapped to classes by name; and data sets that timm reads."""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import EvalkitError, suggest
from ..runtime import sha256_file
from .images import BadImage, Images, Subset, decode

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
NOT_CLASSES = ("__MACOSX",)
USUAL_SPLITS = ("train", "val", "valid", "validation", "test")


class FolderImages(Images):
    """Image files below `root`, read when asked for; ids are their POSIX paths relative to it."""

    def __init__(
        self,
        name: str,
        root: Path,
        ids: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
        problems: Sequence[str],
    ):
        super().__init__(name, ids, labels, classes, problems=problems)
        self.root = str(root)
        try:
            "".join(ids).encode()
        except UnicodeEncodeError as e:
            odd = next(os.fsencode(id) for id in ids if os.fsencode(id) != id.encode(errors="ignore"))
            raise EvalkitError(f"a file name in {root} is not UTF-8, which its records need: {odd}; rename it") from e

    def path(self, i: int) -> str:
        """The file of image i."""
        return os.path.join(self.root, self.ids[i])

    def read(self, i: int) -> Image.Image:
        return decode(self.path(i), self.ids[i])

    def encoded(self, i: int) -> bytes:
        return Path(self.path(i)).read_bytes()


class FlatImages(FolderImages):
    """Image files that lie in `root` without class folders; their ids are CLASS/NAME all the same, as in class
    folders."""

    def path(self, i: int) -> str:
        return os.path.join(self.root, self.ids[i].rpartition("/")[2])


def folder(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    allow_partial: bool = False,
    rename: Mapping[str, str] | None = None,
) -> FolderImages:
    """The images in root/<class>/..., at any depth.

    Without `classes`, the classes are the folder names, sorted. With it, labels index into that list and a folder gets
    its label by its name, so that a missing or additional folder can never shift labels; `rename` gives the class of
    folders that have another name. Raises EvalkitError if there are no images, for a folder that is none of `classes`,
    and for missing or empty class folders unless `allow_partial`; then they are listed in `problems`.
    """
    root = Path(root)
    folders = _class_folders(root)
    class_of = {found: (rename or {}).get(found, found) for found in folders}
    if classes is not None:
        known = set(classes)
        for found in folders:
            if class_of[found] not in known:
                raise EvalkitError(
                    f"the folder '{found}' in {root} is none of the {len(known)} classes; rename it or move it"
                    f" away.{suggest(found, known)}"
                )
    names = folders if classes is None else list(classes)
    ids: list[str] = []
    labels: list[int] = []
    present = set(class_of.values())
    problems = [f"the class folder '{missing}' is missing" for missing in names if missing not in present]
    index = {label: i for i, label in enumerate(names)}
    for found in folders:
        files = _image_files(root, found)
        ids += files
        labels += [index[class_of[found]]] * len(files)
        if not files:
            problems.append(f"the class folder '{found}' holds no image")
    if not ids:
        raise EvalkitError(f"{root} holds no images in class folders; expected {root}/CLASS/image.jpg")
    if problems and not allow_partial:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        advice = (
            "fill or remove it" if classes is None else "complete it, or allow partial data with allow_partial=true"
        )
        raise EvalkitError(f"{root} is incomplete: {', '.join(problems[:3])}{more}; {advice}")
    return FolderImages(name or root.resolve().name, root, ids, labels, names, problems)


def flat_folder(root: str | Path, labels: Mapping[str, str], *, classes: Sequence[str], name: str) -> FlatImages:
    """The images that lie directly in `root`, with the class of each file name in `labels`; ids are CLASS/NAME, the
    ones they have in class folders.

    Raises EvalkitError for an image without a class and for a folder without images.
    """
    root = Path(root)
    files = flat_files(root)
    nameless = [file for file in files if file not in labels]
    if nameless:
        raise EvalkitError(
            f"{len(nameless)} of the {len(files)} images in {root} have no line in the labels file, e.g. {nameless[0]}"
        )
    if not files:
        raise EvalkitError(
            f"{root} holds no images; the labels file is for images that lie there without class folders"
        )
    ids = sorted(f"{labels[file]}/{file}" for file in files)
    index = {label: i for i, label in enumerate(classes)}
    return FlatImages(name, root, ids, [index[id.partition("/")[0]] for id in ids], classes, ())


def flat_files(root: str | Path) -> list[str]:
    """Names of the image files directly in `root`, sorted."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_file() and _is_image(entry.name))


def same_files(a: Images, rows_a: Sequence[int], b: Images, rows_b: Sequence[int]) -> list[tuple[str, str]]:
    """(id in `a`, id in `b`) of images at these rows whose files have the same content; none for sets that are not
    files on disk."""
    by_size: dict[int, list[tuple[str, str]]] = {}
    for sample, path in _paths(a, rows_a):
        by_size.setdefault(os.path.getsize(path), []).append((sample, path))
    hashes: dict[str, str] = {}
    same = []
    for sample, path in _paths(b, rows_b):
        if candidates := by_size.get(os.path.getsize(path)):
            own = sha256_file(path)
            for other, other_path in candidates:
                if other_path not in hashes:
                    hashes[other_path] = sha256_file(other_path)
                if hashes[other_path] == own:
                    same.append((other, sample))
    return same


def _paths(images: Images, rows: Sequence[int]) -> Iterator[tuple[str, str]]:
    for row in map(int, rows):
        whole, i = images, row
        while isinstance(whole, Subset):
            whole, i = whole.images, int(whole.indices[i])
        if isinstance(whole, FolderImages):
            yield images.ids[row], whole.path(i)


def split_folder(root: str | Path, split: str) -> Path:
    """root/<split> where there is one, else `root` itself if it holds class folders and not other splits. Raises
    EvalkitError."""
    root = Path(root)
    # a split holds folders; a class may well be called "train"
    splits = [
        name
        for name in _class_folders(root)
        if name in (split, *USUAL_SPLITS) and any(entry.is_dir() for entry in os.scandir(root / name))
    ]
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
    names = sorted(
        entry.name
        for entry in entries
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in NOT_CLASSES
    )
    if not names:
        flat = sum(_is_image(entry.name) for entry in entries)
        has = f"{flat} images but no class folders" if flat else "no class folders"
        raise EvalkitError(f"{root} holds {has}; expected {root}/CLASS/image.jpg")
    return names


def _image_files(root: Path, class_folder: str) -> list[str]:
    """POSIX paths, relative to `root` and sorted, of the images below one class folder."""
    found = []
    for at, folders, files in os.walk(root / class_folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in NOT_CLASSES]
        inside = Path(at).relative_to(root).as_posix()
        found += [f"{inside}/{name}" for name in files if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


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

    def encoded(self, i: int) -> bytes | None:
        reader = getattr(self.dataset, "reader", None)
        if reader is None:
            return None
        with reader[i][0] as file:
            return file.read()


def timm_images(name: str, split: str, root: str | Path | None = None) -> ReaderImages:
    """A data set that timm reads: torch/NAME (torchvision, already on disk below `root`) or hfds/NAME (Hugging Face
    datasets, cached in `root`).

    Raises EvalkitError for readers that only stream: a run could not be resumed exactly.
    """
    prefix = name.partition("/")[0].lower()
    if prefix in STREAMS:
        raise EvalkitError(
            f"data '{name}' can only be streamed in order, which evalkit does not support; use hfds/NAME or an image"
            " folder"
        )
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
        labels, classes = (
            [int(t) for t in dataset.targets],
            [str(c) for c in getattr(dataset, "wnids", dataset.classes)],
        )
    return ReaderImages(name, split, dataset, labels, classes or [str(c) for c in range(max(labels) + 1)])
