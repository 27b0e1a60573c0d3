"""The commands. They import what they need when they run, so that `evalkit --help` is quick."""

from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import EvalkitError, unknown
from ..text import say
from . import (
    bench,
    compare,
    complete,
    described,
    doctor,
    export,
    mixup,
    pack,
    processes,
    recipes,
    report,
    schemas,
    show,
    study,
    zoo,
)
from .words import Overrides, check_overrides, split

#: The command line, a Typer application; give it commands of yours.
app = typer.Typer(
    help="Train image classifiers with any mixup, and measure whether the checkpoint is good, transfers and holds.",
    epilog="""\b
Examples:
  evalkit train digits-photo mixup=mixpro --out runs/mixpro
  evalkit train deit-300 data_dir=imagenet --gpus 8
  evalkit transfer seg runs/mixpro
  evalkit robustness occlusion runs/mixpro --out runs/occlusion
  evalkit report runs
""",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(bench.app, name="bench")
app.add_typer(mixup.app, name="mixup")
app.add_typer(recipes.app, name="recipes")
app.add_typer(study.app, name="study")
app.add_typer(zoo.app, name="zoo")


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, help="print the version and exit", callback=lambda v: _version(v)),
    ] = False,
) -> None:
    pass


def _version(wanted: bool) -> None:
    if wanted:
        print(f"evalkit {__version__}")
        raise typer.Exit()


@app.command(
    cls=schemas.with_keys(schemas.train),
    epilog="""\b
Examples:
  evalkit train digits-photo                                   the embedded data, about two minutes on a laptop
  evalkit train digits-photo mixup=transmix mixup.alpha=0.5    another method, one of its arguments
  evalkit train digits-photo 'mixup={choice: [{name: mixup, prob: 0.2}, {name: transmix, prob: 0.8}]}'
  evalkit train mixpro data_dir=imagenet --gpus 8              ImageNet folders train/ and val/
  evalkit train runs/mine/config.yaml seed=1 --out runs/mine-1
  evalkit train --resume runs/mine workers=8
  srun --nodes=4 --ntasks-per-node=1 evalkit train mixpro data_dir=imagenet --gpus 8
""",
)
def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE KEY=VALUE",
            help="a recipe's name or YAML file, then values that replace its own",
            autocompletion=complete.words,
            show_default=False,
        ),
    ] = None,
    gpus: processes.Gpus = None,
    nodes: processes.Nodes = None,
    rendezvous: processes.Rendezvous = None,
    out: Annotated[Path | None, typer.Option(help="folder for the run", show_default="runs/DATA-METHOD-seedN")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="continue the run in this folder, by its own config; needs no RECIPE", show_default=False),
    ] = None,
) -> int:
    """Train a classifier by a recipe.

    Writes checkpoints, logs, the resolved config and results into a folder; a stopped run continues from there exactly.
    """
    recipe, overrides = split(words)
    if len(recipe) > 1:
        images = next((f", a folder of images data_dir={word}" for word in recipe[1:] if Path(word).is_dir()), "")
        raise EvalkitError(
            f"one recipe at a time, but got {', '.join(recipe)}; overrides are written key=value{images}"
        )
    if not recipe and resume is None:
        raise EvalkitError("which recipe? Name one of `evalkit recipes list`, or continue a run with --resume DIR")
    if resume is not None and out is not None and out != resume:
        raise EvalkitError(f"--resume continues the run inside {resume}; leave out --out")
    from .. import config
    from ..train.config import TrainConfig

    # Read before any process is started: a wrong key is reported once, and at once.
    cfg = config.load(TrainConfig, recipe[0], overrides) if resume is None else None
    if (code := processes.across(gpus, nodes, rendezvous)) is not None:
        return code
    from ..train.run import train as run

    if resume is None:
        return run(cfg, out)
    if recipe:
        say(f"continuing {resume} by its own config.yaml; recipe '{recipe[0]}' is not read again")
    return run(None, resume=resume, overrides=overrides)


