"""What every data set is: images by position, with ids that last, labels and class names; and how an image file is
decoded."""

import functools
import hashlib
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from .. import fingerprint
from ..errors import EvalkitError
from .peculiarities import peculiarities, size_problem
from .texts import Texts

Content = tuple[int, Callable[[], str]]  # of a file: its bytes, and what gives its digest


class BadImage(EvalkitError):
    """An image that cannot be read.

    Args:
        id: Which image.
        reason: Why it cannot be read.
    """

    def __init__(self, id: str, reason: str):
        super().__init__(id, reason)  # both in args, so that it survives the way out of a worker process
        self.id, self.reason = id, reason

    def __str__(self) -> str:
        return f"cannot read image {self.id}: {self.reason}; replace or remove it"


class Images:
    """Random access to labelled images; subclasses write `read`.

    Beside the arguments it has `demonstration`: whether the set was made to show that something works, and is no
    benchmark; `foreground`: (N, H, W) bool, True where the object is, or None; `notes`: how many images the last whole
    pass saw with a peculiarity (see `decode`); `noted`: the peculiarities by position that the last pass has seen so
    far. Raises ValueError for ids that are not unique and labels that are not indices of classes.

    Args:
        name: How records name the set.
        ids: N unique names, POSIX paths where the images are files.
        labels: (N,) int64 index into `classes`, -1 for none of them.
        classes: Names of the classes.
        native_size: Side in pixels of an embedded set, whose images are used as they are; None otherwise.
        problems: What is wrong with the set.
        remarks: What is no fault, but a reader must know.
    """

    foreground: np.ndarray | None = None
    demonstration = False
    whole: str | None = None

    def __init__(
        self,
        name: str,
        ids: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        *,
        native_size: int | None = None,
        problems: Sequence[str] = (),
        remarks: Sequence[str] = (),
    ):
        self.name, self.classes = name, list(classes)
        self.ids = ids if isinstance(ids, Texts) else Texts(ids)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.native_size, self.problems, self.remarks = native_size, list(problems), list(remarks)
        self.notes: dict[str, int] = {}
        self.noted: dict[int, list[str]] = {}
        if not self.ids.distinct and len(set(self.ids)) != len(self.ids):
            raise ValueError(
                f"Expected argument `ids` to be unique, but {len(self.ids)} ids hold only {len(set(self.ids))}"
                " different ones"
            )
        if self.labels.shape != (len(self.ids),) or (
            len(self.ids) and not -1 <= self.labels.min() <= self.labels.max() < len(self.classes)
        ):
            raise ValueError(
                f"Expected argument `labels` to hold one index from -1 to {len(self.classes) - 1} for each of"
                f" {len(self.ids)} images"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, i: int) -> Image.Image:
        """Image i as RGB; its `info["notes"]`, if any, names its peculiarities. Raises BadImage."""
        raise NotImplementedError

    def encoded(self, i: int) -> bytes | None:
        """The bytes of the file of image i, None where the set holds no files. Raises OSError or BadImage."""
        return None

    def content(self, i: int) -> Content | None:
        """(bytes, what gives the digest) of the file of image i; None where the set holds no files."""
        return None

    @functools.cached_property
    def fingerprint(self) -> str:
        """SCHEME:DIGEST of the ids with their class names, in sorted order, and of their contents (see
        `evalkit.fingerprint`)."""
        lines = sorted(f"{id}\t{self.classes[label] if label >= 0 else ''}" for id, label in zip(self.ids, self.labels))
        scheme, content = self._content()
        return f"{scheme}:{hashlib.sha256(chr(10).join([content, *lines]).encode()).hexdigest()}"

    def by_id(self) -> list[int]:
        """The positions in the order of the ids."""
        ids = list(self.ids)
        return sorted(range(len(ids)), key=ids.__getitem__)

    def _content(self) -> tuple[str, str]:
        """(scheme, digest) of the contents: here of the pixels of a sample."""
        digest = hashlib.sha256()
        for i in fingerprint.sample(len(self), PIXELS_SAMPLED):
            try:
                digest.update(self.read(i).tobytes())
            except BadImage as e:
                digest.update(e.reason.encode())
        return fingerprint.SAMPLE, digest.hexdigest()

    def peculiar(self, i: int) -> list[str]:
        """The names of what decoding image i does silently (see `decode`)."""
        try:
            data = self.encoded(i)
            return self.read(i).info.get("notes", []) if data is None else peculiar(BytesIO(data))
        except (BadImage, OSError):
            return []  # reading it in earnest will say what is wrong

    def survey(self) -> list[str]:
        """What decoding does silently, counted over all images or a fixed sample of a large set, one clause each."""
        rows = fingerprint.sample(len(self), SURVEYED)
        count = Counter(note for i in rows for note in self.peculiar(i))
        of = f"{len(rows):,} images" if len(rows) == len(self) else f"{len(rows):,} images looked at"
        return [f"{note} in {n:,} of the {of}" for note, n in sorted(count.items())]


