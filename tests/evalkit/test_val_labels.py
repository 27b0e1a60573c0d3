"""Labels of a flat validation folder: every format people have, and a line for each thing that is wrong with one."""

import numpy as np
import pytest
from scipy.io import savemat
from timm.data import ImageNetInfo

from evalkit.data.val_labels import read_val_labels
from evalkit.errors import EvalkitError

IMAGENET = ImageNetInfo().label_names()
ONE, TWO = "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"
EXPECTED = {ONE: IMAGENET[65], TWO: IMAGENET[970]}


@pytest.mark.parametrize(
    "text",
    [
        f"{ONE},{IMAGENET[65]}\n{TWO},{IMAGENET[970]}\n",
        f"{ONE} {IMAGENET[65]}\n\n{TWO}\t{IMAGENET[970]}",
        f"{ONE} 65\n{TWO} 970\n",  # Caffe's and OpenMMLab's val.txt
        f"val/{ONE} 65\nval/{TWO} 970\n",
        f"name,wnid\r\n{ONE}, {IMAGENET[65]}\r\n{TWO}, {IMAGENET[970]}\r\n",
        # Kaggle's
        (
            f"ImageId,PredictionString\n{ONE[:-5]},{IMAGENET[65]} 85 1 499 272\n{TWO[:-5]},{IMAGENET[970]} 1 2 3 4"
            f" {IMAGENET[3]} 5 6 7 8\n"
        ),
    ],
)
def test_names_with_wordnet_ids_or_positions(tmp_path, text):
    (tmp_path / "val.txt").write_text(text)
    assert read_val_labels(tmp_path / "val.txt", IMAGENET) == EXPECTED


def test_positions_are_those_of_the_sorted_classes_whatever_order_the_model_has(tmp_path):
    (tmp_path / "val.txt").write_text(f"{ONE} 65\n{TWO} 970\n")
    assert read_val_labels(tmp_path / "val.txt", IMAGENET[::-1]) == EXPECTED


def write_kit(folder, numbers, order):
    """A development kit: classes in an order of its own, then synsets that are no classes (num_children > 0), as in the
    real one."""
    kinds = [("ILSVRC2012_ID", "<i4"), ("WNID", "O"), ("words", "O"), ("num_children", "<i4")]
    rows = [(i, wnid, "words", 0) for i, wnid in enumerate(order, start=1)] + [
        (len(order) + 1, "n00001740", "entity", 3)
    ]
    synsets = np.empty((len(rows), 1), dtype=kinds)
    for i, row in enumerate(rows):
        synsets[i, 0] = row
    savemat(folder / "meta.mat", {"synsets": synsets})
    path = folder / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("\n".join(map(str, numbers)) + "\n")
    return path


def test_the_kits_numbers_mean_what_its_meta_file_says(tmp_path):
    """They are not positions among the sorted ids: with this kit 1 is the last class."""
    order = IMAGENET[::-1]
    path = write_kit(tmp_path, [1, 1000, 36], order)
    got = read_val_labels(path, IMAGENET)
    assert list(got.items()) == [
        (f"ILSVRC2012_val_{i:08d}.JPEG", w) for i, w in enumerate((order[0], order[999], order[35]), start=1)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (
            f"{ONE} n99999999",
            (
                r"line 1: the class 'n99999999' is none of the 1000; expected a file name and a WordNet id or a number"
                r" from 0 to 999"
            ),
        ),
        (f"{ONE} 65\n{TWO} 1000", "line 2: the class '1000' is none of the 1000"),
        (f"{ONE} 65\n{TWO}", "line 2: there is no class"),
        (f"{ONE} 65\nvalue label", "line 2: the class 'label' is none of"),
        (f"{ONE} 65\n{ONE} 66", f"line 2: {ONE} was '{IMAGENET[65]}' on an earlier line and is '{IMAGENET[66]}' here"),
        (
            "490\n361\n",
            "holds the numbers of the development kit, which meta.mat explains; put the kit's data/meta.mat beside it",
        ),
    ],
)
def test_one_clear_line(tmp_path, text, message):
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(EvalkitError, match=message) as e:
        read_val_labels(tmp_path / "val.txt", IMAGENET)
    assert "\n" not in str(e.value)


def test_broken_kits(tmp_path):
    path = write_kit(tmp_path, [1, 1001], IMAGENET)
    with pytest.raises(EvalkitError, match="line 2: meta.mat knows no class 1001"):  # a synset, but not one of the 1000
        read_val_labels(path, IMAGENET)
    (tmp_path / "meta.mat").write_bytes(b"nothing of the kind")
    with pytest.raises(EvalkitError, match="is not the meta.mat of the ILSVRC2012 development kit"):
        read_val_labels(path, IMAGENET)
    with pytest.raises(EvalkitError, match="cannot read the labels file .*none.txt: No such file"):
        read_val_labels(tmp_path / "none.txt", IMAGENET)


def test_positions_that_seem_to_count_from_1_are_refused(tmp_path):
    """Every image would be of the class before its own."""
    (tmp_path / "val.txt").write_text(f"{ONE} 1\n{TWO} 2\n")
    with pytest.raises(EvalkitError, match="numbers classes from 1 on, but positions count from 0: subtract 1"):
        read_val_labels(tmp_path / "val.txt", IMAGENET)


def test_the_mark_of_windows_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "val.txt").write_bytes(f"\ufeff{ONE} 65\r\n{TWO} 970\r\n".encode())
    assert read_val_labels(tmp_path / "val.txt", IMAGENET) == EXPECTED
