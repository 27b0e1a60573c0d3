"""`evalkit bench input | step`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EvalkitError
from .words import split

if TYPE_CHECKING:
    from ..train.config import TrainConfig

app = typer.Typer(help="How fast this machine makes images and takes steps.", rich_markup_mode=None)

Words = Annotated[
    list[str], typer.Argument(metavar="RECIPE KEY=VALUE", help="a recipe, then values that replace its own")
]
Record = Annotated[Path | None, typer.Option("--json", help="write the numbers to this file, with how they were made")]


@app.command(
    "input",
    epilog="""\b
Examples:
  evalkit bench input deit-300 data_dir=imagenet workers=12
  evalkit bench input deit-300 data=packed data_dir=imagenet-packed decode=fast
""",
)
def bench_input(
    words: Words,
    batch: Annotated[int, typer.Option(min=1, help="images of a batch")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="batches of each way")] = 5,
    record: Record = None,
) -> int:
    """Training images a second: one core, by decoder and place of augmentation, and the recipe with its workers.

    Medians of interleaved repeats; one core by its CPU time, the workers by the clock.
    """
    from ..runtime import environment
    from ..train.showcase import input_bench

    cfg, found = _recipe(words), []
    for rate in input_bench.bench(cfg, batch, repeats):
        print(rate, flush=True)
        found.append({"name": rate.name, "images_per_second": rate.images, "reading": rate.reading})
    _write(
        record, {"benchmark": "input", "recipe": words, "batch": batch, "rates": found, "environment": environment()}
    )
    return 0


@app.command(
    "step",
    epilog="""\b
Examples:
  evalkit bench step deit-300 data_dir=- --methods mixup,cutmix,transmix,mixpro
  evalkit bench step deit-300 data_dir=- amp=bf16 micro_batch=256 device=cuda
""",
)
def bench_step(
    words: Words,
    methods: Annotated[
        str | None,
        typer.Option(metavar="A,B,..", help="names of the methods that are timed", show_default="the recipe's"),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="turns of each method")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="steps of a turn")] = 1,
    peak: Annotated[
        float, typer.Option(min=0, help="TFLOP/s to give the share of; H100 bf16: 800 reachable, 989 nominal")
    ] = 0.0,
    record: Record = None,
) -> int:
    """Training steps on synthetic images: images a second, parts of a step, memory, parameters, multiply-adds.

    What a recipe leaves open is settled as for a run on the device, but nothing is compiled unless compile=true.

    One micro-batch of the recipe is one step; each method relative to vanilla. Parameters are those of the network, the
    method and its frozen teachers. Medians of interleaved repeats. The parts are timed with a wait after
    each, so their sum is more than a step.
    """
    from ..runtime import environment, pick_device
    from ..train.resolve import resolve
    from ..train.showcase import step_bench

    cfg = _recipe(words)
    device = pick_device(cfg.device)
    cfg = resolve(cfg, device, steps=0)
    costs = step_bench.bench(cfg, methods.split(",") if methods else [cfg.mixup], device, repeats, steps)
    work, facts = step_bench.flops_per_image(cfg), environment(device)
    setting = f"batch {cfg.micro_batch} at {cfg.image_size} pixels, amp={cfg.amp}, opt_kernels={cfg.opt_kernels}"
    setting += "".join(f", {name}" for name in ("channels_last", "compile") if getattr(cfg, name))
    multiply_adds = f"{work / 6e9:.2f} G multiply-adds"  # papers call them FLOPs; a step has six times as many
    print(f"{cfg.model}, {multiply_adds}, {setting}, {facts['device']}, {repeats} repeats")
    found = []
    for cost in costs:
        rate = cfg.micro_batch / cost.seconds[0]
        parts = "  ".join(f"{part} {1000 * seconds:.1f}" for part, seconds in cost.parts.items())
        share = f"  {100 * rate * work / 1e12 / peak:.1f} % of {peak:g} TFLOP/s" if peak else ""
        memory = "" if cost.memory is None else f"  {cost.memory / 2**30:.1f} GiB"
        size, times = f"{cost.parameters / 1e6:.1f} M parameters", f"{cost.relative:.3f} of vanilla"
        print(f"{cost.name:20s} {rate:9.1f} images/s  {times}  {size}{share}{memory}  (ms: {parts})")
        found.append(
            {
                "method": cost.name,
                "images_per_second": rate,
                "seconds": cost.seconds,
                "relative_to_vanilla": cost.relative,
                "parts": dict(cost.parts),
                "memory": cost.memory,
                "parameters": cost.parameters,
                "tflops": rate * work / 1e12,
            }
        )
    _write(record, {"benchmark": "step", "recipe": words, "methods": found, "environment": facts})
    return 0


def _recipe(words: list[str]) -> "TrainConfig":
    recipe, overrides = split(words)
    if len(recipe) != 1:
        raise EvalkitError("one recipe, then key=value: `evalkit recipes list` names them")
    from .. import config
    from ..train.config import TrainConfig

    cfg = config.load(TrainConfig, recipe[0], overrides)
    sizes = {"model": "resnet18", "image_size": 64, "batch_size": 64, "micro_batch": 64}
    if left := [name for name in sizes if getattr(cfg, name) is None]:
        example = " ".join(f"{name}={sizes[name]}" for name in left)
        raise EvalkitError(f"recipe '{recipe[0]}' leaves {', '.join(left)} to the data of a run; give {example}")
    return cfg


def _write(record: Path | None, made: dict[str, object]) -> None:
    if record is not None:
        from ..runtime import write_atomic

        write_atomic(record, lambda f: f.write((json.dumps(made, indent=1) + "\n").encode()))
