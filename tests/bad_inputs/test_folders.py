"""Image folders that hold other than what they seem."""

import os
import shutil

import pytest

from evalkit import data
from evalkit.cli import invoke
from evalkit.data.scan import Scan
from evalkit.data.splits import check_splits
from evalkit.errors import EvalkitError

from .cases import Case
from .make import folders, put, run_folder, splits, training

KIND = "Image folders that hold other than what they seem"


def link(folder, places):
    """Class folders a and b with a link from one place to another."""
    root, (at, target) = folders(folder / "data"), places
    (root / at).symlink_to(target, target_is_directory=True)
    return data.folder(root)


def two_links(folder):
    root = folders(folder / "data")
    (root / "a" / "x").mkdir()
    (root / "b" / "y").mkdir()
    (root / "a" / "x" / "l").symlink_to("../../b/y")
    (root / "b" / "y" / "l").symlink_to("../../a/x")
    return data.folder(root)


def link_out(folder):
    """A class folder may lie elsewhere; its images count once."""
    root = folders(folder / "data", "a")
    folders(folder / "elsewhere", "b")
    (root / "b").symlink_to(folder / "elsewhere" / "b")
    assert len(data.folder(root)) == 8


def to_itself(folder):
    """A link to itself that is called an image is one that cannot be read."""
    root = folders(folder / "data")
    (root / "a" / "loop.png").symlink_to("loop.png")
    (root / "a" / "loop").symlink_to("loop")
    images = data.folder(root)
    return unreadable(images, "a/loop.png")


def unreadable(images, id):
    with pytest.raises(EvalkitError) as e:
        images.read(images.ids.index(id))
    return 1, str(e.value)


def nowhere(folder):
    root = folders(folder / "data")
    (root / "a" / "gone.jpg").symlink_to("/no/such/file.jpg")
    return unreadable(data.folder(root), "a/gone.jpg")


def fifo(folder):
    root = folders(folder / "data")
    os.mkfifo(root / "b" / "pipe.png")
    return unreadable(data.folder(root), "b/pipe.png")


def trained_with_fifo(folder):
    root = splits(folder / "data")
    os.mkfifo(root / "val" / "b" / "pipe.png")
    return invoke(training(root))


def with_litter(folder, name):
    """Thumbnails that storage keeps beside images are none of the class, and that is said."""
    root = folders(folder / "data")
    put(root / "a" / name / "0.jpg")
    put(root / name / "1.jpg")
    images = data.folder(root)
    assert len(images) == 8 and images.classes == ["a", "b"]
    return images.remarks[0]


def passed_over(folder, name):
    root = folders(folder / "data")
    shutil.copy(root / "a" / "0.png", root / "a" / name)
    images = data.folder(root)
    assert len(images) == 8
    return images.remarks[0]


def beside(folder):
    root = folders(folder / "data")
    put(root / "stray.png")
    return data.folder(root).remarks[0]


def file_links(folder):
    root = folders(folder / "data")
    (root / "b" / "same.png").symlink_to("../a/0.png")
    return data.folder(root).remarks[0]


def shared_store(folder):
    root = folders(folder / "data")
    put(folder / "store" / "x.png")
    for at in ("a/x.png", "b/x.png", "b/y.png"):
        (root / at).symlink_to(folder / "store" / "x.png")
    return data.folder(root).remarks[0]


def val_is_train(folder):
    root = folder / "data"
    folders(root / "train")
    (root / "val").symlink_to("train")
    return invoke(training(root))


def val_copies_train(folder):
    root = folder / "data"
    folders(root / "train")
    shutil.copytree(root / "train", root / "val")
    return invoke(training(root))


def val_hard_links(folder):
    root = folder / "data"
    shutil.copytree(folders(root / "train"), root / "val", copy_function=os.link)
    return invoke(training(root))


def val_shares(folder):
    """Some validation images are training images under another name."""
    root = splits(folder / "data")
    shutil.copy(root / "train" / "a" / "0.png", root / "val" / "a" / "new.png")
    assert invoke(training(root))[0] == 0
    return (folder / "run" / "results.jsonl").read_text()


def one_class(folder):
    return invoke(training(splits(folder / "data", "a")))


def not_allowed(folder):
    root = folders(folder / "data")
    (root / "a").chmod(0)
    try:
        if os.access(root / "a", os.R_OK):  # whoever may read everything
            raise EvalkitError(f"cannot read the data folder {root / 'a'}")
        return data.folder(root)
    finally:
        (root / "a").chmod(0o755)


