"""What is said of decoding is what OpenCV does, and maps are read until every class was seen."""

import numpy as np
import pytest
from PIL import Image

from evalkit.downstream.decoding import absent, survey

cv2 = pytest.importorskip("cv2")
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 255, (8, 6, 3), dtype=np.uint8)


def test_notes_name_what_opencv_does(tmp_path):
    grey = RNG.integers(0, 60_000, (8, 8), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey16_cut_to_8_bits.png")
    Image.fromarray(np.dstack([RGB, RGB[..., 0]])).save(tmp_path / "alpha_dropped.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "exif_orientation_applied.jpg", exif=exif)
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "cmyk_converted.jpg", quality=95)
    Image.fromarray(RGB).save(tmp_path / "plain.png")
    paths = sorted(tmp_path.iterdir())
    assert survey(list(map(str, paths)), "val") == [f"{p.stem} in 1 of the 5 val images" for p in paths[:4]]
    read = {path.stem: cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1] for path in paths}
    assert np.array_equal(read["grey16_cut_to_8_bits"][..., 0], grey >> 8)
    assert np.array_equal(read["alpha_dropped"], RGB)
    assert read["exif_orientation_applied"].shape == (6, 8, 3)
    pillow = np.asarray(Image.open(tmp_path / "cmyk_converted.jpg").convert("RGB"), dtype=int)
    assert np.abs(read["cmyk_converted"] - pillow).max() <= 1


def test_large_splits_are_looked_at_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.downstream.decoding.SURVEYED", 3)
    for i in range(9):
        Image.fromarray(np.dstack([RGB, RGB[..., 0]])).save(tmp_path / f"{i}.png")
    assert survey([str(p) for p in sorted(tmp_path.iterdir())], "train") == [
        "alpha_dropped in 3 of the 3 train images looked at"
    ]


def test_classes_that_no_map_holds(tmp_path):
    paths = []
    for i, labels in enumerate(([0, 255], [2, 0], [0, 0])):
        Image.fromarray(np.array([labels], dtype=np.uint8)).save(tmp_path / f"{i}.png")
        paths.append(str(tmp_path / f"{i}.png"))
    assert absent(paths, ["a", "b", "c"], "val") == [
        "no val label map holds 1 of the 3 classes, so they are not measured: b"
    ]
    assert absent([paths[1], "nowhere"], ["a", "b", "c"], "train") == []
    assert absent([*paths, "nowhere"], ["a", "", "c"], "train") == []
    assert absent([paths[0], "nowhere"], ["a"], "train") == []  # all were seen: no further map is read
