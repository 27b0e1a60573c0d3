"""Image folders, one sub-folder per class, mapped to classes by name."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .. import fingerprint
from ..errors import EvalkitError, suggest
from ..text import look_alike
from . import file_index
from .images import Content, Images, check_kind, decode, peculiar
from .scan import Scan, is_image
from .texts import Texts

USUAL_SPLITS = ("train", "val", "valid", "validation", "test")


class FolderImages(Images):
    """Image files of a folder, read when asked for.

    Args:
        name: How records name the set.
        root: The folder.
        ids: POSIX paths of the files relative to it.
        labels: (N,) index into `classes`.
        classes: Names of the classes.
        problems: What is wrong with the set.
        remarks: What is no fault, but a reader must know.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        ids: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        problems: Sequence[str],
        remarks: Sequence[str] = (),
    ):
        super().__init__(name, ids, labels, classes, problems=problems, remarks=remarks)
        self.root = str(root)
        try:
            names = self.ids.letters.tobytes()
            text = names.decode()
        except UnicodeDecodeError as e:
            odd = next(id for id in self.ids if os.fsencode(id) != id.encode(errors="ignore"))
            raise EvalkitError(
                f"a file name in {root} is not UTF-8, which its records need: {os.fsencode(odd)!r}; rename it"
            ) from e
        if os.fsdecode(names) != text:
            raise EvalkitError(
                f"the file names in {root} are UTF-8, which this locale does not know; run with PYTHONUTF8=1"
            )

    def path(self, i: int) -> str:
        """The file of image i."""
        return os.path.join(self.root, self.ids[i])

    def read(self, i: int) -> Image.Image:
        return decode(self.path(i), self.ids[i])

    def encoded(self, i: int) -> bytes:
        path = self.path(i)
        check_kind(path, self.ids[i])
        with open(path, "rb") as file:
            return file.read()

    def content(self, i: int) -> Content:
        return of_file(self.path(i))

    def _content(self) -> tuple[str, str]:
        return fingerprint.of_files([self.path(i) for i in self.by_id()])

    def peculiar(self, i: int) -> list[str]:
        return peculiar(self.path(i))  # without the bytes behind its head


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

    Args:
        root: The folder.
        classes: The classes that labels index into, so that a missing or additional folder can never shift labels; a
            folder gets its label by its name. None: the folder names, sorted.
        name: How records name the set; None: as the folder.
        allow_partial: Whether missing or empty class folders are listed in `problems` instead.
        rename: Folder -> its class, where it has another name.

    Raises EvalkitError if there are no images, for a folder that is none of the classes, and for missing or empty class
    folders.
    """
    root = Path(root)
    scan = Scan(root)
    folders = _class_folders(scan)
    class_of = {found: (rename or {}).get(found, found) for found in folders}
    if classes is not None:
        known = set(classes)
        for found in folders:
            if class_of[found] not in known:
                if same := look_alike([class_of[found]], known):
                    hint = f" {same[0][0]!a} is not {same[0][1]!a}, though the two look the same."
                else:
                    hint = suggest(found, known)
                raise EvalkitError(
                    f"the folder '{found}' in {root} is none of the {len(known)} classes; rename it or move it"
                    f" away.{hint}"
                )
    names = folders if classes is None else list(classes)
    present = set(class_of.values())
    problems = [f"the class folder '{missing}' is missing" for missing in names if missing not in present]
    index = {label: i for i, label in enumerate(names)}
    ids, counts = file_index.images(scan, folders)
    labels = np.repeat([index[class_of[found]] for found in folders], counts)
    problems += [f"the class folder '{found}' holds no image" for found, count in zip(folders, counts) if not count]
    if not len(ids):
        raise EvalkitError(f"{root} holds no images in class folders; expected {root}/CLASS/image.jpg")
    if problems and not allow_partial:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        advice = (
            "fill or remove it" if classes is None else "complete it, or allow partial data with allow_partial=true"
        )
        raise EvalkitError(f"{root} is incomplete: {', '.join(problems[:3])}{more}; {advice}")
    remarks = [*scan.remarks(), *_nested(ids, set(names) | set(folders))]
    return FolderImages(name or root.resolve().name, root, ids, labels, names, problems, remarks)


def _nested(ids: Texts, classes: set[str]) -> list[str]:
    """A sentence where images lie in a folder that is called as a class, within the folder of another."""
    if int(np.count_nonzero(ids.letters == ord("/"))) == len(ids):  # none lies deeper than its class
        return []
    odd: Counter[str] = Counter()
    for id in ids:
        outer, *between, _ = id.split("/")
        if any(name in classes and name != outer for name in between):
            odd[f"{outer}/{'/'.join(between)}"] += 1
    return [
        f"{n:,} images lie in {inner} and count as {inner.partition('/')[0]}" for inner, n in sorted(odd.items())[:3]
    ]


def flat_folder(root: str | Path, labels: Mapping[str, str], *, classes: Sequence[str], name: str) -> FlatImages:
    """The images that lie directly in a folder; ids are CLASS/NAME, the ones they have in class folders.

    Args:
        root: The folder.
        labels: File name -> class.
        classes: The classes that labels index into.
        name: How records name the set.

    Raises EvalkitError for an image without a class and for a folder without images.
    """
    root = Path(root)
    scan = Scan(root)
    files = scan.images(deep=False)
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
    remarks = scan.remarks()
    if spare := sorted(set(labels) - set(files)):
        remarks = [*remarks, f"{len(spare):,} lines of the labels file are of no image in {root}, e.g. {spare[0]}"]
    return FlatImages(name, root, ids, [index[id.partition("/")[0]] for id in ids], classes, (), remarks)


def flat_files(root: str | Path) -> list[str]:
    """Names of the image files directly in `root`, sorted."""
    return Scan(root).images(deep=False)


Rows = Sequence[int] | np.ndarray  # positions in a set


def same_files(a: Images, rows_a: Rows, b: Images, rows_b: Rows) -> list[tuple[str, str]]:
    """(id in `a`, id in `b`) of images whose files have the same content; none for sets without files.

    Args:
        a: One of the sets.
        rows_a: Positions in it.
        b: Another one.
        rows_b: Positions in that.
    """
    return same_contents(_contents(a, rows_a), _contents(b, rows_b))


def same_contents(a: Iterable[tuple[str, Content]], b: Iterable[tuple[str, Content]]) -> list[tuple[str, str]]:
    """(name in `a`, name in `b`) of files with the same content.

    Args:
        a: Names and contents.
        b: Those of others.
    """
    by_size: dict[int, list[tuple[str, Callable[[], str]]]] = {}
    for name, (size, digest) in a:
        by_size.setdefault(size, []).append((name, digest))
    hashes: dict[str, str] = {}
    same = []
    for name, (size, digest) in b:
        if size >= 0 and (candidates := by_size.get(size)):
            own = digest()
            for other, its_digest in candidates:
                if other not in hashes:
                    hashes[other] = its_digest()
                if hashes[other] == own:
                    same.append((other, name))
    return same


def same_contents_within(images: Images) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Ids of images with the same content, in pairs: those with another label, and copies with the same one; none for
    sets without files.

    Args:
        images: The set.
    """
    alike: dict[int, list[tuple[str, Callable[[], str], int]]] = {}
    for (sample, (size, digest)), label in zip(_contents(images, range(len(images))), images.labels.tolist()):
        alike.setdefault(size, []).append((sample, digest, label))
    others: list[tuple[str, str]] = []
    copies: list[tuple[str, str]] = []
    alike.pop(-1, None)  # what is not there
    for same_size in alike.values():
        first: dict[str, tuple[str, int]] = {}
        for sample, digest, label in same_size if len(same_size) > 1 else ():
            other, its_label = first.setdefault(digest(), (sample, label))
            if other != sample:
                (copies if its_label == label else others).append((other, sample))
    return others, copies


