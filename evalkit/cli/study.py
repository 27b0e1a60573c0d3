"""`evalkit study list | show | run | status | report`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import EvalkitError
from ..text import say
from . import complete
from .words import split

app = typer.Typer(help="Many trainings and evaluations as one, such as a table.", rich_markup_mode=None)

Only = Annotated[str | None, typer.Option(metavar="AXIS=VALUE,..", help="these cells alone", show_default="all")]
Name = Annotated[
    str, typer.Argument(metavar="STUDY", help="a study's name or YAML file", autocompletion=complete.words)
]


@app.command("list")
def study_list() -> int:
    """The name and the title of every study."""
    from ..study import spec

    for name in spec.names():
        say(f"{name:26} {spec.load(name).title}")
    return 0


@app.command("show")
def study_show(study: Name, only: Only = None) -> int:
    """The axes and cells of a study, with the recipe, the keys and the published values of each."""
    from ..study import spec

    found = spec.load(study)
    say(found.title)
    for axis, values in found.axes.items():
        say(f"  {axis}: {', '.join(values)}")
    for cell in spec.select(found, only):
        words = " ".join([cell.weights or cell.recipe, *cell.overrides()])
        say(f"{cell.name:48} {f'left out: {cell.excluded}' if cell.excluded else words}")
        for value, of in found.beside(cell):
            said = "; ".join(part for part in (value.disputed and f"disputed: {value.disputed}", value.note) if part)
            where = ", ".join(part for part in (value.source, value.table, value.form) if part)
            quoted = f", quoted from {value.quoted}" if value.quoted else ""
            say(f"    {value.value:>6} {value.metric} of {of} ({where}{quoted}{f'; {said}' if said else ''})")
    return 0


@app.command("coverage")
def study_coverage(
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, with the command as a list of arguments")] = False,
) -> int:
    """Every published cell of the source tables with its study and command; exit code 2 if one is nowhere."""
    import json

    from ..study import coverage

    covered = coverage.coverage()
    if as_json:
        print(json.dumps(coverage.as_json(covered), indent=1))
    else:
        for line in coverage.lines(covered):
            say(line)
    return 2 if any(c.missing for c in covered) else 0


@app.command(
    "run",
    epilog="""\b
Examples:
  evalkit study run digits-methods --out studies/digits
  evalkit study run mine.yaml data_dir=DIR --only method=mixpro,seed=0 --dry-run
  evalkit study run mixpro-robustness data_dir=DIR occlusion.data=DIR/val imagenet-a.data=DIR --only method=mixpro
  evalkit study run mine.yaml --use studies/pilot --use runs
  evalkit study run mine.yaml data_dir=DIR --jobs 16 --slurm slurm_partition=gpu --slurm gres=gpu:1 --slurm runtime=1440
""",
)
def study_run(
    study: Name,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="settings of every training; of one evaluation as NAME.KEY=VALUE",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the study", show_default="studies/STUDY")] = None,
    only: Only = None,
    jobs: Annotated[int, typer.Option(min=1, help="commands that run at once")] = 1,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs (processes) of each training")] = 1,
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="run as Slurm jobs with this resource; may be given again"),
    ] = None,
    profile: Annotated[Path | None, typer.Option(help="a Snakemake profile's folder, handed on")] = None,
    use: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="take trainings made before from here; may be given again"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print every command and the cost, run nothing")] = False,
) -> int:
    """Run what is missing of a study; run again after a kill, it goes on.

    A failed cell stops no other; cells that cannot be are named. Exit code 2 if anything is missing at the end.
    """
    from .. import fingerprint, run_folder
    from ..study import engine, plan, reuse, spec
    from . import identities

    odd, overrides = split(words)
    if odd:
        raise EvalkitError(f"'{odd[0]}' is not key=value; a study is one name or file, settings are written key=value")
    found = spec.load(study)
    cells = spec.select(found, only)
    if (
        dry_run
        and cells
        and not cells[0].weights
        and _wants_folder(cells[0].recipe, [*cells[0].overrides(), *overrides])
    ):
        overrides = [*overrides, "data_dir=DIR"]
        say("data_dir=DIR stands for the folder of the training images, which is not given")
    made = plan.make(found, cells, given=overrides, gpus=gpus, check=_obstacle)
    for name, why in made.left_out.items():
        say(f"left out: {name}: {why}")
    say(*_open(made.jobs))
    folder = out or Path("studies") / found.name
    if dry_run:
        from ..study import cost

        say(*cost.table(made, folder, _training).split("\n"))
        return 0
    run_folder.make(folder)
    with run_folder.claimed(folder, f"study run {found.name}", new=False):
        say(*plan.start(folder, made, found))
        identity = identities.of_jobs(folder)
        with fingerprint.remembered():  # every cell that is there, of `--only` before this one too
            said = reuse.changed(folder, plan.read(folder), identity)
            said += reuse.take(folder, made, use, identity) if use else []
        say(*said)
        left = [job for job in plan.read(folder).jobs if not plan.finished(folder, job)]
        code = engine.run(folder, jobs=jobs, slurm=slurm, profile=profile)
        ended = _ended(folder)
        if any(
            plan.finished(folder, job) for job in left
        ):  # it may have taken days, and data may have changed meanwhile
            with fingerprint.remembered():
                later = reuse.changed(folder, plan.read(folder), identities.of_jobs(folder))
            say(*(line for line in later if line not in said))
    for place in (folder, tempfile.gettempdir()) if ended else ():
        if run_folder.full(place):  # so that neither Snakemake nor a job may have been able to say so
            raise EvalkitError(f"no space left on the disk of {place}; free some and run the study again: it goes on")
    if code and {plan.state(folder, job)["state"] for job in plan.read(folder).jobs} <= {"done", "waiting"}:
        raise EvalkitError(
            f"Snakemake ended with exit code {code} before a job began or failed; the newest file in"
            f" {folder}/.snakemake/log says more"
        )
    return ended


@app.command("status")
def study_status(folder: Annotated[Path, typer.Argument(metavar="DIR", help="the folder of a study")]) -> int:
    """What is done, runs, failed or waits; exit code 2 while anything is missing."""
    return _ended(folder)


@app.command(
    "report",
    epilog="""\b
