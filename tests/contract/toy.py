"""A protocol as somebody adds one: its keys, its description and what measures it. The tests of the contract register
it and look for it everywhere."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from evalkit import metrics
from evalkit.bootstrap import Means
from evalkit.keys import key
from evalkit.protocols import Figure, Metric, Protocol
from evalkit.robustness import imagenet_a, layouts
from evalkit.robustness.config import ProtocolConfig
from evalkit.robustness.protocol import Measurement, by_id, outcome
from evalkit.robustness.sets import DataSet

TOYS = DataSet("toy-photographs", "Toy photographs", ("toys",))


@dataclass(frozen=True)
class ToyConfig(ProtocolConfig):
    """Photographs of toys."""

    wobble: float = key(0.5, "how far the toys wobble", least=0)


TOY = Protocol(
    name="toy",
    kind="robustness",
    version=7,
    title="Wobbling toys",
    short="toys",
    sentence="Photographs of toys that wobble.",
    metrics=(
        Metric("upright", "share upright", "high", "share of the toys that are seen as what they are", column=True),
        Metric("dizziness", "dizziness", "low", "mean negative log-likelihood of a toy", "nat", True, None),
        Metric("upright_at_*", "upright at *", "high", "the same at this wobble"),
        Metric("surprise", "surprise", "neither", "mean confidence"),
    ),
    needs={"data": "toy-photographs"},
    figures=(Figure("curves", "wobble", "Toys by wobble", "What is seen while toys wobble more."),),
    config=ToyConfig,
    code="tests.contract.toy:MEASUREMENT",
)


def prepare(loaded, cfg, device):
    spec = layouts.choose("toy-photographs", cfg.data, loaded)
    return imagenet_a.plan_for("toy", loaded, cfg, layouts.open_set("toy-photographs", spec, loaded, cfg.allow_partial))


def evaluate(arrays):
    arrays = by_id(arrays)
    z = arrays["logits"][:, arrays["restrict"]].astype(np.float64)
    right = metrics.top_k_correct(z, arrays["labels"])
    values = {"upright": right, "dizziness": metrics.sample_nll(z, arrays["labels"]), "upright_at_0.5": right}
    statistics = [Means(values), Means({"surprise": metrics.confidence(z)})]
    series = [{"mode": "sideways", "level": level, "top1": float(right.mean())} for level in (0.0, 0.5)]
    return outcome(arrays, statistics, series=series)


MEASUREMENT = Measurement(prepare, imagenet_a.collect, evaluate, partial(imagenet_a.reads, "toy-photographs"))
