"""Labelled images by name: embedded sets, image folders, published sets as they are distributed, and what timm
reads."""

from pathlib import Path

from ..errors import EvalkitError, suggest, unknown
from .embedded import SIZE, digits, digits_photo, fashion_mnist
from .folders import folder, split_folder
from .images import BadImage, Images
from .known import KNOWN, open_known
from .packed import packed
from .readers import READERS, STREAMS, timm_images
from .splits import spread
from .stand_ins import digits_a, digits_o

__all__ = ["EMBEDDED", "MADE_AT_ANY_SIZE", "NAMES", "SIZE", "BadImage", "Images", "folder", "has_parts", "load"]

_EMBEDDED = {"digits": digits, "digits-photo": digits_photo, "digits-a": digits_a, "digits-o": digits_o}
#: Those of the embedded sets whose images are drawn at the size that is asked for.
MADE_AT_ANY_SIZE = tuple(_EMBEDDED)
#: Sets without a folder, of images of `SIZE` pixels that are used as they are.
EMBEDDED = (*_EMBEDDED, "fashion-mnist")
#: What `load` knows by name, beside what timm's readers open.
NAMES = (*EMBEDDED, "folder", "packed", *KNOWN)


def has_parts(name: str) -> bool:
    """Whether `name` is that of data with parts of their own that lie in a folder: a published set as it is
    distributed, packed images or what timm reads. Commands open these by name, a part and a folder."""
    by_name = (*KNOWN, "fashion-mnist", "packed")
    return name in by_name or name.partition("/")[0].lower() in (*READERS, *STREAMS)


def check_exists(spec: str) -> None:
    """Raise EvalkitError for what is neither on the disk nor the name of data. Commands ask before they load weights,
    which may be a download."""
    if not (Path(spec).exists() or spec in NAMES or has_parts(spec)):
        if "/" in spec:
            raise EvalkitError(f"no such folder: {spec}")
        raise EvalkitError(f"no such folder or data set: {spec}.{suggest(spec, [n for n in NAMES if n != 'folder'])}")


def load(
    name: str, split: str = "val", *, root: str | Path | None = None, size: int | None = None, limit: int | None = None
) -> Images:
    """The images of a split. Raises EvalkitError, naming the closest, for a name or split that does not exist, and for
    data that are not there or incomplete.

    Args:
        name: digits, digits-photo, digits-a, digits-o (embedded); fashion-mnist; folder (root/<split>/<class>/ or
            root/<class>/); packed (what `evalkit pack` wrote); torch/NAME or hfds/NAME; or a published set as it is
            distributed, see `known.KNOWN`.
        split: Which part of it.
        root: Where the files are.
        size: Pixels per side that an embedded set is made at; None: 32.
        limit: So many images, evenly spaced over the set; their ids stay. None: all.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"Expected argument `limit` to be an integer larger than 0, but got {limit}")
    if name not in _EMBEDDED and size is not None:
        raise EvalkitError(f"data '{name}' has no size of its own to choose; images are resized by the transform")
    if name in _EMBEDDED and root is not None:
        raise EvalkitError(
            f"data_dir has no effect on '{name}', which is embedded; to use images of your own add data=folder"
        )
    if name in _EMBEDDED:
        images = _EMBEDDED[name](split, size or SIZE)
    elif name == "fashion-mnist":
        images = fashion_mnist(split, root)
    elif name in ("folder", "packed"):
        if root is None:
            raise EvalkitError(f"data '{name}' needs the folder; give data_dir=DIR")
        if name == "packed":
            images = packed(root, split)
        else:
            images = folder(split_folder(root, split), name=Path(root).resolve().name)
    elif name in KNOWN:
        images = open_known(name, split, root)
    elif name.partition("/")[0].lower() in (*READERS, *STREAMS):
        images = timm_images(name, split, root)
    elif Path(name).is_dir():
        raise EvalkitError(f"data '{name}' is a folder; give data=folder data_dir={name}")
    else:
        raise unknown("data", name, (*NAMES, *(f"{reader}/NAME" for reader in READERS)))
    return images if limit is None or limit >= len(images) else spread(images, limit)
