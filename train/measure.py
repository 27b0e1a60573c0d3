"""What is measured while a run goes on: accuracy on the validation images, and what the mixup shows of a batch."""

from typing import Any

from evalkit import inference, metrics
from evalkit.errors import EvalkitError
from evalkit.models import Network

from . import fsdp
from .mixups.base import MixMethod
from .session import Session


def accuracy(s: Session, network: Network) -> dict[str, float]:
    """top1, top5 (of five classes or more) and cross-entropy of a network on the validation images.

    Args:
        s: The run, with its validation images.
        network: The network, in any mode; the next training pass puts the trainee into its own.
    """
    s.trainee.eval()
    run = inference.Pass(s.device, workers=s.cfg.workers)
    with fsdp.gathered(network, s.empty) as classifier:
        records = inference.predict(classifier.eval(), s.val_images, s.eval_transform, run)
    if records.bad:
        raise EvalkitError(
            f"cannot read {len(records.bad)} validation images, e.g. {records.bad[0][0]}: {records.bad[0][1]}; replace"
            " or remove them"
        )
    shares = {
        f"top{k}": metrics.top_k_accuracy(records.logits, records.labels, k)
        for k in (1, 5)
        if k <= s.network.num_classes
    }
    return shares | {"loss": metrics.negative_log_likelihood(records.logits, records.labels)}


def shown(s: Session) -> dict[str, Any]:
    """What the method shows of this process' newest batch: the mean over samples, in the last step all of them."""
    found: dict[str, Any] = {}
    for part in s.method.modules():
        if isinstance(part, MixMethod):
            for name, values in part.measured(s.step - 1).items():
                found[name] = float(values.mean())
                if s.step == s.total_steps:
                    found[f"{name}_batch"] = [round(v, 4) for v in values.flatten().tolist()]
    return found
