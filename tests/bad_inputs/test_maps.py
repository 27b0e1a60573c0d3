"""Label maps that hold other labels than they seem to, and files that are neither image nor map."""

import numpy as np
import pytest
from PIL import Image

from evalkit.downstream.readers_seg import seg_folders

from .cases import Case
from .make import put
from .odd_images import png

KIND = "Label maps that are read as other labels, or not at all"
SIZE = 32


def whole(folder, classes="abcd"):
    """A set of two images a split that has nothing wrong; every map holds every class."""
    for split in ("train", "val"):
        for i in range(2):
            put(folder / "images" / split / f"{i}.png", i + 10 * (split == "val"), size=SIZE)
            path = folder / "masks" / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels()).save(path)
    (folder / "classes.txt").write_text("\n".join(classes))
    return folder


def labels():
    return (np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 4).astype(np.uint8)


def few_bits(path, bits):
    """A grey PNG of 1, 2 or 4 bits, as some tools write small label sets."""
    values = np.unpackbits((labels() % 2**bits)[..., None], axis=-1)[..., -bits:]
    path.write_bytes(png(bits, 0, np.packbits(values.reshape(SIZE, -1), axis=1), width=SIZE))


def met(folder, change):
    """(what is done to a label map, of which split, how many classes there are)."""
    save, split, classes = change
    whole(folder, [f"c{i}" for i in range(classes)])
    for path in sorted((folder / "masks" / split).iterdir()):
        save(path)
    return "; ".join(seg_folders(folder).notes)


def saved(change, kind="PNG"):
    return lambda path: Image.fromarray(change(labels())).save(path, kind)


def header(size):
    """A PNG that declares so many pixels a side."""
    return lambda path: path.write_bytes(png(8, 0, np.zeros((size, 0), np.uint8), width=size))


def constant(value):
    return saved(lambda map: np.full_like(map, value))


def palette(path):
    image = Image.fromarray(labels(), "P")
    image.putpalette([7 * i % 256 for i in range(768)])
    image.save(path, bits=2, transparency=0)


def same_labels(folder):
    """Labels of a palette stay what they are, however few bits they have."""
    assert met(folder, (palette, "train", 4)) == ""


def beside(folder, name):
    path = whole(folder) / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(labels()).save(path)
    return "; ".join(seg_folders(folder).notes)


def bomb(folder, split):
    whole(folder)
    for path in (folder / "images" / split).iterdir():
        header(100_000)(path)
    return seg_folders(folder)


def listed(folder, text):
    """What is said of a list of classes that is written so."""
    whole(folder)
    (folder / "classes.txt").write_bytes(text.encode())
    return "; ".join(seg_folders(folder).notes)


def with_a_mark(folder):
    """The mark of the order of bytes that Windows writes is no part of the first name."""
    (whole(folder) / "classes.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n\r\nc\r\nd\r\n")
    assert seg_folders(folder).classes == list("abcd")


def black_and_white(path):
    Image.fromarray((labels() % 2 * 255).astype(np.uint8)).save(path)


def reduced(folder):
    """Maps of colours that were each reduced to a palette of their own: the labels are in the order of use."""
    for i, path in enumerate(sorted((whole(folder) / "masks" / "train").iterdir())):
        image = Image.fromarray((labels() + i) % 4, "P")
        image.putpalette([60 * ((k + i) % 4) for k in range(256) for _ in range(3)])
        image.save(path)
    return "; ".join(seg_folders(folder).notes)


