"""What ImageNet-A is, and what the protocols that measure as it does have in common."""

from dataclasses import dataclass, replace

from evalkit.protocols import Figure, Metric, Protocol

from ..config import ClassificationConfig


@dataclass(frozen=True)
class ImageNetAConfig(ClassificationConfig):
    """Natural adversarial examples."""


TOP1 = Metric(
    "top1",
    "top-1",
    "high",
    "share of the images whose most probable class is the label",
    column=True,
    formula="(1/N) sum_i [argmax_k z_ik = y_i]",
)
RMS = Metric(
    "rms_calibration_error",
    "RMS cal. error",
    "low",
    "root mean square gap between confidence and accuracy, the most confident bin left out as in the published code",
    column=True,
    formula="sqrt(sum_b (n_b / N) (mean c in b - accuracy in b)^2), all bins b of 100 images but the last",
)
AURRA_MEANING = "mean accuracy among the k most confident predictions over all k"
AURRA = Metric(
    "aurra", "AURRA", "high", AURRA_MEANING, formula="(1/N) sum_k a_k,  a_k = accuracy among the k images of largest c"
)
SCALED = "each half of the images scaled by the temperature that fits the other one"
ALL_BINS = "sqrt(sum_b (n_b / N) (mean c in b - accuracy in b)^2), all bins b of 100 images"
ECE = "sum_b (n_b / N) |mean c in b - accuracy in b|, 15 bins b of equal width"
NLL = "(1/N) sum_i -log p_i[y_i]"
HALVES = ",  p_i = softmax(z_i / T), T of the other half"
OTHERS = (
    Metric(
        "top5",
        "top-5",
        "high",
        "share of the images whose label is among the five most probable classes",
        formula="(1/N) sum_i [y_i is among the 5 largest z_ik]",
    ),
    Metric(
        "top1_unrestricted",
        "top-1 of all classes",
        "high",
        "top-1 over all classes of the model",
        formula="top1 with z over all classes of the model",
    ),
    Metric(
        "rms_calibration_error_include",
        "RMS cal. error, all bins",
        "low",
        "the same with the most confident bin",
        formula=ALL_BINS,
    ),
    Metric(
        "ece",
        "ECE",
        "low",
        "expected calibration error: mean gap between confidence and accuracy in 15 bins",
        formula=ECE,
    ),
    Metric("nll", "NLL", "low", "mean negative log-likelihood of the label", "nat", bound=None, formula=NLL),
    Metric(
        "brier",
        "Brier score",
        "low",
        "mean squared distance of the probabilities from the label",
        "",
        bound=2.0,
        formula="(1/N) sum_i sum_k (p_ik - [k = y_i])^2",
    ),
    Metric(
        "aurra_*",
        "AURRA by *",
        "high",
        f"{AURRA_MEANING}, confidence measured by another score",
        formula="aurra, images in the order of max_k z_ik (max_logit), log sum_k exp z_ik (energy) or sum_k p_ik log"
        " p_ik (entropy)",
    ),
    Metric(
        "nll_temperature",
        "NLL after temperature",
        "low",
        f"likelihood, {SCALED}",
        "nat",
        bound=None,
        formula=NLL + HALVES,
    ),
    Metric(
        "rms_calibration_error_temperature",
        "RMS cal. error after temperature",
        "low",
        f"calibration, {SCALED}",
        formula="rms_calibration_error" + HALVES,
    ),
    Metric(
        "rms_calibration_error_include_temperature",
        "RMS cal. error after temperature, all bins",
        "low",
        f"calibration, {SCALED}",
        formula=ALL_BINS + HALVES,
    ),
    Metric("ece_temperature", "ECE after temperature", "low", f"calibration, {SCALED}", formula=ECE + HALVES),
    Metric(
        "temperature",
        "temperature",
        "neither",
        "mean of the temperatures that fit the two halves",
        "",
        bound=None,
        formula="(T_1 + T_2) / 2,  T_h = argmin_T of the nll of softmax(z / T) on half h",
    ),
    Metric(
        "mean_confidence",
        "mean confidence",
        "neither",
        "mean probability of the most probable class",
        formula="(1/N) sum_i c_i",
    ),
)
CONVENTION = (
    "z_i are the logits of image i over the classes of the set, p_i = softmax(z_i), c_i = max_k p_ik the confidence."
    " Bins are filled in the order of confidence, the last one takes the remainder."
)

IMAGENET_A = Protocol(
    name="imagenet-a",
    kind="robustness",
    version=1,
    title="ImageNet-A protocol",
    short="A",
    sentence="Natural adversarial examples: photographs that ImageNet classifiers get wrong, among 200 classes.",
    metrics=(TOP1, RMS, replace(AURRA, column=True), *OTHERS),
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
    convention=f"The logits are restricted to the 200 classes of the set before the softmax. {CONVENTION}",
    source='Hendrycks et al., "Natural Adversarial Examples", CVPR 2021.',
    differs="Class folders are matched by name. Equal confidences count as one group, so the order of the files does"
    " not matter. Confidences are float64. The RMS calibration error is also given with the most confident bin, which"
    " the code leaves out (`rms_calibration_error_include`).",
)
