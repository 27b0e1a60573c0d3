"""Hand a plan to Snakemake, which knows what is done, what waits, and where it may run."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import EvalkitError
from . import devices, plan

SLURM = ("--executor", "slurm", "--slurm-requeue")
# Slurm sends it so many seconds before a job's time limit; job.py knows what to do.
WARNING = "--signal=USR1@120"
# the folder may be another person's: no yaml.py that lies in it is run instead of yaml
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
GPUS = ("gpu", "gpus", "nvidia_gpu", "gres")  # resources by which a Slurm job asks for them


def run(folder: Path, *, jobs: int, slurm: Sequence[str] | None = None, profile: Path | None = None) -> int:
    """Run what is left of the plan in `folder`. A job that fails stops no other but those that need it.

    Args:
        folder: of the study, with its plan.json.
        jobs: how many run at once.
        slurm: KEY=VALUE resources of a Slurm job; None: on this machine. A job asks for the GPUs of its command unless
            they say how many; slurm_extra (options of sbatch) may hold another --signal=USR1@SECONDS, the warning
            before the time limit at which a training saves and is requeued.
        profile: a Snakemake profile's folder, handed on as it is.

    Raises EvalkitError where Snakemake is not installed.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise EvalkitError("studies run on Snakemake, which is not installed; pip install 'evalkit[study]'")
    if slurm is not None and importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise EvalkitError("--slurm needs Snakemake's plug-in; pip install snakemake-executor-plugin-slurm")
    for job in plan.read(folder).jobs:  # what was finished outside of the engine counts as well
        mark = folder / "done" / job.id
        if plan.finished(folder, job):
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
        else:
            mark.unlink(missing_ok=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(Path(__file__).with_name("Snakefile"))]
    folder = folder.resolve()
    by_hand = any(word.partition("=")[0] in GPUS for word in slurm or ())
    command += ["--directory", str(folder), "--config", f"study={folder}", f"ask_gpus={int(not by_hand)}"]
    command += ["--keep-going", "--quiet", "all", "--workflow-profile", "none"]  # none that lies in the folder
    command += ["--rerun-incomplete", "--rerun-triggers", "mtime", "--nolock", "--jobs", str(jobs)]
    if slurm is not None:
        command += [*SLURM, "--default-resources", *_resources(slurm)]
    elif gpus := devices.count():
        command += ["--resources", f"gpu={gpus}"]
    if profile is not None:
        command += ["--profile", str(profile)]
    process = subprocess.run(command, env=os.environ | ENVIRONMENT)
    return process.returncode


def _resources(words: Sequence[str]) -> list[str]:
    """The KEY=VALUE `words` with the warning before the time limit among the options of sbatch."""
    extra = next((w.partition("=")[2].strip("'\"") for w in words if w.startswith("slurm_extra=")), "")
    extra = extra if "--signal" in extra else f"{extra} {WARNING}".strip()
    return [*(w for w in words if not w.startswith("slurm_extra=")), f"slurm_extra={extra!r}"]
