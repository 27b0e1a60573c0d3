"""A Slurm of one node on this machine, in a folder of its own: munged, slurmctld and slurmd, ended by their numbers."""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ... import ports

ASKED = "EVALKIT_TEST_SLURM"  # environment variable: 1 starts one
CONF = """
ClusterName=evalkit
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
KillWait=300
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
STARTED = 300.0  # seconds until all of it must be there; as a rule, a few


def obstacle() -> str | None:
    """Why no Slurm is started here, or None."""
    if os.environ.get(ASKED) != "1":
        return f"needs {ASKED}=1, and the Debian packages slurm-wlm and munge"
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]:
        return f"{', '.join(missing)} is not installed (apt-get install slurm-wlm munge)"
    if "SLURM_CONF" in os.environ or Path("/etc/slurm/slurm.conf").exists():
        return "a Slurm is configured on this machine already, which a test must not touch"
    return None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start it in `folder`, whose path must be short (a socket lies there); yields the variables its commands need."""
    host, numbers = socket.gethostname().split(".")[0], [ports.free(), ports.free()]
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, ports=numbers, user=getpass.getuser()))
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    munged = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    munged += [f"--{what}-file={folder}/munged.{what}" for what in ("pid", "log", "seed")]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with (folder / "daemons.log").open("wb") as log:
            for command, answers in (
                (munged, (folder / "munge.socket").exists),
                (["slurmctld", "-D"], lambda: "is UP" in _said(["scontrol", "ping"], environment)),
                (["slurmd", "-D", "-N", host], lambda: "idle" in _said(["sinfo", "-h", "-o", "%T"], environment)),
            ):
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                end = time.monotonic() + STARTED
                while not answers():
                    if time.monotonic() > end or any(p.poll() is not None for p in processes):
                        raise RuntimeError((folder / "daemons.log").read_text()[-2000:])
                    time.sleep(0.2)
        # Snakemake's plug-in takes SLURM_CONF from the environment of the srun within a job
        srun = f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
        (folder / "bin" / "srun").write_text(srun)
        (folder / "bin" / "srun").chmod(0o755)
        path = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
        yield {"SLURM_CONF": environment["SLURM_CONF"], "PATH": path}
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, check=False)
        end = time.monotonic() + STARTED
        while _said(["squeue", "-h"], environment).strip() and time.monotonic() < end:
            time.sleep(0.5)  # no step may outlive the daemons
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _said(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
