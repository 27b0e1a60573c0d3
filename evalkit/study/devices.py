"""Which GPUs of this machine a job may use: each is held by a lock file while the job runs."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

FOLDER = "EVALKIT_DEVICES"  # environment variable: where the lock files lie


def count() -> int:
    """NVIDIA GPUs of this machine; 0 without the driver's own tool, which is quicker to ask than torch."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", errors="replace", check=False)
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


@contextlib.contextmanager
def taken(number: int, wait: float = 1.0) -> Iterator[dict[str, str]]:
    """Hold free GPUs; yields the environment variables that show a command just these.

    Where a scheduler has already chosen (Slurm), where there is no GPU, or fewer than asked for, nothing is held. The
    system frees the locks of a job that dies.

    Args:
        number: How many GPUs.
        wait: Seconds between two looks for free ones.
    """
    if "SLURM_JOB_ID" in os.environ or (present := count()) < number or number < 1:
        yield {}
        return
    folder = Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "evalkit" / "devices")
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = names or [str(i) for i in range(present)]
    with contextlib.ExitStack() as held:
        while True:
            free: list[str] = []
            for name in names:
                if len(free) < number and _held(held, folder / f"gpu-{name}.lock"):
                    free.append(name)
            if len(free) == number:
                break
            held.close()  # all or none, so that two jobs that want two each do not wait for one another
            time.sleep(wait)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(free)}


def _held(stack: contextlib.ExitStack, path: Path) -> bool:
    """Whether the lock could be taken; the stack keeps it."""
    file: IO[bytes] = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    stack.callback(file.close)
    return True
