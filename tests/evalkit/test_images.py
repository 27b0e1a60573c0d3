"""Decoding against what Pillow's plain conversion is known to do, and the base class of every data set."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from evalkit.data.images import ArrayImages, BadImage, Images, Subset, decode
from evalkit.errors import EvalkitError


def saved(tmp_path, image, name="x.png", **kwargs):
    image.save(tmp_path / name, **kwargs)
    return tmp_path / name


def test_colour_modes_become_rgb(tmp_path):
    red = Image.new("RGB", (5, 4), (255, 0, 0))
    for mode, expected in (("P", (255, 0, 0)), ("L", (76, 76, 76)), ("LA", (76, 76, 76)), ("1", (0, 0, 0))):
        image = decode(saved(tmp_path, red.convert(mode, dither=Image.Dither.NONE)), "x")
        assert image.mode == "RGB" and image.size == (5, 4) and image.getpixel((0, 0)) == expected, mode


def test_alpha_is_dropped_and_the_hidden_colour_shows(tmp_path):
    image = decode(saved(tmp_path, Image.new("RGBA", (2, 2), (200, 10, 30, 0))), "x")
    assert image.getpixel((1, 1)) == (200, 10, 30)
    assert image.info["notes"] == ["alpha_dropped"]
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    image = decode(saved(tmp_path, palette, transparency=1), "x")
    assert image.getpixel((0, 0)) == (9, 8, 7) and image.info["notes"] == ["alpha_dropped"]


def test_cmyk_jpeg_is_converted_naively(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "x.jpg", quality=100)
    image = decode(path, "x")
    assert image.info["notes"] == ["cmyk_converted"]
    assert np.abs(np.array(image.getpixel((4, 4))) - (0, 255, 255)).max() <= 1


@pytest.mark.parametrize("name", ["x.png", "x.tiff"])
def test_16_bit_grey_saturates(tmp_path, name):
    ramp = np.array([[0, 100, 255, 256, 40000]], dtype=np.uint16)
    image = decode(saved(tmp_path, Image.fromarray(ramp), name), "x")
    assert np.asarray(image)[0, :, 0].tolist() == [0, 100, 255, 255, 255]
    assert image.info["notes"] == ["grey16_saturated"]


def test_exif_orientation_is_ignored_but_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode(saved(tmp_path, Image.new("RGB", (6, 3)), "x.jpg", exif=exif), "x")
    assert image.size == (6, 3) and image.info["notes"] == ["exif_orientation_ignored"]
    exif[0x0112] = 1
    assert decode(saved(tmp_path, Image.new("RGB", (6, 3)), "x.jpg", exif=exif), "x").info["notes"] == []


def test_damaged_exif_does_not_make_a_picture_unreadable(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (6, 3)), "x.jpg", exif=b"Exif\0\0II*\0" + b"\xff" * 20)
    assert decode(path, "x").size == (6, 3)


def test_one_pixel_and_extreme_shapes_are_read(tmp_path):
    assert decode(saved(tmp_path, Image.new("RGB", (1, 1))), "x").size == (1, 1)
    assert decode(saved(tmp_path, Image.new("L", (2000, 100))), "x").size == (2000, 100)


def bomb() -> bytes:
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )


def test_unreadable_files_are_named_in_one_line(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(tmp_path, Image.fromarray(noise), "whole.jpg").read_bytes()
    png = saved(tmp_path, Image.fromarray(noise), "whole.png").read_bytes()
    cases = {
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "cut.png": (png[: len(png) // 2], ""),
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"hello, I am no image", "not an image"),
        "bomb.png": (bomb(), "decompression bomb"),
    }
    for name, (data, reason) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImage) as e:
            decode(tmp_path / name, f"class/{name}")
        assert e.value.id == f"class/{name}" and reason in e.value.reason and e.value.reason
        assert f"class/{name}" in str(e.value) and "\n" not in str(e.value) and isinstance(e.value, EvalkitError)
    with pytest.raises(BadImage, match="No such file"):
        decode(tmp_path / "gone.jpg", "gone.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_bad_image_survives_pickling():
    error = pickle.loads(pickle.dumps(BadImage("a/b.jpg", "empty file")))
    assert (error.id, error.reason) == ("a/b.jpg", "empty file") and "a/b.jpg" in str(error)


def three(pixels=None, ids=("b", "a", "c")):
    return ArrayImages(
        "three", list(ids), [1, 0, -1], ["x", "y"], np.zeros((3, 2, 2, 3), np.uint8) if pixels is None else pixels
    )


def test_array_images():
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)
    images = three(pixels)
    assert len(images) == 3 and images.native_size == 2 and images.labels.dtype == np.int64
    assert np.array_equal(np.asarray(images.read(1)), pixels[1])


def test_fingerprint_is_about_ids_label_names_and_pixels():
    class Grey(Images):
        def read(self, i):
            return Image.new("RGB", (2, 2))

    def plain(ids, labels, classes):
        return Grey("any", ids, labels, classes).fingerprint

    same = plain(["a", "b"], [0, 1], ["x", "y"])
    assert same == plain(["b", "a"], [0, 1], ["y", "x"])  # order of files and of classes does not matter
    assert same != plain(["a", "b"], [1, 0], ["x", "y"]) and same != plain(["a", "c"], [0, 1], ["x", "y"])
    assert same.startswith("content-sample:") and three().fingerprint.startswith("content-full:")
    assert three().fingerprint == three().fingerprint != three(np.ones((3, 2, 2, 3), np.uint8)).fingerprint


def test_subset_keeps_ids_labels_and_foreground():
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)
    images = three(pixels)
    images.foreground = pixels[..., 0] > 12
    part = Subset(images, [2, 0])
    assert part.ids == ["c", "b"] and part.labels.tolist() == [-1, 1] and part.native_size == 2
    assert np.array_equal(np.asarray(part.read(0)), pixels[2]) and np.array_equal(
        part.foreground, images.foreground[[2, 0]]
    )
    assert part.fingerprint not in (images.fingerprint, Subset(three(), [2, 0]).fingerprint)


def test_wrong_ids_and_labels_are_refused():
    with pytest.raises(ValueError, match="unique"):
        three(ids=("a", "a", "b"))
    with pytest.raises(ValueError, match="labels"):
        Images("any", ["a"], [2], ["x", "y"])
    with pytest.raises(ValueError, match="labels"):
        Images("any", ["a"], [0, 1], ["x", "y"])
