"""What the head of an image file says: sizes that are refused before anything of that size is made, and what Pillow's
conversion to RGB does silently."""

from PIL import Image

MAX_PIXELS = 178_956_970  # of an image: Pillow's own bound, twice that of its warning
MAX_RATIO = 1000  # of an image's sides: resized to 256 pixels on the shorter one, the other would have 256,000
_GREY16 = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112  # EXIF tag


def size_problem(size: tuple[int, int]) -> str | None:
    """What is wrong with the (width, height) in an image's header, before anything of that size is made."""
    width, height = size
    if width * height > MAX_PIXELS or max(width, height) > MAX_RATIO * max(1, min(width, height)):
        return f"{width} x {height} pixels are too many, or too long and thin, to be a picture"
    return None


def peculiarities(image: Image.Image) -> list[str]:
    """The names of what the conversion of an opened image to RGB does silently (see `decode`). Raises what Pillow does
    for a PNG whose pixels are damaged."""
    deep = _more_than_8_bits(image)  # while they are unread
    if image.format == "PNG":  # whose orientation may stand behind its pixels, and getexif reads them as well
        image.load()
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # a damaged EXIF block does not make the picture unreadable
        turned = False
    profile = image.info.get("icc_profile") or b""
    srgb = any("sRGB".encode(code) in profile for code in ("ascii", "utf-16-be"))
    found = {
        "exif_orientation_ignored": turned and image.format != "TIFF",
        "exif_orientation_applied": turned and image.format == "TIFF",  # which Pillow turns as it reads it
        "alpha_dropped": image.has_transparency_data,
        "cmyk_converted": image.mode == "CMYK",
        "lab_converted": image.mode == "LAB",
        "gamma_ignored": not srgb and not profile and _odd_gamma(image.info.get("gamma")),
        "colour_profile_ignored": profile and not srgb,
        "grey16_saturated": image.mode in _GREY16,
        "float_clipped": image.mode == "F",
        "rgb16_cut_to_8_bits": image.mode.startswith("RGB") and deep,
        "first_of_several_frames": getattr(image, "n_frames", 1) > 1,
    }
    return [name for name, is_so in found.items() if is_so]


def _odd_gamma(gamma: object) -> bool:
    """Whether a PNG's gAMA is another than that of the screens that images are made for, 1 / 2.2."""
    return isinstance(gamma, float) and abs(2.2 * gamma - 1) > 0.1


def _more_than_8_bits(image: Image.Image) -> bool:
    """Whether a sample of an opened image has more bits than its mode: ";16" in how they are packed, or as PPM files
    say it, the largest value."""
    if image.format in ("JPEG2000", "AVIF"):
        return _declared_bits(image) > 8
    args = [tile[3] for tile in getattr(image, "tile", ())]
    return any(
        ";16" in str(arg) or (image.format == "PPM" and isinstance(arg, tuple) and arg[-1] > 255) for arg in args
    )


HEAD = 65_536  # bytes in which a file says what it holds


def _declared_bits(image: Image.Image) -> int:
    """Bits of a sample, of which Pillow gives 8: by JPEG 2000's SIZ marker (ISO/IEC 15444-1, A.5.1: the first component
    stands 38 bytes behind it) or AVIF's av1C box, whose third byte has a bit for more than 8 (AV1-ISOBMFF, 2.3.3)."""
    file = getattr(image, "fp", None)
    if file is None:
        return 8
    at = file.tell()
    file.seek(0)
    head = file.read(HEAD)
    file.seek(at)
    sign, behind = (b"\xff\x4f\xff\x51", 42) if image.format == "JPEG2000" else (b"av1C", 6)
    found = head.find(sign)
    if found < 0 or found + behind >= len(head):
        return 8
    value = head[found + behind]
    return (value & 0x7F) + 1 if image.format == "JPEG2000" else 10 if value & 0x40 else 8
