"""`evalkit pack`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import EvalkitError
from ..text import say

EPILOG = """\b
Examples:
  evalkit pack imagenet imagenet-packed                      the original bytes, in a few large files
  evalkit pack imagenet imagenet-288 --short-side 288        smaller training images
  evalkit train deit-300 data=packed data_dir=imagenet-288 decode=fast
"""


def pack(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="class folders, or splits (train, val) of them")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="a new folder, or one whose packing was broken off")],
    short_side: Annotated[
        int | None,
        typer.Option(min=1, help="re-encode training images whose shorter side is longer", show_default=False),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="of the JPEGs, with --short-side", show_default="90")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="processes that read images and write shards", show_default="one per core, at most 16"
        ),
    ] = None,
) -> int:
    """Pack image folders into a few large files, for data=packed.

    Uncompressed tar files with an index: any order, any number of workers, checksums. The bytes are the original ones
    unless a size is given. Started again it goes on, verifies what is there and mends what is damaged.
    """
    if quality is not None and short_side is None:
        raise EvalkitError("--quality belongs to --short-side; without it the original bytes are packed")
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise EvalkitError(f"{out} lies in the folder that is packed; give another one")
    from ..data import pack as packing

    encoding = None if short_side is None else packing.Encoding(short_side, *([] if quality is None else [quality]))
    for line in packing.pack(folder, out, encoding, workers or min(16, os.cpu_count() or 1)):
        say(line)
    return 0
