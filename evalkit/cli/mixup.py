"""`evalkit mixup list | preview | bench`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import EvalkitError
from ..text import say
from . import complete

app = typer.Typer(help="The mixup methods: a list, what they do, their cost.", rich_markup_mode=None)

Methods = Annotated[
    str | None,
    typer.Option(metavar="A,B,..", help="names with commas; module:Class is a method of yours", show_default="all"),
]


@app.command(
    "list",
    epilog="""\b
Examples:
  evalkit mixup list
  evalkit mixup list mixpro
""",
)
def mixup_list(
    name: Annotated[
        str | None,
        typer.Argument(
            help="one method, module:Class too: everything about it", show_default=False, autocompletion=complete.words
        ),
    ] = None,
) -> int:
    """Every method: family, needs, extra passes through a network, paper; or one: its arguments, presets, BibTeX."""
    from ..train.showcase import overview

    print(overview.table() if name is None else overview.page(name))
    return 0


@app.command(
    "preview",
    epilog="""\b
Examples:
  evalkit mixup preview
  evalkit mixup preview cat.jpg dog.jpg --methods mixup,cutmix,mymixups:Mine --out sheet.html
  evalkit mixup preview --checkpoint runs/automix --lambdas 0,0.2,0.4,0.5,0.6,0.8,1 --pairs
  evalkit mixup preview --checkpoint runs/mixpro --methods maskmix --attention
""",
)
def mixup_preview(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGES", help="two or more", show_default="two photographs")
    ] = None,
    methods: Methods = None,
    out: Annotated[Path, typer.Option(help="a .png or .html file")] = Path("mixups.png"),
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="a run or checkpoint folder, or zoo:NAME: its network, and its own method with all that this learned",
            show_default=False,
            autocompletion=complete.words,
        ),
    ] = None,
    lambdas: Annotated[
        str, typer.Option(metavar="L,L,..", help="values of lambda, one picture each")
    ] = "0.1,0.3,0.5,0.7,0.9",
    pairs: Annotated[bool, typer.Option("--pairs", help="mix every image with the next, not the first alone")] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="the class attention beneath each mixed sample")
    ] = False,
) -> int:
    """One sheet of mixed samples, masks, a sweep of lambda, and the label shares under each image.

    Without a checkpoint, methods that ask a network get a small one with random weights, so their choices are
    arbitrary.
    """
    from ..train.showcase import preview

    look = preview.Look(numbers(lambdas), pairs, attention)
    for note in preview.save(images or [], methods, out, checkpoint, look):
        say(note)
    say(str(out))
    return 0


def numbers(text: str) -> list[float]:
    """The numbers of a list with commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as e:
        raise EvalkitError(f"--lambdas are numbers with commas between them, but got '{text}'") from e


@app.command(
    "bench",
    epilog="""\b
Example:
  evalkit mixup bench --batch 64 --size 224 --methods mixup,cutmix --device cpu
""",
)
def mixup_bench(
    batch: Annotated[int, typer.Option(min=2, help="images in a batch")] = 64,
    size: Annotated[int, typer.Option(min=32, help="side of the images in pixels")] = 224,
    methods: Methods = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda", show_default="a GPU if there is one")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="batches that each method mixes")] = 20,
    record: Annotated[
        Path | None, typer.Option("--json", help="write the table to this file, with how it was made")
    ] = None,
) -> int:
    """Milliseconds per batch, and the ratio to copying the batch: medians of interleaved repeats.

    Without passes through networks, of which `evalkit mixup list` says how many there are; but supermix finds its masks
    by passes of its teacher, here a small network.
    """
    from ..runtime import environment, pick_device, write_atomic
    from ..train.showcase import bench, stand_in

    where = pick_device(device)
    names = stand_in.chosen(methods)
    facts = environment(where)
    print(
        f"{batch} x 3 x {size} x {size} float32, {facts['device']}, {facts['threads']} threads, torch {facts['torch']},"
        f" {repeats} repeats"
    )
    rows = bench.bench(names, batch=batch, size=size, device=where, repeats=repeats)
    print(bench.table(rows))
    if record is not None:
        rounded = {name: {"ms_per_batch": round(ms, 3), "ratio_to_clone": round(ratio, 3)} for name, ms, ratio in rows}
        made = {
            "benchmark": "mixup_bench",
            "batch": batch,
            "size": size,
            "repeats": repeats,
            "methods": rounded,
            "environment": facts,
        }
        write_atomic(record, lambda f: f.write((json.dumps(made, indent=1) + "\n").encode()))
    return 0