def of_file(path: str) -> Content:
    """Its size and what gives its digest."""
    return fingerprint.size(path), partial(fingerprint.digest, path)


def _contents(images: Images, rows: Rows) -> Iterator[tuple[str, Content]]:
    for i in map(int, rows):
        if (content := images.content(i)) is not None:
            yield images.ids[i], content


def split_folder(root: str | Path, split: str) -> Path:
    """The folder of a split: root/<split> where there is one, else the root itself if it holds class folders and not
    other splits. Raises EvalkitError.

    Args:
        root: The folder of the data.
        split: Name of the split.
    """
    root = Path(root)
    # a split holds folders; a class may well be called "train"
    splits = [
        name
        for name in _class_folders(Scan(root))
        if name in (split, *USUAL_SPLITS) and any(entry.is_dir() for entry in (root / name).iterdir())
    ]
    if split in splits:
        return root / split
    if splits:
        raise EvalkitError(f"{root} has no folder '{split}'.{suggest(split, splits)}")
    return root


def _class_folders(scan: Scan) -> list[str]:
    """Names of the sub-folders of a folder, sorted; EvalkitError if there are none."""
    names = scan.folders()
    if not names:
        flat = sum(is_image(entry.name) for entry in os.scandir(scan.root))
        has = f"{flat} images but no class folders" if flat else "no class folders"
        raise EvalkitError(f"{scan.root} holds {has}; expected {scan.root}/CLASS/image.jpg")
    return names
