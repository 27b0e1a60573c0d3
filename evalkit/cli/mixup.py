"""`evalkit mixup list | preview | bench`."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The mixup methods: what there is, what they do, what they cost.", rich_markup_mode=None)

Methods = Annotated[str | None, typer.Option(metavar="A,B,..", help="names with commas", show_default="all")]


@app.command("list")
def mixup_list() -> int:
    """Every method: family, what it needs, extra passes through a network, paper."""
    from ..train.showcase import overview

    print(overview.table())
    return 0


@app.command(
    "preview",
    epilog="""\b
Examples:
  evalkit mixup preview
  evalkit mixup preview cat.jpg dog.jpg --methods mixup,cutmix,fmix --out sheet.html
""",
)
def mixup_preview(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGES", help="two or more", show_default="two photographs")
    ] = None,
    methods: Methods = None,
    out: Annotated[Path, typer.Option(help="a .png or .html file")] = Path("mixups.png"),
) -> int:
    """One sheet of mixed samples, masks, a sweep of lambda, and the label shares under each image.

    Methods that ask a network get a small one with random weights, so their choices are arbitrary.
    """
    from ..train.showcase import preview

    for note in preview.save(images or [], methods, out):
        print(note)
    print(out)
    return 0


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

    Without passes through networks, of which `evalkit mixup list` says how many there are.
    """
    from ..runtime import environment, pick_device, write_atomic
    from ..train.showcase import bench, stand_in

    where = pick_device(device)
    names = stand_in.chosen(methods)
    for name in names:
        if name in stand_in.LEFT_OUT:
            print(f"left out: {stand_in.LEFT_OUT[name]}")
    names = [name for name in names if name not in stand_in.LEFT_OUT]
    facts = environment(where)
    print(
        f"{batch} x 3 x {size} x {size} float32, {facts['device']}, {facts['threads']} threads, torch {facts['torch']},"
        f" {repeats} repeats"
    )
    rows = bench.bench(names, batch=batch, size=size, device=where, repeats=repeats)
    print(bench.table(rows))
    if record is not None:
        methods = {name: {"ms_per_batch": round(ms, 3), "ratio_to_clone": round(ratio, 3)} for name, ms, ratio in rows}
        made = {
            "benchmark": "mixup_bench",
            "batch": batch,
            "size": size,
            "repeats": repeats,
            "methods": methods,
            "environment": facts,
        }
        write_atomic(record, lambda f: f.write((json.dumps(made, indent=1) + "\n").encode()))
    return 0
