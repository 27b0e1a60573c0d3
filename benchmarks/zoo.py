"""Make the checkpoints of the zoo from scratch: train, measure, and lay out each as it lies in evalkit/zoo.

    python -m benchmarks.zoo --out evalkit/zoo --work zoo-runs
    python -m benchmarks.zoo mixpro-digits --out zoo-out --work zoo-runs

One thread, so that the same machine and versions give the same bytes; it says whether they are those in the package.
About six minutes of one CPU core for each of the digits, three for each of Fashion-MNIST. The latter are cells of the
recorded study, trained again by its commands: a test puts their numbers beside those that the study recorded.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np

from evalkit import checkpoint, results, zoo
from evalkit.accuracy import PREDICTIONS
from evalkit.cli import invoke
from evalkit.errors import EvalkitError
from evalkit.recipe_text import flow
from evalkit.robustness import store
from evalkit.runtime import sha256_file
from evalkit.study import plan, spec

DIGITS = ["digits", "epochs=40"]
RESNET = ["digits", "epochs=10", "model=resnet10_cifar"]  # which learns them in fewer
SWITCHED = {"name": "mixup", "alpha": 0.8, "pairing": "flip"}
MIXUPS = {  # of mixpro and transmix the settings of the recipes digits-photo-*
    "vanilla": "vanilla",
    "mixup": {"name": "mixup", "alpha": 0.8},
    "cutmix": {"name": "cutmix", "alpha": 1.0},
    "transmix": {"choice": [SWITCHED | {"prob": 0.2}, {"name": "transmix", "prob": 0.8}]},
    "mixpro": {
        "choice": [
            {"name": "mixpro", "scale": 2, "prob": 0.5},
            SWITCHED | {"prob": 0.25},
            {"name": "cutmix", "pairing": "flip", "prob": 0.25},
        ]
    },
}
STUDY = "fashion-mnist"
CELLS = {f"{name.lower()}-fashion": f"{name}-vit_nano_patch4_32-seed0" for name in ("vanilla", "CutMix", "MixPro")}


def of_study(cell: str) -> list[list[str]]:
    """The commands of a cell of the study, its training first, each without `evalkit`."""
    study = spec.load(STUDY)
    jobs = plan.make(study, [c for c in study.cells if c.name == cell]).jobs
    return [job.argv for job in jobs]


# name -> what follows `evalkit train`
MEMBERS = {f"{name}-digits": [*DIGITS, f"mixup={flow(mixup)}"] for name, mixup in MIXUPS.items()}
MEMBERS["vanilla-resnet-digits"] = [*RESNET, "mixup=vanilla"]
MEMBERS |= {name: of_study(cell)[0][1:] for name, cell in CELLS.items()}


def measured(name: str) -> list[list[str]]:
    """What is measured of a member: a command, its subcommand if it has one, and its settings.

    Args:
        name: One of MEMBERS.
    """
    if name in CELLS:
        return [["eval"], *([verb, what, *settings] for verb, what, _, *settings in of_study(CELLS[name])[1:])]
    blind = any(word.startswith("model=resnet") for word in MEMBERS.get(name, ()))  # no class attention tells saliency
    return [["eval"], ["robustness", "occlusion", *(["modes=[random]"] if blind else [])]]


def make(name: str, work: Path, out: Path) -> Path:
    """Train and measure a member, where that was not done; returns its folder below `out`.

    Args:
        name: One of MEMBERS.
        work: Where the run and its measurements are kept.
        out: Where the zoo lies.
    """
    run, where = work / "runs" / name, work / "measured" / name
    words = [*MEMBERS[name], f"label={name}"]
    if not (run / results.FILE).exists():
        command("train", *words, "--out", str(run))
    where.mkdir(parents=True, exist_ok=True)
    source = str(run.resolve())
    with contextlib.chdir(where):  # so that no record holds a path of this machine
        for verb, *rest in measured(name):
            here = [word for word in ("workers=0", "device=cpu") if word not in rest]
            command(verb, *rest[:1], source, *rest[1:], *here, "--out", ".")
    return assemble(name, [*words, "--out", f"runs/{name}"], (run, where), out)


def assemble(name: str, words: list[str], made: tuple[Path, Path], out: Path) -> Path:
    """A member's folder below `out`: weights, meta.json, records, per-sample records, card. The one before it goes once
    this one is whole.

    Args:
        name: Of the member.
        words: What follows `evalkit train`.
        made: The run, and the folder of what was measured on it.
        out: Where the zoo lies.
    """
    source, folder = checkpoint.find_folder(made[0]), out / f".{name}.tmp"
    if source is None:
        raise EvalkitError(f"{made[0]} holds no checkpoint; train it first")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        _fill(folder, name, words, made, source)
        shutil.rmtree(out / name, ignore_errors=True)
        return folder.rename(out / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, name: str, words: list[str], made: tuple[Path, Path], source: Path) -> None:
    run, where = made
    file = checkpoint.FILES["raw"]
    shutil.copy(source / file, folder / file)
    meta = checkpoint.verify(source)
    meta["sha256"] = {file: meta["sha256"][file]}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for record in results.latest(results.read([run / results.FILE, where / results.FILE])):
        if record["checkpoint_sha256"] == meta["sha256"][file]:
            results.append(folder, {key: value for key, value in record.items() if key != "_dir"})
    shutil.copy(where / PREDICTIONS, folder / PREDICTIONS)
    shutil.copytree(where / "records", folder / "records")
    for path in (folder / "records").glob("*.npz"):
        pack(path)
    spec = f"{zoo.PREFIX}{name}"
    lines = [["evalkit", "train", *words]]
    lines += [["evalkit", verb, *rest[:1], spec, *rest[1:]] for verb, *rest in measured(name)]
    card = {"commands": [shlex.join(line) for line in lines]}
    (folder / zoo.CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def pack(path: Path) -> None:
    """Per-sample records in fewer bytes: the same arrays, compressed, since a checkout holds them too.

    Args:
        path: A .npz that `store.write` made.
    """
    found = store.read(path)
    if found is None:
        raise EvalkitError(f"{path} is damaged; remove its folder and measure again")
    arrays, about = found
    np.savez_compressed(path, allow_pickle=False, **arrays)
    about["sha256"] = sha256_file(path)
    path.with_suffix(".json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def command(*words: str) -> None:
    """A command of evalkit that must go through."""
    code, message = invoke(list(words))
    if code:
        raise EvalkitError(f"{' '.join(words)}: {message}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEMBERS)}; none: all")
    parser.add_argument("--work", type=Path, default=Path("zoo-runs"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the zoo")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in options.names or MEMBERS:
        before = zoo.located(f"{zoo.PREFIX}{name}") if name in zoo.names() else None
        known = None if before is None else checkpoint.verify(before)["sha256"]
        folder = make(name, options.work, options.out)
        same = {None: "new", True: "the bytes of the package"}.get(
            None if known is None else known == checkpoint.verify(folder)["sha256"],
            "other bytes than the package's: another machine, versions or code",
        )
        print(f"{folder}: {same}")


if __name__ == "__main__":
    try:
        main()
    except EvalkitError as e:
        raise SystemExit(f"error: {e}") from None
    except OSError as e:
        raise SystemExit(f"error: {e.filename or 'the folder of the zoo'}: {e.strerror}") from None
