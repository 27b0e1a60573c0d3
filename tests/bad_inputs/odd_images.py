"""Pictures that a decoder turns into something else: each function writes one, `odd.*`, into a folder."""

import struct
import zlib
from functools import partial

import cv2
import numpy as np
from PIL import Image, ImageCms

RNG = np.random.default_rng(1)
RGB = RNG.integers(0, 255, (32, 32, 3), dtype=np.uint8)


def grey16(path):
    Image.fromarray(RNG.integers(0, 60_000, (32, 32), dtype=np.uint16)).save(path / "odd.png")


def floats(path):
    Image.fromarray(RNG.random((32, 32), dtype=np.float32)).save(path / "odd.tif")


def alpha(path):
    Image.fromarray(np.dstack([RGB, RGB[..., 0]])).save(path / "odd.png")


def palette_alpha(path):
    Image.fromarray(RGB).convert("P").save(path / "odd.png", transparency=0)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path / "odd.jpg", exif=exif)


def cmyk(path):
    Image.fromarray(RGB).convert("CMYK").save(path / "odd.jpg")


def frames(path):
    first, *others = (Image.fromarray(RGB + np.uint8(i)) for i in range(3))
    first.save(path / "odd.tif", save_all=True, append_images=others)


def grey32(path):
    Image.fromarray(RNG.integers(0, 60_000, (32, 32), dtype=np.int32)).save(path / "odd.tif")


def png(bits: int, colours: int, pixels: np.ndarray, width: int | None = None) -> bytes:
    """Of (H, W, C) pixels, or of (H, bytes) rows of so many pixels, as Pillow does not write them."""

    def part(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width or pixels.shape[1], pixels.shape[0], bits, colours, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    parts = part(b"IHDR", head), part(b"IDAT", rows), part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rgb16(path):
    (path / "odd.png").write_bytes(png(16, 2, RNG.integers(0, 60_000, (32, 32, 3)).astype(">u2")))


def rgba16(path):
    (path / "odd.png").write_bytes(png(16, 6, RNG.integers(0, 60_000, (32, 32, 4)).astype(">u2")))


def ppm16(path):
    (path / "odd.ppm").write_bytes(b"P6 32 32 65535\n" + RNG.integers(0, 60_000, (32, 32, 3)).astype(">u2").tobytes())


def ppm10(path):
    (path / "odd.ppm").write_bytes(b"P5 32 32 1023\n" + RNG.integers(0, 1023, (32, 32)).astype(">u2").tobytes())


def by_opencv(path, suffix, bits):
    """Of more than 8 bits, as Pillow does not write them, under a name that counts as an image."""
    pixels = (RNG.integers(0, 60_000, (32, 32, 3)) >> (16 - bits)).astype(np.uint16)
    _, content = cv2.imencode(suffix, pixels, [cv2.IMWRITE_AVIF_DEPTH, bits] if suffix == ".avif" else [])
    (path / "odd.png").write_bytes(content.tobytes())


def damaged(path):
    content = bytearray(png(8, 2, RGB))
    content[200] ^= 1
    (path / "odd.png").write_bytes(content)


def profile(path, suffix="jpg"):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(RGB).save(path / f"odd.{suffix}", icc_profile=lab)


def grey_alpha(path):
    Image.fromarray(RGB).convert("LA").save(path / "odd.png")


def moving(path):
    first, *others = (Image.fromarray(RGB + np.uint8(i)) for i in range(3))
    first.save(path / "odd.webp", save_all=True, append_images=others, lossless=True)


def turned_png(path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(RGB).save(path / "odd.png", exif=exif)


def turned_tiff(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path / "odd.tif", exif=exif)


def lab(path):
    Image.fromarray(RGB, "LAB").save(path / "odd.tif")


def gamma(path, value=100_000):
    """A PNG that says how bright its values are meant: here, linear."""
    Image.fromarray(RGB).save(path / "odd.png")
    content, chunk = (path / "odd.png").read_bytes(), b"gAMA" + struct.pack(">I", value)
    head = content[:33]  # signature and IHDR
    (path / "odd.png").write_bytes(
        head + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
    )


KINDS = {
    "a 16-bit grey image": (grey16, "grey16_saturated"),
    "a 32-bit grey image": (grey32, "grey16_saturated"),
    "a float image of 0 to 1": (floats, "float_clipped"),
    "an alpha channel": (alpha, "alpha_dropped"),
    "a transparent colour of a palette": (palette_alpha, "alpha_dropped"),
    "a camera's orientation": (turned, "exif_orientation_ignored"),
    "a CMYK image": (cmyk, "cmyk_converted"),
    "several frames": (frames, "first_of_several_frames"),
}
RARE = {
    "a PNG of 16-bit colours": (rgb16, "rgb16_cut_to_8_bits"),
    "a PNG of 16-bit colours and alpha": (rgba16, "rgb16_cut_to_8_bits"),
    "a PPM of 16-bit colours": (ppm16, "rgb16_cut_to_8_bits"),
    "a PGM of 10 bits": (ppm10, "grey16_saturated"),
    "a JPEG 2000 of 16-bit colours": (partial(by_opencv, suffix=".jp2", bits=16), "rgb16_cut_to_8_bits"),
    "an AVIF of 10 bits": (partial(by_opencv, suffix=".avif", bits=10), "rgb16_cut_to_8_bits"),
    "an AVIF of 12 bits": (partial(by_opencv, suffix=".avif", bits=12), "rgb16_cut_to_8_bits"),
    "a colour profile": (profile, "colour_profile_ignored"),
    "a colour profile in a PNG": (partial(profile, suffix="png"), "colour_profile_ignored"),
    "grey with alpha": (grey_alpha, "alpha_dropped"),
    "a WebP that moves": (moving, "first_of_several_frames"),
    "an orientation in a TIFF, which is turned": (turned_tiff, "exif_orientation_applied"),
    "a TIFF of LAB": (lab, "lab_converted"),
    "a gamma in a PNG": (gamma, "gamma_ignored"),
    "an orientation in a PNG": (turned_png, "exif_orientation_ignored"),
}
