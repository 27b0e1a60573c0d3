"""Fast decoding against Pillow's: the same pixels from every kind of file, resized within what is stated."""

from io import BytesIO

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from evalkit.data import decode
from evalkit.data import transforms as T
from evalkit.data.decode import as_image, as_pixels, encoded, jpeg_size, planar, resize, to_image, to_pixels, to_tensor
from evalkit.data.embedded import photos
from evalkit.data.folders import folder
from evalkit.data.images import ArrayImages, BadImage, Subset
from evalkit.errors import EvalkitError

from .test_transforms import RA, keys


def saved(image, kind="JPEG", **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PHOTO = next(iter(photos().values())).resize((211, 157))
FILES = {
    "jpeg": saved(PHOTO, quality=93),
    "444": saved(PHOTO, quality=90, subsampling=0),
    "422": saved(PHOTO, quality=70, subsampling=1),
    "progressive": saved(PHOTO, quality=80, progressive=True),
    "grey": saved(PHOTO.convert("L")),
    "cmyk": saved(PHOTO.convert("CMYK")),
    "rgb jpeg": saved(PHOTO, keep_rgb=True),
    "turned": saved(PHOTO, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    "png": saved(PHOTO, "PNG"),
    "palette": saved(PHOTO.convert("P"), "PNG"),
    "one pixel": saved(PHOTO.resize((1, 1))),
    "odd": saved(PHOTO.resize((17, 3)), progressive=True),
    "optimised": saved(PHOTO, optimize=True, comment=b"made here"),
    "restarts": saved(PHOTO, restart_marker_blocks=5),
    "grey progressive": saved(PHOTO.convert("L"), progressive=True),
    "trailing bytes": saved(PHOTO) + b"more",
}
# of Adobe's marker the last byte says how colours are stored: 2 for YCCK
FILES["ycck"] = FILES["cmyk"].replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")
FILES["large"] = saved(next(iter(photos().values())), quality=97)  # more bytes than Pillow feeds to libjpeg at once


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_pillows(kind):
    fast, exact = as_pixels(FILES[kind], "a"), as_image(FILES[kind], "a")
    assert fast.dtype == torch.uint8 and np.array_equal(fast.permute(1, 2, 0).numpy(), np.asarray(exact))


@pytest.mark.parametrize("data", [b"", b"no image", FILES["jpeg"][:40], FILES["jpeg"][:4000], FILES["png"][:300]])
def test_what_pillow_refuses_is_refused_in_its_words(data):
    with pytest.raises(BadImage) as exact:
        as_image(data, "a/b.jpg")
    with pytest.raises(BadImage) as fast:
        as_pixels(data, "a/b.jpg")
    assert str(fast.value) == str(exact.value)


def damaged(data, rng):
    """What may become of a file: bits flipped, bytes lost, added, zeroed, markers in between, its end cut off."""
    file, at = bytearray(data), int(rng.integers(len(data)))
    kind = rng.integers(7)
    if kind <= 1:
        for place in rng.integers(len(file) if kind else min(700, len(file)), size=rng.choice([1, 2, 16])):
            file[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del file[at : at + int(rng.choice([1, 2, 50]))]
    elif kind == 3:
        file[at:at] = rng.bytes(int(rng.choice([1, 3, 40])))
    elif kind == 4:
        file[at : at + 50] = bytes(len(file[at : at + 50]))
    elif kind == 5:
        file[at : at + 2] = bytes([0xFF, rng.choice([0xD8, 0xD9, 0xDA, 0xD0, 0xD3, 0xC4, 0xDC, 0xE1, 0x01, 0, 0xFF])])
    else:
        del file[at if rng.random() < 0.5 else -int(rng.integers(1, 40)) :]
    return bytes(file)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_are_pillows_too(kind):
    """Of every file that Pillow decodes, however damaged, fast decoding makes the same pixels; it refuses the others,
    in the same words."""
    for seed in range(40):
        data = damaged(FILES[kind], np.random.default_rng(seed))
        try:
            exact = np.asarray(as_image(data, "a"))
        except BadImage as e:
            with pytest.raises(BadImage) as fast:
                as_pixels(data, "a")
            assert str(fast.value) == str(e), seed
        else:
            assert np.array_equal(as_pixels(data, "a").permute(1, 2, 0).numpy(), exact), seed


def test_the_fast_decoder_is_used_for_plain_jpegs_alone(monkeypatch):
    assert torchvision.io.ImageReadMode.RGB.value == decode.RGB
    monkeypatch.setattr(decode, "as_image", None)  # Pillow's way
    for kind in set(FILES) - {"cmyk", "ycck", "png", "palette"}:
        assert as_pixels(FILES[kind], "a").shape[1:] == jpeg_size(FILES[kind])[::-1]
    for kind in ("cmyk", "ycck", "png", "palette"):
        assert jpeg_size(FILES[kind]) is None
        with pytest.raises(TypeError):
            as_pixels(FILES[kind], "a")


def test_bombs_are_left_to_pillow(monkeypatch):
    huge = FILES["jpeg"].replace(b"\xff\xc0\0\x11\x08\0\x9d\0\xd3", b"\xff\xc0\0\x11\x08\xff\xdc\xff\xdc")
    long = FILES["jpeg"].replace(b"\xff\xc0\0\x11\x08\0\x9d\0\xd3", b"\xff\xc0\0\x11\x08\0\1\xff\xdc")
    assert jpeg_size(huge) == (65500, 65500) and jpeg_size(long) == (65500, 1)
    monkeypatch.setattr(torch.ops, "image", None)  # nothing of that size is made
    for data in (huge, long):
        with pytest.raises(BadImage, match=r"decompression bomb|too many, or too long and thin") as fast:
            as_pixels(data, "a")
        with pytest.raises(BadImage) as exact:
            as_image(data, "a")
        assert str(fast.value) == str(exact.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImage, match="decompression bomb"):
        as_pixels(FILES["jpeg"], "a")


def test_a_torchvision_without_decoder_is_refused(monkeypatch):
    decode.check("fast", "bicubic")
    monkeypatch.setattr(torch.ops, "image", object())
    decode.check("exact", "bicubic")
    with pytest.raises(EvalkitError, match=r"needs the JPEG decoder of torchvision, .* use decode=exact"):
        decode.check("fast", "bicubic")


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resize_is_pillows_within_two_levels(interpolation):
    apart, views = [], [((0, 0, 640, 427), (224, 224)), ((50, 60, 190, 160), (224, 224)), ((9, 9, 400, 90), (64, 96))]
    for photo in photos().values():
        for (left, top, right, bottom), size in views:
            exact = photo.crop((left, top, right, bottom)).resize(size, T.INTERPOLATIONS[interpolation])
            cut = T.cut(to_pixels(photo), left, top, right - left, bottom - top)
            got = resize(cut, *size, interpolation).permute(1, 2, 0).numpy()
            apart.append(np.abs(got.astype(int) - np.asarray(exact)).ravel())
    apart = np.concatenate(apart)
    assert (apart > 2).mean() < 1e-4 and apart.mean() < 0.1 and apart.max() <= 5


def test_conversions_are_exact():
    pixels = to_tensor(PHOTO)
    assert pixels.is_contiguous() and np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(PHOTO))
    assert torch.equal(to_pixels(PHOTO), pixels)
    for one in (pixels, to_pixels(PHOTO), pixels.flip(-1), pixels[:, 3:9, 4:50]):
        assert np.array_equal(np.asarray(to_image(one)), one.permute(1, 2, 0).numpy())
        assert planar(one.permute(1, 2, 0).numpy()).is_contiguous()
        assert torch.equal(planar(one.permute(1, 2, 0).numpy()), one)
    assert torch.equal(planar(np.array([[[1, 2, 3]]], np.uint8)), torch.tensor([[[1]], [[2]], [[3]]]))


@pytest.mark.parametrize("settings", [{"augment": "rrc"}, {"augment": "none"}, {"augment": "pad-crop-flip"}])
@pytest.mark.parametrize("more", [{}, {"auto_augment": RA}, {"color_jitter": 0.3, "erasing": 0.5}])
def test_fast_training_images_show_what_exact_ones_show(settings, more):
    exact, fast = (T.TrainTransform(keys(**settings, **more, image_size=64, decode=d)) for d in ("exact", "fast"))
    for seed in range(12):
        a = exact.sample(exact.decoded(FILES["jpeg"], "a"), np.random.default_rng(seed))
        b = fast.sample(fast.decoded(FILES["jpeg"], "a"), np.random.default_rng(seed))
        assert a.view == b.view and a.erase == b.erase and a.augment == b.augment == [] and b.pixels.is_contiguous()
        # two levels may become many where an operation has steps (posterize, solarize, equalize)
        assert np.median(np.abs(a.pixels.int() - b.pixels.int())) <= 1 or more.get("auto_augment")
        assert (
            not more.get("auto_augment")
            or np.corrcoef(a.pixels.flatten(), b.pixels.flatten())[0, 1] > 0.98
            or (a.pixels.float().std() < 1)
        )


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(EvalkitError, match="decode=fast has no interpolation=lanczos"):
        T.TrainTransform(keys(decode="fast", interpolation="lanczos"))
    with pytest.raises(EvalkitError, match="Desaturate .* use augment_device=cpu"):
        T.TrainTransform(keys(auto_augment="rand-m9-t3a", augment_device="device"))


def test_the_files_of_a_set(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(FILES["jpeg"])
    images = folder(tmp_path)
    assert encoded(images, 0) == encoded(Subset(images, [0]), 0) == FILES["jpeg"]
    assert encoded(ArrayImages("x", ["0"], [0], ["c"], np.zeros((1, 2, 2, 3), np.uint8)), 0) is None
    (tmp_path / "a/1.jpg").unlink()
    with pytest.raises(BadImage, match=r"a/1.jpg: No such file"):
        encoded(images, 0)