def evaluated(folder, spoil):
    """`evalkit eval` of a folder says what it passed over."""
    root, run = folders(folder / "data"), run_folder(folder / "run")
    spoil(root)
    code, line = invoke(
        ["eval", str(run), "--data", str(root), "device=cpu", "workers=0", "--out", str(folder / "out")]
    )
    assert code in (0, 2), line
    return (folder / "out" / "results.jsonl").read_text()


def attacked(folder, spoil):
    """`evalkit robustness` of a folder says of its labels what eval says."""
    root, run = folders(folder / "data"), run_folder(folder / "run")
    spoil(root)
    command = ["robustness", "fgsm", str(run), "--data", str(root), "eps=[2]", "device=cpu", "workers=0"]
    code, line = invoke([*command, "--out", str(folder / "out")])
    assert code == 0, line
    return (folder / "out" / "results.jsonl").read_text()


def checked(folder, spoil):
    """What training is told of splits."""
    root = splits(folder / "data")
    spoil(root / "train")
    return "; ".join(
        check_splits(*(data.load("folder", s, root=str(root)) for s in ("train", "val")), ("train", "val"))
    )


# labels that contradict: what is done to a folder of the classes a and b, and what is said
CONTRADICTIONS = {
    "the class folder b within a": (
        lambda root: folders(root / "a", "b", seed=70),
        "4 images lie in a/b and count as a",
    ),
    "the class folder b deep within a": (
        lambda root: folders(root / "a" / "b" / "more", "x", 2, seed=70),
        "2 images lie in a/b/more/x and count as a",
    ),
    "an image under two classes": (
        lambda root: shutil.copy(root / "a" / "0.png", root / "b" / "9.png"),
        "1 [a-z ]*images stand under two classes, e.g. a/0.png and b/9.png",
    ),
}


def in_both(folder, change):
    """What is said of two splits in which something was changed."""
    root = splits(folder / "data")
    change(root)
    return in_both_of(root)


def renamed(folder, names):
    """The class a is called otherwise in one of the splits."""
    one, other = names
    root = splits(folder / "data")
    (root / "train" / "a").rename(root / "train" / one)
    (root / "val" / "a").rename(root / "val" / other)
    return in_both_of(root)


def in_both_of(root):
    train, val = (data.load("folder", split, root=str(root)) for split in ("train", "val"))
    return "; ".join(check_splits(train, val, ("train", "val")))


def evaluated_renamed(folder, names):
    """A folder whose class looks like that of the checkpoint."""
    run, root = run_folder(folder / "run", [names[0], "b"]), folders(folder / "data", [names[1], "b"])
    return invoke(["eval", str(run), "--data", str(root), "device=cpu", "workers=0", "--out", str(folder / "out")])


def also_called(*names):
    """Both splits have classes of these names."""
    return lambda root: [folders(root / s, names, 2, 7 + 999 * len(s)) for s in ("train", "val")]


def copied(split, how):
    return lambda root: how(root / split / "a" / "0.png", root / split / "a" / "0 (1).png")


SEEMING = {
    "composed letters, not composed": ("caf\u00e9", "cafe\u0301"),
    "a blank behind it": ("a", "a "),
    "a full stop behind it": ("a", "a."),
    "another case": ("cat", "Cat"),
    "a sign without width": ("a", "a\u200b"),
    "wide letters": ("a1", "\uff41\uff11"),
}
BESIDE = ("c.zip", "c.tar", "c.tar.gz", "x.gif", "x.heic", "x.jfif", "x.avif")


def labelled(folder, text):
    """A folder of two images without class folders, and the file that names their classes."""
    run, root = run_folder(folder / "run", "abc"), folder / "data"
    for i in (1, 2):
        put(root / f"{i}.png", i)
    (folder / "labels.txt").write_text(text)
    command = ["robustness", "imagenet-val", str(run), "--data", str(root), f"val_labels={folder / 'labels.txt'}"]
    code, line = invoke([*command, "device=cpu", "workers=0", "--out", str(folder / "out")])
    return (code, line) if code else (folder / "out" / "results.jsonl").read_text()


