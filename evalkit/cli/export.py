"""`evalkit export`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import EvalkitError, unknown
from ..export.about import FORMS, ExportConfig
from ..text import say
from . import complete, described
from .words import Overrides, check_overrides

EPILOG = """\b
Examples:
  evalkit export runs/mixpro out --to timm                   timm.create_model("local-dir:out", pretrained=True)
  evalkit export runs/mixpro out --to hf --push me/mixpro    needs `hf auth login`
  evalkit export deit.pth out --to hf model=deit_small_patch16_224
  evalkit export runs/seg out --to mmseg                     config.py and model.pth for init_model
  evalkit export runs/det out --to mmdet                     the same for init_detector
  evalkit export runs/mixpro out --to mmseg                  a classifier: its backbone for configs of your own
"""


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="a run or checkpoint folder, zoo:NAME, a weights file, or a timm model name",
            autocompletion=complete.words,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="a new folder")],
    to: Annotated[str, typer.Option(metavar="FORM", help=" | ".join(FORMS))],
    overrides: Overrides = None,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="with hf: upload it there, USER/NAME", show_default=False)
    ] = None,
) -> int:
    """A checkpoint as a folder that others' tools load.

    Without evalkit. The outputs are compared before it says done, in an interpreter without evalkit that runs what the
    folder's README says; where they differ by more than 1e-5, nothing is left.
    """
    check_overrides(overrides)
    if to not in FORMS:
        raise unknown("form", to, FORMS)
    if push is not None and to != "hf":
        raise EvalkitError(f"--push uploads a folder that --to hf wrote, not one of --to {to}")
    from .. import config

    keys = config.to_dict(config.load(ExportConfig, None, overrides or []))
    if to in ("timm", "hf"):
        from ..export import classifier, hub
        from ..train.mixups import METHODS

        if push is not None:
            hub.check(push)
        citations = {name: method.bibtex for name, method in METHODS.items()}
        say(*classifier.export(checkpoint, to, out, keys, described.protocols(), citations))
        if push is not None:
            say(hub.push(out, push))
        return 0
    from ..downstream.export import export as to_mm

    say(*to_mm(checkpoint, to, out, keys, described.protocols()))
    return 0