REFUSED = {
    "grey of 4 bits": (lambda path: few_bits(path, 4), "grey of less than 8 bits"),
    "grey of 2 bits": (lambda path: few_bits(path, 2), "grey of less than 8 bits"),
    "grey of 1 bit": (lambda path: few_bits(path, 1), "has mode 1"),
    "a JPEG called .png": (saved(lambda m: m * 40, "JPEG"), "a file of JPEG called .png"),
    "a GIF called .png": (saved(lambda m: m, "GIF"), "a file of GIF called .png"),
    "a BMP called .png": (saved(lambda m: m, "BMP"), "a file of BMP called .png"),
    "a TIFF called .png": (saved(lambda m: m, "TIFF"), "a file of TIFF called .png"),
    "16 bits": (saved(lambda m: m.astype(np.uint16)), "has mode I;16"),
    "colours": (saved(lambda m: np.stack([m] * 3, 2)), "has mode RGB"),
    "grey and alpha": (saved(lambda m: np.stack([m] * 2, 2)), "has mode LA"),
    "nothing but 255": (constant(255), "label map holds any of the 200 classes"),
    "labels one too high": (saved(lambda m: m + 197), "holds the label 200"),
    "a header of 15,000 x 15,000 pixels": (header(15_000), "cannot be read"),
    "a header of 100,000 x 100,000 pixels": (header(100_000), "cannot be read"),
    "another size": (saved(lambda m: m[:16]), "is 32x16 pixels"),
}
CASES = [
    *(
        Case(
            f"an image with a header of 100,000 x 100,000 pixels, {split}", bomb, says="cannot be read", argument=split
        )
        for split in ("train", "val")
    ),
    *(
        Case(f"a list of classes {what}", listed, says=says, argument=text)
        for what, text, says in (
            ("with CVAT's header", "# label:color_rgb:parts:actions\na\nb\nc\nd", "would move the labels"),
            ("with a comment", "a\n# b\nc\nd", "would move the labels"),
            ("of LabelMe", "__ignore__\n_background_\na\nb\nc", "'__ignore__' is no class"),
            ("numbered from 1", "1 a\n2 b\n3 c\n4 d", "numbers its classes otherwise"),
            ("numbered in another order", "1: a\n0: b\n3: c\n2: d", "numbers its classes otherwise"),
            ("as ADE20K's table", "1\ta\n2\tb\n3\tc\n4\td", "numbers its classes otherwise"),
            ("in one line", "a, b, c, d", "different classes, one per line"),
        )
    ),
    Case("a list of classes that Windows wrote", with_a_mark, fate="mended"),
    *(
        Case(f"a list of classes of one look, {name}", listed, "names look the same", "said", f"cat\n{name}\nc\nd")
        for name in ("Cat", "c\u200bat", "cat.")
    ),
    Case(
        "black and white maps of 0 and 255, train",
        met,
        "hold 0 and 255 alone",
        "refused",
        (black_and_white, "train", 4),
    ),
    Case("black and white maps of 0 and 255, val", met, "hold 0 and 255 alone", "refused", (black_and_white, "val", 4)),
    Case("maps reduced to palettes one by one", reduced, "label 0 of the train label maps is the colour", "said"),
    *(
        Case(f"{what}, {split}", met, says=says, argument=(save, split, 200))
        for what, (save, says) in REFUSED.items()
        for split in ("train", "val")
    ),
    Case("a palette of 2 bits with a transparent colour", same_labels, fate="mended"),
    Case(
        "a single class in every map",
        met,
        "holds 3 of the 4 classes, so they cannot",
        "said",
        (constant(0), "train", 4),
    ),
    Case(
        "a class that no validation map holds",
        met,
        "holds 3 of the 4 classes, so they are not",
        "said",
        (constant(1), "val", 4),
    ),
    *(
        Case(f"{what}", beside, says=f"1 entries of {folder} are not used", fate="said", argument=name)
        for what, name, folder in (
            ("a label map without an image", "masks/val/7.png", "masks/val"),
            ("an image in a folder within", "images/train/more/7.png", "images/train"),
            ("an image of another kind", "images/val/7.tif", "images/val"),
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_a_set_with_nothing_wrong_has_no_notes(tmp_path):
    assert seg_folders(whole(tmp_path)).notes == []
