"""Classes of ImageNet validation images that lie in one folder: from a list of file names, or from the development
kit."""

import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import EvalkitError

WNID = re.compile(r"n\d{8}")
COMPRESSED, MAX_MAT = 15, 64 << 20  # type of a packed element; the bytes it may unpack to
KIT_META = "meta.mat"  # beside the kit's ground truth: which number means which class


def read_val_labels(path: str | Path, classes: Sequence[str]) -> dict[str, str]:
    """File name -> class.

    Lines of a file name and a class, split by a comma or a blank (more columns are passed over, so is a header): the
    class is a WordNet id or, as in Caffe's val.txt, its position 0..K-1 among the sorted classes. Or lines of one
    number: the development kit's ILSVRC2012_validation_ground_truth.txt, whose numbers are ILSVRC2012 ids in an order
    of their own, told by meta.mat beside it. Raises EvalkitError, with the line, for anything else.

    Args:
        path: The file.
        classes: Names of the model's classes.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise EvalkitError(f"cannot read the labels file {path}: {getattr(e, 'strerror', None) or 'not text'}") from e
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line]
    if not numbered:
        raise EvalkitError(f"the labels file {path} is empty")
    if all(line.isdecimal() for _, line in numbered):
        return _from_kit(path, [int(line) for _, line in numbered])
    return _from_names(path, numbered, classes)


def _from_names(path: Path, numbered: list[tuple[int, str]], classes: Sequence[str]) -> dict[str, str]:
    known, ordered = set(classes), sorted(classes)
    found: dict[str, str] = {}
    first, positions = numbered[0][0], set[int]()
    for number, line in numbered:
        words = [word for word in re.split(r"[,\s]+", line) if word]
        name, label = (words[0].rsplit("/", 1)[-1], words[1]) if len(words) > 1 else ("", "")
        if label.isdecimal() and label not in known:
            positions.add(int(label))
            label = ordered[int(label)] if int(label) < len(ordered) else label
        if label not in known:
            if number == first and not WNID.fullmatch(label) and not label.isdecimal():
                continue  # a header
            what = f"the class '{label}' is none of the {len(known)}" if name else "there is no class"
            expected = f"expected a file name and a WordNet id or a number from 0 to {len(ordered) - 1}"
            raise EvalkitError(f"the labels file {path}, line {number}: {what}; {expected}")
        name = name if "." in name else f"{name}.JPEG"
        if found.setdefault(name, label) != label:
            raise EvalkitError(
                f"the labels file {path}, line {number}: {name} was '{found[name]}' on an earlier line and is '{label}'"
                " here"
            )
    if len(positions) > 1 and min(positions) == 1:
        raise EvalkitError(
            f"the labels file {path} numbers classes from 1 on, but positions count from 0: subtract 1, or, if no image"
            f" is of the first class '{ordered[0]}', write WordNet ids"
        )
    return found


def _check_mat(data: bytes) -> None:
    """Raise ValueError for a version 5 .mat file one of whose elements unpacks to more than `MAX_MAT` bytes."""
    at = 128
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == COMPRESSED:
            packed = zlib.decompressobj()
            packed.decompress(data[at + 8 : at + 8 + size], MAX_MAT)
            if packed.unconsumed_tail:
                raise ValueError("an element unpacks to more than any development kit holds")
        at += 8 + size


def _from_kit(path: Path, numbers: list[int]) -> dict[str, str]:
    from scipy.io import loadmat

    meta = path.with_name(KIT_META)
    if not meta.is_file():
        raise EvalkitError(
            f"{path} holds the numbers of the development kit, which {KIT_META} explains; put the kit's data/{KIT_META}"
            " beside it"
        )
    try:
        _check_mat(meta.read_bytes())
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnid = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except Exception as e:  # SciPy raises whatever a malformed file leads it to
        raise EvalkitError(
            f"{meta} is not the {KIT_META} of the ILSVRC2012 development kit; copy it from there again"
        ) from e
    odd = next((i for i, number in enumerate(numbers, start=1) if number not in wnid), None)
    if odd is not None:
        raise EvalkitError(f"the labels file {path}, line {odd}: {meta.name} knows no class {numbers[odd - 1]}")
    return {f"ILSVRC2012_val_{i:08d}.JPEG": wnid[number] for i, number in enumerate(numbers, start=1)}
