"""What accuracy is, and its keys, quick to import."""

from dataclasses import dataclass
from typing import Any

from . import shared_keys
from .keys import Keys, key
from .protocols import Metric, Protocol


@dataclass(frozen=True)
class EvalConfig(Keys):
    """What `evalkit eval CKPT --data DIR key=value` may set."""

    data_dir: str | None = key(
        None, "the folder of images that --data gives by name: a published set or what timm reads", role="place"
    )
    split: str | None = key(
        None, "the part of data given by name; null: the one that the checkpoint's run validated on, else val"
    )
    model: str | None = shared_keys.architecture()
    model_args: dict[str, Any] = shared_keys.architecture_args()
    weights: str | None = shared_keys.which_weights()
    preprocess: str | None = key(
        None,
        "what happens to an image before the network; null: run for a checkpoint of a run, else native for embedded"
        " sets, else published",
        choices={
            "run": "as the checkpoint's run prepared its validation images",
            "published": "shorter side to size * 256 / 224, bilinear, centre crop",
            "model": "as timm says for this model",
            "native": "nothing, the images have the network's size",
        },
    )
    allow_partial: bool = key(
        False, "accept a folder without all classes of the checkpoint: the result is marked incomplete"
    )
    batch_size: int = shared_keys.reading_batch()
    forward_batch: int = shared_keys.forward_batch()
    workers: int = shared_keys.evaluation_workers()
    device: str | None = shared_keys.device()


ACCURACY = Protocol(
    name="accuracy",
    kind="accuracy",
    version=2,
    title="Clean accuracy",
    short="clean",
    sentence="Accuracy on the validation images.",
    metrics=(
        Metric(
            "top1",
            "top-1",
            "high",
            "share of the images whose most probable class is the label",
            column=True,
            formula="(1/N) sum_i [argmax_k z_ik = y_i]",
        ),
        Metric(
            "top5",
            "top-5",
            "high",
            "share of the images whose label is among the five most probable classes",
            formula="(1/N) sum_i [y_i is among the 5 largest z_ik]",
        ),
        Metric(
            "top*",
            "top-*",
            "high",
            "share of the images whose label is among so many most probable classes",
            formula="(1/N) sum_i [y_i is among the * largest z_ik]",
        ),
        Metric(
            "top1_best",
            "best top-1",
            "high",
            "top-1 of the best evaluation while training",
            formula="max over a training's evaluations of top1",
        ),
        Metric(
            "top1_median",
            "median top-1",
            "high",
            "median top-1 of the last evaluations while training",
            formula="median over a training's last evaluations of top1",
        ),
        Metric(
            "loss",
            "loss",
            "low",
            "cross entropy with the labels",
            "nat",
            bound=None,
            formula="(1/N) sum_i -log p_i[y_i],  p_i = softmax(z_i)",
        ),
    ),
    config=EvalConfig,
    code="evalkit.accuracy:evaluate",
    convention="z_i are the logits of image i. Of equal logits the lower class index counts first. One view of each"
    " image, prepared as the key `preprocess` says; the record holds it.",
    source='Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.',
    differs="Nothing known.",
)