Examples:
  evalkit study report digits-methods
  evalkit study report mine.yaml --folder studies/mine --out paper/tables
""",
)
def study_report(
    study: Name,
    folder: Annotated[
        Path | None, typer.Option(help="folder that the study was run in", show_default="studies/STUDY")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the report", show_default="FOLDER/report")] = None,
) -> int:
    """Tables and figures of a study, as far as it was run.

    Means over seeds, differences to the baseline with their significance, cost, and published values beside them; as
    Markdown, CSV, LaTeX and HTML, figures as PNG, SVG and PDF.
    """
    from ..study import report, spec
    from . import described

    found = spec.load(study)
    folder = folder or Path("studies") / found.name
    built = report.build(found, folder, out or folder / "report", described.protocols(), described.outcomes())
    say(*str(built).split("\n"))
    return 0


def _ended(folder: Path) -> int:
    """Print how the jobs stand; the exit code for it."""
    from ..study import plan

    made = plan.read(folder)
    states: dict[str, list[tuple[str, Any]]] = {}
    for job in made.jobs:
        found = plan.state(folder, job)
        states.setdefault(found["state"], []).append((job.id, found))
    for name, entries in states.items():
        if name in ("failed", "stopped"):
            for id, facts in entries:
                say(f"{name}: {id}: {facts.get('message') or 'no message'} (jobs/{id}.log)")
    say(f"{made.title}: {', '.join(f'{len(entries)} {name}' for name, entries in states.items())}")
    return 0 if set(states) == {"done"} else 2


def _open(jobs: Sequence[Any]) -> list[str]:
    """A line for each evaluation that lacks something, before the trainings that it follows take days. Raises
    EvalkitError for a protocol or key that there is not."""
    from . import described

    said: dict[str, str] = {}
    for job in jobs:
        command, what, *rest = job.argv
        if command != "train" and (words := str([what, *rest[1:]])) not in said:
            try:
                why = described.lacking(command, what, rest[0], rest[1:])
            except EvalkitError as e:
                raise EvalkitError(f"evaluation {job.id.rpartition('.')[2]}: {e}") from e
            said[words] = f"cannot be measured yet: {job.id}: {why}" if why else ""
    return [line for line in said.values() if line]


def _wants_folder(recipe: str, overrides: list[str]) -> bool:
    """Whether the recipe reads its images from a folder that is not given."""
    from .. import config
    from ..data.known import KNOWN
    from ..train.config import TrainConfig

    conf = config.resolve(TrainConfig, recipe, [word for word in overrides if word.partition("=")[0].isidentifier()])
    return conf.data_dir is None and conf.data in ("folder", "packed", *KNOWN)


def _obstacle(recipe: str, overrides: list[str]) -> str | None:
    """Why `evalkit train recipe overrides` could not begin, or None."""
    from .. import config
    from ..train.combination import obstacle
    from ..train.config import TrainConfig

    try:
        return obstacle(config.load(TrainConfig, recipe, overrides))
    except EvalkitError as e:
        return str(e)


IMAGENET = (1_281_167, 1000)
FASHION_MNIST = (60_000, 10)


def _training(recipe: str, overrides: Sequence[str]) -> Any:
    """What a training of the study comes to. Data that are not there are taken to be as large as ImageNet, and said."""
    from .. import config, data
    from ..data.known import size_of
    from ..study.cost import Training
    from ..train.config import TrainConfig
    from ..train.sizes import settle_sizes

    cfg = config.load(TrainConfig, recipe, list(overrides))
    where = f"{cfg.data} in {cfg.data_dir}" if cfg.data_dir else cfg.data
    remark, present = "", True
    try:
        images = data.load(cfg.data, cfg.train_split, root=cfg.data_dir)
        cfg = settle_sizes(cfg, images)
        count, classes = round(len(images) * (1 - (cfg.holdout or 0))), len(images.classes)
    except EvalkitError:
        present = False
        name = cfg.data.rpartition("/")[2]
        count, classes = FASHION_MNIST if name == "fashion-mnist" else size_of(name, cfg.train_split) or IMAGENET
        remark = f"{where}: {count:,} training images of {classes} classes"
    count = min(count, cfg.limit or count)
    return Training(
        cfg.model,
        dict(cfg.model_args),
        cfg.image_size or 224,  # the images that would say are not there
        classes,
        count,
        cfg.epochs,
        cfg.ema is not None,
        where,
        present,
        remark,
    )
