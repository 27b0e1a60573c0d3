"""What classification by features is."""

from dataclasses import dataclass
from typing import Any

from evalkit import shared_keys
from evalkit.errors import EvalkitError
from evalkit.keys import Keys, key
from evalkit.protocols import Detail, Metric, Protocol

FINETUNE = "finetune"
READOUTS = {
    "linear": "logistic regression on frozen features",
    "knn": "nearest neighbours among frozen features, weighted as DINO does",
    "fewshot": "a few training images of each class, frozen features, mean over draws",
    FINETUNE: "the whole network trained on: `evalkit train finetune init=CKPT`, whose keys it takes",
}


@dataclass(frozen=True)
class ClsConfig(Keys):
    """Every key of classification transfer."""

    mode: str = key("linear", "how features become classes", choices=READOUTS)

    # what is transferred
    model: str | None = shared_keys.architecture()
    model_args: dict[str, Any] = shared_keys.architecture_args()
    weights: str | None = shared_keys.which_weights()
    init: str = key(
        "checkpoint",
        "what the network holds",
        choices={
            "checkpoint": "the checkpoint's weights",
            "random": "initial ones drawn by seed, only the architecture is the checkpoint's",
        },
        role="place",
    )
    label: str | None = key(None, "how reports name this run; null: by the checkpoint's label", role="place")

    # on what
    data: str = key(
        "digits",
        "the images: data by name, as `evalkit train` takes it, or a folder with a sub-folder per split that holds a"
        " sub-folder per class",
        role="place",
    )
    data_dir: str | None = key(None, "the folder of data given by name", role="place")
    train_split: str | None = key(
        None,
        "the part of the data that is learned from; null: of a published set the one that publications train on, else"
        " train",
    )
    val_split: str | None = key(
        None,
        "the part of the data that is measured on; null: of a published set the one that publications measure, else"
        " val",
    )
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

    # linear
    sweep: list[float] = key(
        [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0],
        "inverse strengths of the L2 penalty that linear tries, features standardised",
        above=0,
    )
    holdout: float = key(
        0.2,
        "share of the training images, of each class alike, that chooses among the sweep before all are fitted",
        above=0,
        most=0.5,
    )
    iterations: int = key(1000, "most iterations of lbfgs", above=0)

    # knn
    k: list[int] = key([20, 10, 100, 200], "how many neighbours; the table shows the first, records every one", above=0)
    temperature: float = key(0.07, "a neighbour's weight is exp(cosine / temperature)", above=0)

    # fewshot
    shots: list[int] = key([1, 5, 10], "training images of each class; the table shows the most", above=0)
    draws: int = key(5, "times that those images are drawn anew", above=0)
    head: str = key(
        "linear",
        "what few images become",
        choices={
            "linear": "logistic regression, penalty strength 1, on features standardised by the drawn images",
            "centroid": "the nearest class mean of features of length 1",
        },
    )

    # execution
    batch_size: int = shared_keys.reading_batch()
    forward_batch: int = shared_keys.forward_batch()
    workers: int = shared_keys.evaluation_workers()
    threads: int = key(1, "CPU threads of the linear algebra on features", least=1, most=1024, role="bits")
    device: str | None = shared_keys.device()
    seed: int = key(0, "seed of the drawn images, and of the weights of init=random", least=0, role="seed")

    def idle(self) -> dict[str, str]:
        own = {"linear": ("sweep", "holdout", "iterations"), "knn": ("k", "temperature")}
        own |= {"fewshot": ("shots", "draws", "head")}
        found = {
            name: f"it belongs to mode={mode}" for mode, names in own.items() if mode != self.mode for name in names
        }
        if self.mode == "fewshot" and self.head == "linear":
            del found["iterations"]
        if self.init == "random":
            found["weights"] = "init=random takes none from the checkpoint"
        return found

    def check(self) -> None:
        super().check()
        for name in ("sweep", "k", "shots"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise EvalkitError(f"key '{name}' must be at least one number, none twice, but got {values}")


FOUND = "(1/N) sum_i [argmax_k p_ik = y_i]"
CLS = Protocol(
    name="cls",
    kind="transfer",
    version=1,
    title="Classification",
    short="cls",
    sentence="Another set's classes from frozen features, or by training the whole network on.",
    metrics=(
        Metric("top1", "top-1", "high", "share of the images whose class is found", column=True, formula=FOUND),
        Metric(
            "mean_per_class",
            "mean per class",
            "high",
            "share of the images of a class whose class is found, mean over the classes",
            column=True,
            formula="mean over classes k of (1/N_k) sum_{i: y_i = k} [argmax_k p_ik = y_i]",
        ),
        Metric(
            "top5",
            "top-5",
            "high",
            "share of the images whose class is among the five most probable",
            formula="(1/N) sum_i [y_i is among the 5 largest p_ik]",
        ),
        Metric("top1_k*", "top-1, k=*", "high", "the same by so many neighbours", formula=f"{FOUND}, k = *"),
        Metric(
            "top1_shots*",
            "top-1, *-shot",
            "high",
            "the same from so many images of a class, mean over draws",
            formula=f"mean over draws of {FOUND}",
        ),
        Metric(
            "sd_shots*",
            "sd, *-shot",
            "neither",
            "standard deviation over draws",
            formula="sqrt(sum_d (a_d - mean a)^2 / (D - 1)),  a_d the top-1 of draw d",
        ),
        Metric(
            "c",
            "C",
            "neither",
            "inverse strength of the penalty that was chosen",
            "",
            bound=None,
            formula="C of the largest top-1 on the held-out training images",
        ),
    ),
    detail=Detail(
        "mode",
        "by",
        {
            "linear": "linear probe",
            "knn": "k nearest neighbours",
            "fewshot": "few images of a class",
            FINETUNE: "fine-tuning",
        },
    ),
    tuned=FINETUNE,
    config=ClsConfig,
    code="evalkit.downstream.cls:TASK",
    convention="f are the features before the classifier, of the weights as they are. linear: p = softmax(W f + b),"
    " multinomial logistic regression with penalty |W|^2 / (2 C) on standardised features, C chosen on held-out"
    " training images. knn: p_k is class k's share of the weights exp(cosine / temperature) of the k nearest training"
    " images. fewshot: linear with C = 1, or the nearest class mean of features of length 1.",
    source="Caron et al. (DINO), ICCV 2021, arXiv 2104.14294, appendix F, and Wu et al., CVPR 2018, arXiv 1805.01978"
    " (knn); Wang et al. (SimpleShot), arXiv 1911.04623 (class means); scikit-learn's logistic regression.",
    differs="There is no one published protocol of linear probes and few-shot classification, so no record is marked as"
    " published.",
)