class ArrayImages(Images):
    """Images held in memory.

    Args:
        name: How records name the set.
        ids: N unique names.
        labels: (N,) int64 index into `classes`, -1 for none of them.
        classes: Names of the classes.
        pixels: (N, S, S, 3) uint8.
        foreground: (N, S, S) bool, True where the object is; None: not known.
        demonstration: Whether the set was made to show that something works.
    """

    def __init__(
        self,
        name: str,
        ids: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        pixels: np.ndarray,
        foreground: np.ndarray | None = None,
        *,
        demonstration: bool = False,
    ):
        super().__init__(name, ids, labels, classes, native_size=pixels.shape[1])
        self.pixels, self.foreground, self.demonstration = pixels, foreground, demonstration

    def read(self, i: int) -> Image.Image:
        return Image.fromarray(self.pixels[i])

    def _content(self) -> tuple[str, str]:
        return fingerprint.FULL, hashlib.sha256(np.ascontiguousarray(self.pixels).data).hexdigest()

    def peculiar(self, i: int) -> list[str]:
        return []


class Subset(Images):
    """Some images of another set; ids stay.

    Args:
        images: The set.
        indices: Positions in it, in the order of the new one.
    """

    def __init__(self, images: Images, indices: Sequence[int] | np.ndarray):
        indices = np.asarray(indices, dtype=np.int64)
        ids = [images.ids[i] for i in indices]
        super().__init__(
            images.name,
            ids,
            images.labels[indices],
            images.classes,
            native_size=images.native_size,
            problems=images.problems,
            remarks=images.remarks,
        )
        self.images, self.indices, self.demonstration = images, indices, images.demonstration
        self.foreground = None if images.foreground is None else images.foreground[indices]

    def read(self, i: int) -> Image.Image:
        return self.images.read(int(self.indices[i]))

    def encoded(self, i: int) -> bytes | None:
        return self.images.encoded(int(self.indices[i]))

    def content(self, i: int) -> Content | None:
        return self.images.content(int(self.indices[i]))

    def _content(self) -> tuple[str, str]:
        return self.images._content()

    def peculiar(self, i: int) -> list[str]:
        return self.images.peculiar(int(self.indices[i]))


PROGRAMS = ("EPS", "WMF")  # by Ghostscript, or by Windows
SURVEYED = 4096  # images of a set whose peculiarities are counted before a pass over all
PIXELS_SAMPLED = 64  # images that are decoded for the fingerprint of a set without files


def decode(source: str | Path | BinaryIO, id: str) -> Image.Image:
    """The image in a file as RGB by Pillow's plain conversion, what published evaluations see. Raises BadImage, also
    for decompression bombs.

    `info["notes"]` of the result lists what that conversion does silently: "exif_orientation_ignored", "alpha_dropped"
    (a hidden colour shows), "cmyk_converted", "grey16_saturated" (values above 255 become white), "float_clipped" (0 to
    1 becomes black), "rgb16_cut_to_8_bits", "first_of_several_frames", "colour_profile_ignored" (one that is not sRGB),
    "gamma_ignored", "lab_converted", "exif_orientation_applied" (of TIFF files, whichever reads them).

    Args:
        source: A file or its bytes.
        id: Its id, for the error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is in the notes
            check_kind(source, id)
            with Image.open(source) as image:
                if image.format in PROGRAMS:  # Pillow would have another program draw it
                    raise BadImage(id, f"a file of {image.format}, which is no picture but a program that draws one")
                if problem := size_problem(image.size):
                    raise BadImage(id, problem)
                notes = peculiarities(image)
                rgb = image.convert("RGB")
    except BadImage:
        raise
    except UnidentifiedImageError as e:
        raise BadImage(id, "empty file" if _is_empty(source) else "not an image") from e
    except OSError as e:
        raise BadImage(id, e.strerror or _one_line(e)) from e
    except Exception as e:  # decoders raise whatever a malformed file leads them to
        raise BadImage(id, _one_line(e)) from e
    rgb.info = {"notes": notes}
    return rgb


def check_kind(source: str | Path | BinaryIO, id: str) -> None:
    """Raise BadImage for a path that is no regular file: opening a FIFO would wait for ever.

    Args:
        source: A file or its bytes.
        id: Its id, for the error.
    """
    if isinstance(source, str | Path) and not stat.S_ISREG(os.stat(source).st_mode):
        raise BadImage(id, "not a regular file")


def peculiar(source: str | Path | BinaryIO) -> list[str]:
    """The names of what decoding an image file does silently (see `decode`); none for what is no image.

    Args:
        source: A file or its bytes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_kind(source, "")
            with Image.open(source) as image:
                return [] if size_problem(image.size) else peculiarities(image)
    except Exception:  # reading it in earnest will say what is wrong
        return []


def _is_empty(source: str | Path | BinaryIO) -> bool:
    if isinstance(source, (str, Path)):
        return Path(source).stat().st_size == 0
    return source.seek(0, 2) == 0


def _one_line(e: Exception) -> str:
    return " ".join(str(e).split()) or type(e).__name__
