"""`evalkit doctor`: what is installed, what this machine offers, what is missing and the command that mends it."""

import getpass
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from packaging.requirements import Requirement

from . import __version__

OK, OPTIONAL, PROBLEM = "ok", "optional", "problem"
PACKAGE_OF = {"cv2": "opencv-python", "sklearn": "scikit-learn"}
COLOURS = {OK: "green", OPTIONAL: "yellow", PROBLEM: "red"}
INSTALL = "pip install -c constraints.txt -e ."
PATH = re.compile(r"(?<![\w.~:/])~?/[^\s'\"]*/([^\s'\"/]+)")  # of a file or folder; its last part stays
# what else decides how evalkit runs, values without names of people and machines
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONUTF8", "WANDB_MODE", "LANG")
DINO = "vit_small_patch16_224.dino"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: What was looked at.
        found: What is there.
        status: How it is: ok, or what is the matter.
        mend: The command or setting that helps, if anything is to be done.
    """

    name: str
    found: str
    status: str = OK
    mend: str = ""


def run() -> int:
    """Print every check; 1 if there is a problem, else 0. What is optional is no problem."""
    found = list(checks())
    show(found)
    problems = sum(c.status == PROBLEM for c in found)
    print(f"{problems} problem{'s' * (problems != 1)}" if problems else "everything that evalkit needs is there")
    return 1 if problems else 0


def report() -> int:
    """Print what a bug report needs, as Markdown: versions, hardware and every check, without paths, names of people or
    hosts. Returns as `run`."""
    found = list(checks())
    facts = [
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}, {' '.join(platform.libc_ver())}"),
        ("installed", _installation()),
        *((name, os.environ[name]) for name in SETTINGS if name in os.environ),
    ]
    lines = [f"{name}: {value}" for name, value in facts]
    lines += [f"{c.status:8}  {c.name}: {c.found}" for c in found]
    print("```text", *map(anonymous, lines), "```", sep="\n")
    return 1 if any(c.status == PROBLEM for c in found) else 0


def _installation() -> str:
    """How evalkit came here, and which commit runs where it is a checkout."""
    from .runtime import commit

    checkout = commit()
    return "from a wheel" if checkout is None else f"a checkout at {checkout}"


def anonymous(text: str) -> str:
    """`text` without the folders of paths, the user's name and the machine's.

    >>> anonymous("ImportError: /home/me/venv/lib/x.so: undefined symbol")
    'ImportError: .../x.so: undefined symbol'
    """
    own = {os.path.expanduser("~"), os.getcwd(), sys.prefix, sys.base_prefix, str(Path(__file__).parents[1])}
    for folder in sorted(own - {"/", "~"}, key=len, reverse=True):  # these may hold blanks
        text = text.replace(folder, "...")
    text = PATH.sub(r".../\1", text)
    for name in {platform.node(), platform.node().partition(".")[0], _user()} - {"", "root", "localhost"}:
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry for this number
        return ""


def checks() -> Iterator[Check]:
    """All checks, in the order in which they matter."""
    yield Check("evalkit", __version__)
    yield python()
    yield from packages()
    yield from imports()
    yield from devices()
    yield from memory_and_disk()
    yield from data()


def python() -> Check:
    """Whether this Python is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        Check("python", version)
        if sys.version_info >= (3, 11)
        else Check("python", version, PROBLEM, "evalkit needs Python 3.11 or newer")
    )


def packages() -> Iterator[Check]:
    """Every requirement of the installed evalkit, and the torch that torchvision was built for."""
    wanted = {r.name: r for r in requires("evalkit") if r.name != "evalkit"}  # an extra may name others of its own
    if not wanted:
        yield Check(
            "installation",
            "not installed but run from its source folder, so requirements are not checked",
            OPTIONAL,
            INSTALL,
        )
    for pair in (r for r in requires("torchvision") if r.name in wanted):
        wanted[pair.name].specifier &= pair.specifier
    for name, requirement in wanted.items():
        extra = requirement.marker is not None and "extra" in str(requirement.marker)
        version, needed = installed(name), requirement.specifier
        if version is not None and needed.contains(version, prereleases=True):
            yield Check(name, f"{version} ({needed})")
        else:
            yield Check(
                name,
                f"{version or 'not installed'}, needs {needed}",
                OPTIONAL if extra else PROBLEM,
                f"pip install '{name}{needed}'",
            )


