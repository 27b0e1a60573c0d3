"""What data are known by: a digest of their contents that says of how much it was made.

    content-full:SHA256     names, classes, and every byte
    content-sample:SHA256   names, classes, the size of every file, and every byte of a fixed sample of them
    SHA256                  of evalkit 0.1.0: of image files the names and classes alone, of embedded sets every byte

Never of modification times, which differ between copies. Fingerprints of different schemes say nothing about whether
the data are the same, unless their digests agree.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar

from .runtime import sha256_file

FULL, SAMPLE = "content-full", "content-sample"
FULL_BYTES = 1 << 30  # up to so many bytes together, all are read
SAMPLED = 1024  # files of a larger set that are read, evenly spaced
_DIGESTS: ContextVar[dict[str, str] | None] = ContextVar("_DIGESTS", default=None)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Inside, no file is read twice for fingerprints, in however many sets it is: for a command that looks at all of
    them at one moment."""
    token = _DIGESTS.set({})
    try:
        yield
    finally:
        _DIGESTS.reset(token)


def of_files(paths: Sequence[str]) -> tuple[str, str]:
    """(scheme, digest) of files in this order; one that cannot be read counts as such."""
    return of_contents([size(path) for path in paths], lambda i: digest(paths[i]))


def of_contents(sizes: Sequence[int], digest_of: Callable[[int], str]) -> tuple[str, str]:
    """(scheme, digest) of contents of these sizes in bytes, each with a digest of its own.

    Args:
        sizes: Bytes of each content.
        digest_of: The digest of the content at a position.
    """
    scheme = FULL if sum(sizes) <= FULL_BYTES else SAMPLE
    digest = hashlib.sha256(json.dumps(list(sizes)).encode())
    for i in range(len(sizes)) if scheme == FULL else sample(len(sizes), SAMPLED):
        digest.update(digest_of(i).encode())
    return scheme, digest.hexdigest()


def of_split(names: Sequence[str], *files: Sequence[str]) -> str:
    """SCHEME:DIGEST of a split.

    Args:
        names: What is named in it: classes, ids.
        files: Groups of files, each in its order.
    """
    parts = [of_files(group) for group in files]
    scheme = SAMPLE if any(part[0] == SAMPLE for part in parts) else FULL
    return f"{scheme}:{hashlib.sha256(json.dumps([list(names), [part[1] for part in parts]]).encode()).hexdigest()}"


def sample(count: int, most: int) -> list[int]:
    """Positions 0..count-1, evenly spaced, or all of them: the same for the same count.

    Args:
        count: How many there are.
        most: How many are taken at the most.
    """
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]


def combined(parts: Mapping[str, str]) -> str:
    """The fingerprint of several sets together, by role."""
    scheme = SAMPLE if any(scheme_of(part) == SAMPLE for part in parts.values()) else FULL
    return f"{scheme}:{hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()}"


def scheme_of(fingerprint: str) -> str:
    """ "content-full", "content-sample", or "" for one of evalkit 0.1.0."""
    return fingerprint.rpartition(":")[0]


def same(a: str, b: str) -> bool | None:
    """Whether two fingerprints are of the same data; None where they cannot tell.

    Args:
        a: A fingerprint, SCHEME:DIGEST.
        b: Another one.
    """
    if a.rpartition(":")[2] == b.rpartition(":")[2]:
        return True
    return False if scheme_of(a) == scheme_of(b) else None


def short(fingerprint: str, digits: int = 12) -> str:
    """The first digits of the digest.

    Args:
        fingerprint: SCHEME:DIGEST.
        digits: How many.
    """
    return fingerprint.rpartition(":")[2][:digits]


def remark(fingerprint: str) -> str | None:
    """What a reader must know of data that are the same by this fingerprint; None where every byte was compared."""
    if scheme_of(fingerprint) == FULL:
        return None
    if scheme_of(fingerprint) == SAMPLE:
        return f"compared by name, class and size of every file and the contents of {SAMPLED:,} of them"
    return "compared by the names alone, as evalkit 0.1.0 recorded them"


def size(path: str) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def digest(path: str) -> str:
    """Of a file's contents; what is there instead where they cannot be read."""
    known = _DIGESTS.get()
    if known is None:
        return _digest(path)
    path = os.path.abspath(path)
    if path not in known:
        known[path] = _digest(path)
    return known[path]


def _digest(path: str) -> str:
    try:
        return sha256_file(path) if os.path.isfile(path) else "no file"
    except OSError as e:
        return f"not readable: {e.errno}"