@app.command(
    cls=schemas.with_keys(schemas.eval),
    epilog="""\b
Examples:
  evalkit eval runs/mine --data imagenet/val
  evalkit eval runs/mine/best --data digits-photo
  evalkit eval runs/cifar data_dir=cifar-100-python                the test part of the set that the run was trained on
  evalkit eval deit_small_patch16_224 --data imagenet/val --out runs/deit
""",
)
def eval(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="a run or checkpoint folder, zoo:NAME, a weights file, or a timm model name",
            autocompletion=complete.words,
        ),
    ],
    overrides: Overrides = None,
    data: Annotated[
        str | None,
        typer.Option(help="a folder of class folders, or data by name (with data_dir=DIR)", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="folder for results.jsonl and the predictions as CSV", show_default="the run, or runs/NAME"),
    ] = None,
) -> int:
    """Accuracy of a checkpoint on a folder of images.

    Top-1 and top-5, with every prediction as CSV.
    """
    check_overrides(overrides)
    from ..accuracy import evaluate

    return evaluate(checkpoint, data, out, overrides or [])


@app.command(
    cls=schemas.with_keys(schemas.transfer, "Tasks", described.transfers),
    epilog="""\b
Examples:
  evalkit transfer seg runs/mixpro                                     the embedded scenes, minutes on a laptop
  evalkit transfer seg runs/mixpro head=segmenter --ms
  evalkit transfer seg runs/mixpro init=random                         the same without the weights
  evalkit transfer seg deit.pth model=deit_small_patch16_224 data=pascal-context data_dir=DIR --gpus 8
  evalkit transfer seg runs/mixpro data=DIR mm.optim_wrapper.optimizer.lr=0.01
  evalkit transfer det runs/pvt                                        Mask R-CNN on the embedded scenes
  evalkit transfer det pvt_small.pth model=pvt_small data=coco data_dir=DIR --gpus 8
  evalkit transfer det runs/pvt config=retinanet_r50_fpn_1x_coco       any config of mmdetection or mmsegmentation
  evalkit transfer cls runs/mixpro data=digits                         linear probe; or mode=knn, mode=fewshot
  evalkit transfer cls runs/mixpro data=MY mode=finetune epochs=10     own folders MY/train and MY/val
  evalkit transfer seg --resume runs/mine
""",
)
def transfer(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK", help="what to train and measure, one of those below", autocompletion=complete.words
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CKPT KEY=VALUE",
            help="a run or checkpoint folder, zoo:NAME, a weights file or a timm name; then settings",
            show_default=False,
            autocompletion=complete.words,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="a recipe's name or YAML file", show_default="the one for the data", autocompletion=complete.recipes
        ),
    ] = None,
    ms: Annotated[bool, typer.Option("--ms", help="also test at several scales and flipped, as ms=true")] = False,
    gpus: processes.Gpus = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for the run", show_default="runs/TASK-DATA-...-seedN")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="continue the run in this folder, by its own config; needs no CKPT", show_default=False),
    ] = None,
) -> int:
    """Segmentation, detection or other classes from a checkpoint.

    Trains a decoder and the backbone together and measures them; a stopped run continues from where it was. Classes
    come from frozen features, or from fine-tuning.
    """
    if task not in described.transfers():
        raise unknown("transfer", task, described.transfers())
    checkpoint, overrides = split(words)
    if len(checkpoint) > 1:
        raise EvalkitError(f"one checkpoint at a time, but got {', '.join(checkpoint)}; settings are written key=value")
    if bool(checkpoint) == (resume is not None):
        raise EvalkitError(
            "give either a checkpoint (a run or checkpoint folder, a weights file, a timm name) or --resume DIR"
        )
    if resume is not None and (out is not None or recipe is not None or ms):
        raise EvalkitError(f"--resume continues the run inside {resume} as it is; leave out --out, --recipe and --ms")
    protocol = described.transfers()[task]
    found = protocol.load()
    if ms and not hasattr(protocol.config, "ms"):
        takers = ", ".join(name for name, p in described.transfers().items() if hasattr(p.config, "ms"))
        raise EvalkitError(f"--ms belongs to {takers}; {task} is tested at one scale")
    overrides += ["ms=true"] * ms
    if checkpoint and (instead := found.training(checkpoint[0], overrides)) is not None:
        if recipe is not None:
            raise EvalkitError("fine-tuning has the recipe `finetune`; name another to `evalkit train` itself")
        print(f"evalkit train {' '.join(instead)}", flush=True)
        return train(instead, gpus=gpus, out=out)
    cfg = None if resume is not None else described.settings("transfer", task, overrides, recipe)[1]
    if processes.several(gpus):
        return processes.spawn(gpus)
    return found.transfer(checkpoint[0] if checkpoint else None, cfg, out, resume, overrides)


