"""What ImageNet-A is, and what the protocols that measure as it does have in common."""

from dataclasses import dataclass

from evalkit.protocols import Figure, Metric, Protocol

from ..config import ClassificationConfig


@dataclass(frozen=True)
class ImageNetAConfig(ClassificationConfig):
    """Natural adversarial examples."""


TOP1 = Metric("top1", "top-1", "high", "share of the images whose most probable class is the label", column=True)
RMS = Metric(
    "rms_calibration_error",
    "RMS cal. error",
    "low",
    "root mean square gap between confidence and accuracy, the most confident bin left out as in the published code",
    column=True,
)
AURRA_MEANING = "mean accuracy among the k most confident predictions over all k"
AURRA = Metric("aurra", "AURRA", "high", AURRA_MEANING)
SCALED = "each half of the images scaled by the temperature that fits the other one"
OTHERS = (
    Metric("top5", "top-5", "high", "share of the images whose label is among the five most probable classes"),
    Metric("top1_unrestricted", "top-1 of all classes", "high", "top-1 over all classes of the model"),
    Metric("rms_calibration_error_include", "RMS cal. error, all bins", "low", "the same with the most confident bin"),
    Metric("ece", "ECE", "low", "expected calibration error: mean gap between confidence and accuracy in 15 bins"),
    Metric("nll", "NLL", "low", "mean negative log-likelihood of the label", "nat", bound=None),
    Metric("brier", "Brier score", "low", "mean squared distance of the probabilities from the label", "", bound=2.0),
    Metric("aurra_*", "AURRA by *", "high", f"{AURRA_MEANING}, confidence measured by another score"),
    Metric("nll_temperature", "NLL after temperature", "low", f"likelihood, {SCALED}", "nat", bound=None),
    Metric("rms_calibration_error_temperature", "RMS cal. error after temperature", "low", f"calibration, {SCALED}"),
    Metric(
        "rms_calibration_error_include_temperature",
        "RMS cal. error after temperature, all bins",
        "low",
        f"calibration, {SCALED}",
    ),
    Metric("ece_temperature", "ECE after temperature", "low", f"calibration, {SCALED}"),
    Metric("temperature", "temperature", "neither", "mean of the temperatures that fit the two halves", "", bound=None),
    Metric("mean_confidence", "mean confidence", "neither", "mean probability of the most probable class"),
)

IMAGENET_A = Protocol(
    name="imagenet-a",
    kind="robustness",
    version=1,
    title="ImageNet-A protocol",
    short="A",
    sentence="Natural adversarial examples: photographs that ImageNet classifiers get wrong, among 200 classes.",
    metrics=(TOP1, RMS, Metric("aurra", "AURRA", "high", AURRA_MEANING, column=True), *OTHERS),
    needs={"data": "imagenet-a"},
    figures=(
        Figure(
            "reliability",
            "reliability",
            "Reliability",
            "Accuracy against confidence, bins of 100 images sorted by confidence; the dashed line is perfect"
            " calibration. The hollow point is the last bin, which the published RMS calibration error leaves out.",
        ),
        Figure(
            "risk-coverage",
            "risk-coverage",
            "Risk and coverage",
            "The error among the most confident predictions, by how many are answered. AURRA is one minus its mean.",
        ),
    ),
    config=ImageNetAConfig,
    code="evalkit.robustness.imagenet_a:PROTOCOL",
)
