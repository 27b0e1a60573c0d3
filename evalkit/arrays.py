"""Packed arrays whose sizes are checked before anything is allocated: what a header declares is compared with what the
file can hold."""

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

MAX_RATIO = 1100  # deflate makes at most about 1030 bytes of one
MAX_BYTES = 16 << 30  # of all arrays of a file, unpacked
# what zipfile and NumPy raise for what is damaged, encrypted or of another kind
DAMAGED = (
    EOFError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    MemoryError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: str | Path, limit: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The arrays of a .npz; nothing is unpickled. Raises OSError for what cannot be read, ValueError for what is no
    such file, for a header that declares another size than the data has and for more than `limit` bytes.

    Args:
        path: The file.
        limit: The most bytes that it may unpack to.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file")
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
            if sum(member.compress_size for member in members) > Path(path).stat().st_size:
                raise ValueError("its members lie over one another")
            if sum(member.file_size for member in members) > limit:
                raise ValueError(f"its arrays would take more than {limit:,} bytes")
            for member in members:
                if member.file_size > MAX_RATIO * member.compress_size + 1024:
                    raise ValueError(f"{member.filename} declares more than its data can unpack to")
                with packed.open(member) as content:
                    _check_header(content, member)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except DAMAGED as e:
        raise ValueError(f"it is damaged or no .npz ({type(e).__name__})") from e


def _check_header(content: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Raise ValueError unless an array's header declares as many bytes as follow it."""
    version = npy.read_magic(content) if member.filename.endswith(".npy") else None
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{member.filename} is no array")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(content)
    declared = dtype.itemsize
    for side in shape:
        declared *= side
    if dtype.hasobject or min(shape, default=1) < 0 or declared != member.file_size - content.tell():
        raise ValueError(f"{member.filename} declares {shape} of {dtype}, which is not what it holds")


def unpacked(path: str | Path, limit: int) -> bytes:
    """The content of a gzip file of at most `limit` bytes. Raises ValueError for more; OSError, EOFError or zlib.error
    for what is damaged.

    Args:
        path: The file.
        limit: The most bytes that it may unpack to.
    """
    with gzip.open(path) as content:
        data = content.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it unpacks to more than {limit:,} bytes")
    return data
