"""Lists of class names, label 0 first, and those that are numbered, headed or marked otherwise."""

import re
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.text import look_alike

IGNORE = 255  # the label of a pixel of no class
NO_CLASSES = ("__ignore__", "_ignore_")  # what LabelMe's lists begin with: label -1


def class_list(path: Path, layout: str) -> tuple[list[str], list[str]]:
    """(names of the classes, one a line, label 0 first; what a reader should know of them). Raises EvalkitError for a
    file whose lines are not the labels in order: headers, comments, numbers of their own, LabelMe's `__ignore__`.

    Args:
        path: The file.
        layout: What is expected beside it, for the error.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as e:
        raise EvalkitError(
            f"cannot read {path}: {getattr(e, 'strerror', None) or e}; {layout}, one class per line, label 0 first"
        ) from e
    classes = [line for line in lines if line]
    if not 2 <= len(classes) <= IGNORE or len(set(classes)) < len(classes):
        raise EvalkitError(
            f"{path} must hold 2 to {IGNORE} different classes, one per line, but holds {len(classes)}"
            f" lines, {len(set(classes))} of them different"
        )
    if odd := next((line for line in classes if line.startswith("#") or line in NO_CLASSES), None):
        raise EvalkitError(
            f"{path}: the line '{odd}' is no class, and would move the labels of those behind it; remove it"
        )
    numbers = [re.match(r"(\d+)\s*[:,;.)\t ]", line) for line in classes]
    if all(numbers) and [int(found[1]) for found in numbers if found] != list(range(len(classes))):
        raise EvalkitError(
            f"{path} numbers its classes otherwise than labels are, which count the lines from 0 on ('{classes[0]}' is"
            " label 0); sort the lines, or leave the numbers out"
        )
    same = look_alike(classes, classes)
    return classes, [f"{a!a} and {b!a} are two classes, though their names look the same" for a, b in same[:1]]
