"""Keys that several configurations have in common, described once."""

from typing import Any

from .keys import key


def architecture() -> Any:
    """`model` of a command that takes checkpoints."""
    return key(None, "architecture of a bare weights file", role="place")


def architecture_args() -> Any:
    """`model_args` of a command that takes checkpoints."""
    return key({}, "arguments passed to its constructor", role="place")


def which_weights() -> Any:
    """`weights`: those that the optimizer left or their average."""
    return key(
        None,
        "which weights of a checkpoint; null: the averaged ones where it holds them",
        choices={"raw": "as the optimizer left them", "ema": "their moving average"},
        role="place",
    )


def reading_batch() -> Any:
    """`batch_size` of an evaluation."""
    return key(64, "what a loader process reads at a time", unit="images", least=1, role="execution")


def forward_batch() -> Any:
    """`forward_batch` of an evaluation."""
    return key(
        64,
        "rows of a forward pass, always filled up; the only size that can show in the last bits",
        unit="images",
        least=1,
        role="bits",
    )


def evaluation_workers() -> Any:
    """`workers` of an evaluation."""
    return key(2, "processes that load images", least=0, role="execution")


def training_workers() -> Any:
    """`workers` of a training."""
    return key(2, "processes that load images, per training process", least=0, role="execution")


def training_threads() -> Any:
    """`threads` of a training."""
    return key(
        None,
        "CPU threads per process, pinned as the number moves the last bits; null: all",
        least=1,
        most=1024,
        role="bits",
    )


def device() -> Any:
    """`device` of any command that computes."""
    return key(None, "cpu, cuda or cuda:N; null: a GPU if there is one", role="execution")