CASES = [
    Case("a labels file that counts from 1", labelled, says="positions count from 0", argument="1.png 1\n2.png 2\n"),
    Case(
        "a labels file of more images than there are",
        labelled,
        "1 lines of the labels file are of no image",
        "said",
        "1.png a\n2.png b\n3.png b\n",
    ),
    *(
        Case(f"a class that only looks the same, {what}, {command}", meet, says=says, argument=names)
        for what, names in SEEMING.items()
        for command, meet, says in (
            ("train", renamed, "which only look the same"),
            ("eval", evaluated_renamed, "though the two look the same"),
        )
    ),
    *(
        Case(f"two classes of one look, {what}", in_both, "their names look the same", "said", also_called(*names))
        for what, names in SEEMING.items()
    ),
    *(
        Case(
            f"{what} within a class, {split}", in_both, "1 .* images are copies of another", "said", copied(split, how)
        )
        for split in ("train", "val")
        for what, how in (("a copy", shutil.copy), ("a hard link", os.link))
    ),
    Case(
        "copies within a class, eval",
        evaluated,
        "1 images are copies of another",
        "said",
        lambda root: os.link(root / "a" / "0.png", root / "a" / "9.png"),
    ),
    Case("a hidden class folder", in_both, "1 hidden folders", "said", also_called(".c")),
    Case(
        "copies in .ipynb_checkpoints",
        in_both,
        "1 hidden folders",
        "said",
        lambda root: put(root / "val" / "a" / ".ipynb_checkpoints" / "0.png"),
    ),
    *(
        Case(
            f"{name} beside the class folders",
            in_both,
            "1 .* beside the class folders",
            "said",
            lambda root, name=name: (root / "train" / name).write_bytes(b""),
        )
        for name in BESIDE
    ),
    *(
        Case(f"{what}, {command}", meet, says=says, fate="said", argument=spoil)
        for what, (spoil, says) in CONTRADICTIONS.items()
        for command, meet in (("eval", evaluated), ("robustness", attacked), ("train", checked))
    ),
    *(
        Case(f"a link {at} to {target}", link, says="would count twice; remove the link", argument=(at, target))
        for at, target in (
            ("a/up", ".."),
            ("a/self", "."),
            ("a/top", "../.."),
            ("b/other", "../a"),
            ("c", "a"),
            ("aa", "b"),
            ("b/deep", "../a/../a"),
            ("a/root", "/"),
        )
    ),
    Case("two links at each other", two_links, says="would count twice"),
    Case("a class folder that is a link to elsewhere", link_out, fate="mended"),
    Case("a link to itself called an image", to_itself, says="cannot read image a/loop.png"),
    Case("an image that is a link to nothing", nowhere, says="cannot read image a/gone.jpg"),
    Case("a FIFO called an image", fifo, says="not a regular file"),
    Case("training with a FIFO among the images", trained_with_fifo, says="not a regular file"),
    *(
        Case(f"a folder {name}", with_litter, says=f"folders {name.replace('$', '.')}", fate="said", argument=name)
        for name in ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN")
    ),
    *(
        Case(f"an image called {name}", passed_over, says=says, fate="said", argument=name)
        for name, says in (
            ("x.gif", "1 .gif"),
            ("x.jfif", "1 .jfif"),
            ("IMG_0001", "1 without a suffix"),
            ("x.heic", "1 .heic"),
            ("x.png.part", "1 .part"),
            ("._0.png", "1 hidden"),
        )
    ),
    Case("an image beside the class folders", beside, says="1 images beside the class folders", fate="said"),
    Case("a link to an image of another class", file_links, says="1 images are links", fate="said"),
    Case("three links to one file", shared_store, says="2 images are links", fate="said"),
    Case("val as a link to train", val_is_train, says="hold the same images"),
    Case("val as a copy of train", val_copies_train, says="hold the same images"),
    Case("val as hard links to train", val_hard_links, says="hold the same images"),
    Case("a validation image that is a training image", val_shares, says="1 of the 9 validation images", fate="said"),
    Case("a single class", one_class, says="has a single class, 'a'"),
    Case("a class folder that may not be read", not_allowed, says="cannot read the data folder"),
    Case(
        "eval of a folder with a .gif",
        evaluated,
        says="1 .gif",
        fate="said",
        argument=lambda root: shutil.copy(root / "a" / "0.png", root / "a" / "x.gif"),
    ),
    Case(
        "eval of a folder with @eaDir",
        evaluated,
        says="folders @eaDir",
        fate="said",
        argument=lambda root: put(root / "a" / "@eaDir" / "t.jpg"),
    ),
    Case(
        "eval of a folder with a FIFO",
        evaluated,
        says="unreadable: b/pipe.png: not a regular file",
        fate="said",
        argument=lambda root: os.mkfifo(root / "b" / "pipe.png"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_an_ordinary_folder_has_no_remarks(tmp_path):
    root = folders(tmp_path)
    (root / "a" / "Thumbs.db").write_text("")
    (root / ".DS_Store").write_text("")
    assert data.folder(root).remarks == [] and Scan(root).remarks() == []
