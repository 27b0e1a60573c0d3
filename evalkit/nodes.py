"""Several machines that train together: how many, and where they meet."""

import os
import subprocess
from dataclasses import dataclass

from .errors import EvalkitError

JOIN_SECONDS = 600  # a machine waits so long for the others
PORTS = (20_000, 60_000)  # one of these for each job of Slurm, that two jobs which share a node seldom share


@dataclass(frozen=True)
class Meeting:
    """Where several machines meet.

    Args:
        nodes: How many they are.
        endpoint: HOST:PORT of one of them.
        id: A name that they have in common.
    """

    nodes: int
    endpoint: str
    id: str = "evalkit"

    def options(self) -> list[str]:
        """The options of torchrun that mean it."""
        return [
            f"--nnodes={self.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={self.endpoint}",
            f"--rdzv-id={self.id}",
            f"--rdzv-conf=join_timeout={JOIN_SECONDS}",
        ]


def meeting(nodes: int | None, endpoint: str | None) -> Meeting | None:
    """Where machines meet, None for one alone. What is not given comes from the variables of a Slurm step, if this is
    one. Raises EvalkitError where it is not known where to meet, or a step has several tasks on a node.

    Args:
        nodes: How many machines.
        endpoint: HOST:PORT of one of them.
    """
    step = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    nodes = nodes or step
    if nodes == 1:
        if endpoint is not None:
            raise EvalkitError("--rendezvous is where several machines meet; say how many with --nodes")
        return None
    if endpoint is not None:
        if not endpoint.rpartition(":")[0] or not endpoint.rpartition(":")[2].isdigit():
            raise EvalkitError(f"--rendezvous is HOST:PORT, such as node1:29400, but got '{endpoint}'")
        return Meeting(nodes, endpoint)
    if step != nodes:
        raise EvalkitError(
            f"--nodes {nodes} needs --rendezvous HOST:PORT, one of the machines and a free port on it, unless srun"
            f" starts the command on {nodes} nodes"
        )
    if os.environ["SLURM_STEP_NUM_TASKS"] != str(nodes):
        raise EvalkitError(
            f"srun started {os.environ['SLURM_STEP_NUM_TASKS']} tasks on {nodes} nodes; start one on each"
            " (--ntasks-per-node=1) and say how many processes each makes with --gpus"
        )
    job, number = int(os.environ["SLURM_JOB_ID"]), os.environ["SLURM_STEP_ID"]
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    host = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True).stdout.split()[
        0
    ]
    return Meeting(nodes, f"{host}:{PORTS[0] + job % (PORTS[1] - PORTS[0])}", f"{job}.{number}")
