"""Files whose headers declare more than they hold, or which unpack to far more than they are."""

import gzip
import io
import json
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from PIL import Image

from evalkit import data
from evalkit.arrays import read_npz, unpacked
from evalkit.data.embedded import fashion_mnist
from evalkit.data.images import decode
from evalkit.data.val_labels import read_val_labels
from evalkit.errors import EvalkitError
from evalkit.models import load
from evalkit.robustness import saliency, store
from evalkit.runtime import sha256_file
from evalkit.train.mixups.parts.offline_maps import OfflineMaps

from .cases import Case
from .make import run_folder

KIND = "Bombs: zip files, array headers, image sizes, weights"


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file whose header declares this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def npz(path: Path, shape: tuple[int, ...], held: bytes = b"\0" * 64, name: str = "saliency") -> Path:
    """A .npz whose array declares `shape` of float64."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{name}.npy", header.getvalue() + held)
    return path


def image_of(folder, content: bytes):
    (folder / "x.png").write_bytes(content)
    return decode(folder / "x.png", "x.png")


def widened(folder, suffix):
    """A picture whose header is made to say 65,000 x 65,000 pixels."""
    Image.new("RGB", (24, 24)).save(folder / f"x{suffix}")
    content = (folder / f"x{suffix}").read_bytes()
    pair = {".jpg": (">HH", 65_000), ".jp2": (">II", 65_000), ".tif": None}[suffix]
    if pair is None:  # tags ImageWidth and ImageLength, of one LONG or SHORT each
        for tag in (256, 257):
            for kind, form in ((3, "<HHIHH"), (4, "<HHII")):
                more = (0,) if kind == 3 else ()
                content = content.replace(
                    struct.pack(form, tag, kind, 1, 24, *more), struct.pack("<HHII", tag, 4, 1, 65_000)
                )
    else:
        content = content.replace(struct.pack(pair[0], 24, 24), struct.pack(pair[0], pair[1], pair[1]))
    return image_of(folder, content)


def array_of(folder, shape):
    return saliency.file(npz(folder / "s.npz", shape))


def map_of(folder, shape):
    return OfflineMaps(npz(folder / "a.npz", shape, name="map").parent, 4).read("a")


def array_bomb(folder):
    """64 MB of zeros in 64 kB, for a reader that allows 1 MB."""
    path = npz(folder / "s.npz", (8 << 20,), b"\0" * (64 << 20))
    return _refusal(lambda: read_npz(path, 1 << 20))


def _refusal(read) -> tuple[int, str]:
    with pytest.raises((ValueError, OSError)) as e:
        read()
    return 1, str(e.value)


def lying_directory(folder):
    """The directory of the archive declares terabytes that its member does not hold."""
    path = npz(folder / "s.npz", (8,))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(data)
    return saliency.file(path)


def record_bomb(folder):
    """Records whose array declares terabytes are not there for whoever reads them."""
    np_path = npz(folder / "r.npz", (10**12,))
    (folder / "r.json").write_text(json.dumps({"sha256": sha256_file(np_path)}))
    assert store.read(np_path) is None


def gzip_bomb(folder):
    for name in ("train-images-idx3", "train-labels-idx1"):
        with gzip.open(folder / f"{name}-ubyte.gz", "wb", compresslevel=1) as f:
            f.write(b"\0" * (65 << 20))
    return fashion_mnist("train", folder)


def idx_header(folder):
    """An idx file that declares 2^93 bytes."""
    for name, dimensions in (("train-images-idx3", 3), ("train-labels-idx1", 1)):
        with gzip.open(folder / f"{name}-ubyte.gz", "wb") as f:
            f.write(struct.pack(">i", 0x800 + dimensions) + struct.pack(">i", 0x7FFFFFFF) * dimensions)
    return fashion_mnist("train", folder)


def mat_bomb(folder):
    packed = zlib.compress(b"\0" * (65 << 20), 9)
    (folder / "meta.mat").write_bytes(
        b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed
    )
    (folder / "truth.txt").write_text("1\n2\n")
    return read_val_labels(folder / "truth.txt", ["n00000001"])


def safetensors_header(folder, length):
    (folder / "w.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    return load(str(folder / "w.safetensors"), model="vit_nano_patch4_32")


def safetensors_shape(folder):
    head = b'{"head.weight":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}'
    (folder / "w.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 4)
    return load(str(folder / "w.safetensors"), model="vit_nano_patch4_32")


def torch_expanded(folder):
    """A tensor of 10^12 numbers over one stored number."""
    torch.save({"pos_embed": torch.zeros(1).expand(1, 10**9, 1000)}, folder / "w.pth")
    return load(str(folder / "w.pth"), model="vit_nano_patch4_32")


def torch_deflated(folder):
    """A torch file packed again by deflate: 64 MB of zeros in 64 kB."""
    torch.save({"pos_embed": torch.zeros(1, 16 << 20)}, folder / "w.pth")
    with zipfile.ZipFile(folder / "w.pth") as old, zipfile.ZipFile(folder / "x.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return load(str(folder / "x.pth"), model="vit_nano_patch4_32")


def folder_of_bombs(folder):
    """In a data set the image is named, the others are read."""
    for name in ("a", "b"):
        (folder / name).mkdir()
        Image.new("RGB", (4, 4)).save(folder / name / "x.png")
    (folder / "b" / "huge.png").write_bytes(png(1_000_000, 1_000_000))
    images = data.folder(folder)
    images.read(images.ids.index("a/x.png"))
    with pytest.raises(EvalkitError) as e:
        images.read(images.ids.index("b/huge.png"))
    return 1, str(e.value)


def model_of(folder, change):
    """A checkpoint whose meta.json describes a larger model than its file holds."""
    run = run_folder(folder / "run")
    (path,) = run.glob("checkpoints/*/meta.json")
    content = json.loads(path.read_text())
    for key, value in change.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(content))
    return load(str(run))


MODELS = {
    "10^9 blocks": ({"model_args": {"depth": 10**9}}, "model_args.depth is beyond 1,000"),
    "a width of 10^9": ({"model_args": {"embed_dim": 10**9}}, "model_args.embed_dim is beyond"),
    "300 blocks of a width of 8,000": (
        {"model_args": {"depth": 300, "embed_dim": 8000}},
        "describes a model of .* numbers",
    ),
    "images of 10^7 pixels a side": ({"model_args": {"img_size": 10**7}}, "model_args.img_size is beyond"),
    "10^9 classes": ({"num_classes": 10**9}, "describes a model of .* numbers"),
    "image_size 10^6": ({"image_size": 10**6}, "images have 1000000 pixels a side"),
}

CASES = [
    *(Case(f"a checkpoint of {what}", model_of, says=says, argument=change) for what, (change, says) in MODELS.items()),
    *(
        Case(f"a PNG header of {w:,} x {h:,} pixels", image_of, says="cannot read image x.png", argument=png(w, h))
        for w, h in (
            (1_000_000, 1_000_000),
            (2**31 - 1, 2**31 - 1),
            (1_000_000, 10),
            (3, 4000),
            (20_000, 20_000),
            (0, 5),
        )
    ),
    Case(
        "a BMP header of 65,000 x 65,000 pixels",
        image_of,
        says="cannot read image",
        argument=(
            b"BM"
            + struct.pack("<IHHI", 54, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, 65_000, 65_000, 1, 24, 0, 0, 0, 0, 0, 0)
        ),
    ),
    *(
        Case(f"a {name} header of 65,000 x 65,000 pixels", widened, says="too many|cannot read", argument=suffix)
        for name, suffix in (("JPEG", ".jpg"), ("JPEG 2000", ".jp2"), ("TIFF", ".tif"))
    ),
    Case("a PPM header of 10^6 x 10^6 pixels", image_of, says="cannot read", argument=b"P6 1000000 1000000 255\n\0"),
    Case(
        "a GIF header of 65,535 x 65,535 pixels",
        image_of,
        says="cannot read",
        argument=(
            b"GIF89a"
            + struct.pack("<HH", 65535, 65535)
            + b"\0\0\0,\0\0\0\0"
            + struct.pack("<HH", 65535, 65535)
            + b"\0\2\0;"
        ),
    ),
    Case("an image folder with a picture of 10^12 pixels", folder_of_bombs, says="huge.png"),
    *(
        Case(f"saliency that declares {shape}", array_of, says="cannot read saliency", argument=shape)
        for shape in ((10**12, 196), (2**62,), (10**6, 10**6, 4), (-5, 196), (2**31, 2**31, 2**31))
    ),
    *(
        Case(f"an attention map that declares {shape}", map_of, says="is not an .npz file", argument=shape)
        for shape in ((10**6, 10**7), (3, 2**60))
    ),
    Case("an archive whose directory lies", lying_directory, says="cannot read saliency"),
    Case("an archive of zeros", array_bomb, says="would take more than"),
    Case("records that declare terabytes", record_bomb, fate="mended"),
    Case("a gzip bomb as Fashion-MNIST", gzip_bomb, says="unpacks to more than"),
    Case("an idx header of 2^93 bytes", idx_header, says="is not an idx file"),
    Case("a bomb as the development kit's meta.mat", mat_bomb, says="is not the meta.mat"),
    *(
        Case(
            f"a safetensors header of {n} bytes", safetensors_header, says="truncated or not a safetensors", argument=n
        )
        for n in (2**40, 2**63, 2**64 - 1)
    ),
    Case("safetensors that declare 10^12 numbers", safetensors_shape, says="truncated or not a safetensors file"),
    Case("a torch tensor of 10^12 numbers over one", torch_expanded, says="declares"),
    Case("a torch file packed by deflate", torch_deflated, says="declares|packed"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for of_libraries in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):  # to their callers
            warnings.simplefilter("ignore", of_libraries)
        case.check(tmp_path)


def test_what_is_packed_as_numpy_packs_it_is_read(tmp_path):
    arrays = {"ids": np.array(["a", "é"]), "x": np.arange(12.0).reshape(3, 4), "empty": np.zeros((0, 3), np.float32)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_npz(tmp_path / "a.npz")
        assert found.keys() == arrays.keys() and all(np.array_equal(found[k], v) for k, v in arrays.items())
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(10**6))
    assert read_npz(tmp_path / "zeros.npz")["x"].sum() == 0
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"abc"))
    assert unpacked(tmp_path / "a.gz", 3) == b"abc"
