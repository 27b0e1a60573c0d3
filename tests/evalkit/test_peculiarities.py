"""What an image file holds more than Pillow's conversion keeps, and damage that must not pass as a picture."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from evalkit.data.images import BadImage, decode, peculiar

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 255, (9, 7, 3), dtype=np.uint8)


def png(bits, colours, pixels):
    def part(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, colours, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b"")


def ppm(kind, most, shape):
    return f"{kind} 7 9 {most}\n".encode() + RNG.integers(0, most + 1, (9, 7, *shape)).astype(">u2").tobytes()


@pytest.mark.parametrize(
    "content, notes",
    [
        (png(16, 2, RNG.integers(0, 65_536, (9, 7, 3)).astype(">u2")), ["rgb16_cut_to_8_bits"]),
        (png(16, 6, RNG.integers(0, 65_536, (9, 7, 4)).astype(">u2")), ["alpha_dropped", "rgb16_cut_to_8_bits"]),
        (png(16, 0, RNG.integers(0, 65_536, (9, 7, 1)).astype(">u2")), ["grey16_saturated"]),
        (png(8, 2, RGB), []),
        (ppm("P6", 65_535, (3,)), ["rgb16_cut_to_8_bits"]),
        (ppm("P5", 1023, ()), ["grey16_saturated"]),
        (b"P6 7 9 255\n" + RGB.tobytes(), []),
    ],
)
def test_more_bits_than_are_kept(content, notes):
    assert decode(BytesIO(content), "x").info["notes"] == notes and peculiar(BytesIO(content)) == notes


def test_a_colour_profile_is_named_unless_it_is_srgb():
    def with_profile(name, format):
        out = BytesIO()
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()
        Image.fromarray(RGB).save(out, format, icc_profile=profile)
        return BytesIO(out.getvalue())

    for format in ("PNG", "JPEG", "TIFF", "WEBP"):
        assert decode(with_profile("LAB", format), "x").info["notes"] == ["colour_profile_ignored"], format
        assert decode(with_profile("sRGB", format), "x").info["notes"] == [], format


def test_no_damaged_png_passes_as_a_picture():
    """Wherever one bit of its compressed pixels is another: looking for the orientation must not hide it."""
    whole = png(8, 2, RGB)
    begin, end, refused = whole.index(b"IDAT") + 4, whole.index(b"IEND") - 8, []
    for at in range(begin, end):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        try:
            found = np.asarray(decode(BytesIO(damaged), "x"))
        except BadImage:
            refused.append(at)
        else:  # a bit that says nothing
            assert np.array_equal(found, RGB)
    assert len(refused) > 0.99 * (end - begin)