@app.command(
    cls=schemas.with_keys(schemas.robustness, "Protocols", described.robustness),
    epilog="""\b
Examples:
  evalkit robustness occlusion zoo:mixpro-digits                          comes with evalkit, with its data
  evalkit robustness occlusion runs/vanilla runs/mixpro --data digits-photo --out runs/occlusion
  evalkit robustness imagenet-a deit_small_patch16_224 --data imagenet-a
  evalkit robustness imagenet-o runs/deit --data imagenet-o --id imagenet/val
  evalkit robustness imagenet-val deit.pth model=deit_small_patch16_224 --data ILSVRC2012_img_val val_labels=val.txt
  evalkit robustness imagenet-val deit_small_patch16_224 --data torch/imagenet data_dir=imagenet
  evalkit robustness occlusion runs/mixpro --recipe occlusion-shuffle 'shuffle=[2, 4, 8]'
  evalkit robustness pgd runs/mixpro 'eps=[2, 4]' steps=20
  evalkit robustness all runs/mixpro --data-root datasets
""",
)
def robustness(
    protocol: Annotated[
        str,
        typer.Argument(
            metavar="PROTOCOL",
            help="what to measure, one of those below; all: each of them whose data are found",
            autocompletion=complete.words,
        ),
    ],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL_OR_CKPT... KEY=VALUE",
            help="run or checkpoint folders, zoo:NAME, weights files or timm model names; then settings",
            autocompletion=complete.words,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="a folder of class folders, or data by name (with data_dir=DIR)", show_default=False),
    ] = None,
    id: Annotated[
        str | None,
        typer.Option(help="the in-distribution images, of a protocol that has two sides", show_default=False),
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(help="all: the folder that holds imagenet-a, imagenet/val ...", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for results.jsonl and the per-sample records", show_default="results")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="a recipe's name or YAML file", show_default="the protocol's own", autocompletion=complete.recipes
        ),
    ] = None,
    gpus: processes.Gpus = None,
) -> int:
    """How a checkpoint holds.

    Under dropped patches, on natural adversarial examples, other photographs and renditions, corruptions, images of
    unknown classes, and under attack.
    """
    models, overrides = split(words)
    if not models:
        raise EvalkitError("which model? Give a run folder, a checkpoint, a weights file or a timm model name")
    known, everything = described.robustness(), protocol == "all"
    if not everything and protocol not in known:
        raise unknown("protocol", protocol, [*known, "all"])
    if id is not None and (everything or "id_data" not in known[protocol].needs):
        takers = ", ".join(name for name, p in known.items() if "id_data" in p.needs)
        has = "--data-root" if everything else "only --data"
        raise EvalkitError(f"--id belongs to {takers}; {protocol} has {has}")
    if data_root is not None and not everything:
        raise EvalkitError(f"--data-root belongs to all; {protocol} has --data")
    if data is not None and everything:
        raise EvalkitError("all has --data-root, the folder that holds the sets, instead of --data")
    if recipe is not None and everything:
        raise EvalkitError("--recipe belongs to one protocol; all runs each by its own")
    given = (("data", data), ("id_data", id), ("data_root", data_root), ("out", out))
    overrides += [f"{key}={value}" for key, value in given if value is not None]
    from .. import config, robustness

    if everything:
        shared = config.load(robustness.AllConfig, None, overrides)
        return processes.spawn(gpus) if processes.several(gpus) else robustness.run_all(models, shared)
    cfg = described.settings("robustness", protocol, overrides, recipe)[1]
    return processes.spawn(gpus) if processes.several(gpus) else robustness.run(protocol, models, cfg)


app.command(epilog=compare.EPILOG)(compare.compare)
app.command(epilog=show.EPILOG)(show.show)


app.command(epilog=report.EPILOG)(report.report)
app.command(epilog=pack.EPILOG)(pack.pack)
app.command(cls=schemas.with_keys(schemas.export), epilog=export.EPILOG)(export.export)
app.command(epilog=doctor.EPILOG)(doctor.doctor)
