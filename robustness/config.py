"""The keys that protocols of `evalkit robustness` share; those of one alone stand beside its description, in about/."""

from dataclasses import dataclass
from typing import Any

from evalkit import shared_keys
from evalkit.keys import Keys, key


@dataclass(frozen=True)
class ProtocolConfig(Keys):
    """What every protocol takes."""

    data: str | None = key(
        None,
        "the protocol's data folder, or an embedded set; null: the embedded stand-in of what the checkpoint was trained"
        " on",
        role="place",
    )
    out: str = key("results", "folder for results.jsonl and the per-sample records", role="place")
    preprocess: str | None = key(
        None,
        "what happens to an image before the network; null: native for embedded sets, else published; imagenet-val: run"
        " for a checkpoint of a run",
        choices={
            "run": "as the checkpoint's run prepared its validation images",
            "published": "shorter side to size * 256 / 224, bilinear, centre crop",
            "model": "as timm says for this model",
            "native": "nothing, the images have the network's size",
        },
    )
    model: str | None = shared_keys.architecture()
    model_args: dict[str, Any] = shared_keys.architecture_args()
    weights: str | None = shared_keys.which_weights()
    forward_batch: int = shared_keys.forward_batch()
    batch_size: int = shared_keys.reading_batch()
    workers: int = shared_keys.evaluation_workers()
    device: str | None = shared_keys.device()
    limit: int | None = key(
        None, "evaluate this many images of each set, evenly spaced; null: all", unit="images", least=1
    )
    on_error: str = key(
        "fail",
        "what happens to an unreadable image",
        choices={"fail": "left out, listed, the result incomplete (exit code 2)", "skip": "left out and counted"},
    )
    allow_partial: bool = key(False, "accept a data folder with missing classes or images")


@dataclass(frozen=True)
class ValConfig(ProtocolConfig):
    """What the protocols on ImageNet val take besides."""

    val_labels: str | None = key(
        None,
        "classes of images that lie there without class folders: a file of names and WordNet ids, or the development"
        " kit's ground truth",
        role="place",
    )


@dataclass(frozen=True)
class CleanConfig(ValConfig):
    """What the protocols take that read clean images alone: these may be given by name, as in training."""

    data_dir: str | None = key(
        None,
        "the folder of data that are given by name: a published set such as cifar100, or what timm reads, such as"
        " torch/imagenet",
        role="place",
    )
    split: str | None = key(
        None, "their part; null: the one that the checkpoint's run validated on, else val", role="place"
    )


@dataclass(frozen=True)
class ClassificationConfig(ProtocolConfig):
    """Accuracy, calibration and selective prediction; an unreadable image can count as a wrong answer of no
    confidence."""

    on_error: str = key(
        "fail",
        "what happens to an unreadable image",
        choices={
            "fail": "left out, listed, the result incomplete (exit code 2)",
            "skip": "left out and counted",
            "wrong": "a wrong answer of no confidence",
        },
    )


@dataclass(frozen=True)
class AllConfig(ValConfig):
    """What all protocols share, for running each whose data are there."""

    data_root: str | None = key(
        None,
        "the folder that holds the sets; null: the embedded stand-ins of what the checkpoint was trained on",
        role="place",
    )