def requires(package: str) -> list[Requirement]:
    """What an installed package declares; nothing for one that is not installed."""
    try:
        return [Requirement(text) for text in metadata.requires(package) or []]
    except metadata.PackageNotFoundError:
        return []


def installed(package: str) -> str | None:
    """The version of a package, None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def imports() -> Iterator[Check]:
    """Whether the compiled packages load: versions that look right can still not fit together."""
    for name in ("torch", "torchvision", "timm", "cv2", "sklearn"):
        try:
            import_module(name)
        except Exception as e:
            with_partner = "torch torchvision" if name.startswith("torch") else PACKAGE_OF.get(name, name)
            yield Check(
                f"import {name}",
                f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}",
                PROBLEM,
                f"pip install --force-reinstall {with_partner}",
            )


def devices() -> Iterator[Check]:
    """CPU cores and GPUs."""
    yield Check(
        "CPU", f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores usable"
    )
    try:
        import torch
    except Exception:
        return  # reported by `imports`
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: use amp=fp16"
        yield Check(f"GPU {i}", f"{p.name}, {p.total_memory / 2**30:.0f} GiB, {bf16}")
    if not torch.cuda.is_available():
        yield Check(
            "GPU",
            "none; everything runs on the CPU",
            OPTIONAL,
            "for ImageNet recipes use a machine with a GPU and its driver",
        )


def memory_and_disk() -> Iterator[Check]:
    """Memory, room on the disk, and whether this folder can be written to."""
    free = shutil.disk_usage(".").free / 2**30
    yield Check(
        "disk",
        f"{free:.1f} GiB free here",
        OK if free > 1 else PROBLEM,
        "" if free > 1 else "free some space, or name another folder with --out",
    )
    if not os.access(".", os.W_OK):
        yield Check("folder", "this folder cannot be written to", OPTIONAL, "name another one with --out")
    if os.path.isdir("/dev/shm"):
        shared = shutil.disk_usage("/dev/shm").total / 2**20
        small = shared < 1024
        yield Check(
            "shared memory",
            f"{shared:.0f} MiB",
            OPTIONAL if small else OK,
            "workers=0, or give the container more: --shm-size=4g" if small else "",
        )


def data() -> Iterator[Check]:
    """Data and weights that do not come with evalkit."""
    try:
        from huggingface_hub import try_to_load_from_cache

        from .data.embedded import FASHION_FOLDER
    except Exception:
        return  # a package does not load: reported by `imports`
    if FASHION_FOLDER.is_dir():
        yield Check("fashion-mnist", str(FASHION_FOLDER))
    else:
        yield Check(
            "fashion-mnist",
            "not found",
            OPTIONAL,
            "apt install dataset-fashion-mnist, or data_dir=DIR with its four idx.gz files",
        )
    if isinstance(try_to_load_from_cache(f"timm/{DINO}", "model.safetensors"), str):
        yield Check("DINO weights", "in timm's cache")
    else:
        mend = (
            f"python -c \"import timm; timm.create_model('{DINO}', pretrained=True)\" on a machine with the network, or"
            " saliency=FILE"
        )
        yield Check("DINO weights", "not in timm's cache; published occlusion needs them", OPTIONAL, mend)


def show(found: list[Check]) -> None:
    """A table on a terminal, plain lines otherwise."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("", "found", "status", "what to do", box=None)
        for c in found:
            table.add_row(c.name, Text(c.found), Text(c.status, COLOURS[c.status]), Text(c.mend))
        Console().print(table)
        return
    for c in found:
        print(f"{c.status:8}  {c.name}: {c.found}" + (f"; {c.mend}" if c.mend else ""))
