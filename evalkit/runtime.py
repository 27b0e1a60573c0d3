"""Where and how a run executes: derived randomness, device, processes, environment record."""

import contextlib
import functools
import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from . import __version__
from .errors import EvalkitError
from .files import parse_json as parse_json
from .files import sha256_file as sha256_file
from .files import sync_folder as sync_folder
from .files import write_atomic as write_atomic
from .files import write_together as write_together

# ---- randomness: derived from keys, never stored, so that resuming or another number of workers or processes changes
# nothing


def derive_key(*keys: str | int) -> int:
    """A 128-bit integer that depends on all `keys` (strings and integers) and on nothing else."""
    text = "\x1f".join(f"{type(k).__name__}:{k}" for k in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


class _Key(np.random.bit_generator.ISeedSequence):
    """The key of a Philox. Given by its argument `key` it would take 40 us: NumPy then draws a seed and leaves it."""

    def __init__(self, key: int):
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.array([self.key & 2**64 - 1, self.key >> 64], np.uint64)


def derive_rng(*keys: str | int) -> np.random.Generator:
    """Independent generator for `keys`, e.g. derive_rng(seed, "mix", step, group)."""
    return np.random.Generator(np.random.Philox(_Key(derive_key(*keys))))  # type: ignore[arg-type]  # narrow in NumPy


def seed_torch(*keys: str | int) -> None:
    """Seed torch's default generators (CPU and CUDA) from `keys`: dropout and stochastic depth inside a model can draw
    from nowhere else."""
    torch.manual_seed(derive_key(*keys) % 2**63)


# ---- device and processes

# that a process waits for the others in an exchange before it says so and ends: more than what the first does alone
TIMEOUT = timedelta(minutes=30)


def pick_device(name: str | None = None) -> torch.device:
    """`name`, or this process's GPU where one is there, else the CPU. Raises EvalkitError for a GPU that is not there
    or no device at all."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EvalkitError(f"device '{name}' asked for, but torch sees no GPU; use device=cpu or see `evalkit doctor`")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise EvalkitError(f"unknown device '{name}'; use cpu, cuda or cuda:N")
    if device.type == "cuda" and 0 < torch.cuda.device_count() <= device.index:
        raise EvalkitError(
            f"device '{name}' asked for, but torch sees {torch.cuda.device_count()} GPUs, from cuda:0 on"
        )
    return device


def rank() -> int:
    """The number of this process, 0 where there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that speaks and writes."""
    return rank() == 0


def init_processes(device: torch.device) -> None:
    """Join the process group when started by torchrun (WORLD_SIZE > 1); otherwise do nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)


def leave_processes() -> None:
    """Leave the process group, if this process has joined one."""
    if dist.is_initialized():
        # torch 2.6 waits here for a thread, and holds the interpreter that this one needs to give back the tensors of
        # the last exchange: one in ten runs never ended
        time.sleep(0.1)
        dist.destroy_process_group()


def gather_objects(obj: Any) -> list[Any]:
    """The object of every process, in rank order, on every process."""
    if world_size() == 1:
        return [obj]
    out: list[Any] = [None] * world_size()
    dist.all_gather_object(out, obj)
    return out


def environment(device: torch.device | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Versions and hardware for a results record: no host name, no path.

    Args:
        device: Where it runs; None: the CPU.
        packages: Packages besides the usual ones whose versions matter.
    """
    env: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "evalkit": __version__,
    }
    for package in ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", *packages):
        try:
            env[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            env[package] = None
    env |= {"threads": torch.get_num_threads(), "processes": world_size()}
    env["commit"] = commit()
    env["device"] = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else "cpu"
    return env


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this code runs from, with "+changes" where a tracked file differs from it; None
    where it runs from no checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    git = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        head, changes = (
            subprocess.run(
                [*git, *words], capture_output=True, encoding="utf-8", errors="replace", check=True
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+changes" if changes else head


def available_memory() -> int | None:
    """Bytes of memory that this machine, or the container this process runs in, can still give; None where the system
    does not say."""
    machine = _numbers("/proc/meminfo")
    if "MemAvailable:" not in machine:
        return None
    free = 1024 * machine["MemAvailable:"]
    group = Path("/sys/fs/cgroup")  # version 2; what it has read of files it gives back
    most, used = (_numbers(group / name) for name in ("memory.max", "memory.current"))
    if "" in most and "" in used:
        cached = _numbers(group / "memory.stat")
        files = cached.get("active_file", 0) + cached.get("inactive_file", 0)
        free = min(free, max(0, most[""] - used[""] + files))
    return free


def _numbers(path: str | Path) -> dict[str, int]:
    """Name -> number of the lines "name number" of a file of the kernel; a number alone has the name ""."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            *name, number = line.split()[:2] or [""]
            if number.isdecimal():
                found["".join(name)] = int(number)
    return found


# ---- files
