"""What the attacks are."""

from dataclasses import dataclass

from evalkit.errors import EvalkitError
from evalkit.keys import key
from evalkit.protocols import Metric, Protocol

from ..config import CleanConfig


@dataclass(frozen=True)
class FGSMConfig(CleanConfig):
    """Fast gradient sign attack."""

    eps: list[float] = key(
        [1.0, 2.0, 4.0, 8.0], "largest changes of a pixel value, ascending", unit="1/255", least=0, most=255
    )

    def check(self) -> None:
        super().check()
        if not any(self.eps) or sorted(set(self.eps)) != self.eps:
            raise EvalkitError(f"eps must ascend within 0..255 (it counts 1/255) and reach above 0, but got {self.eps}")


@dataclass(frozen=True)
class PGDConfig(FGSMConfig):
    """Projected gradient attack."""

    steps: int = key(10, "steps of the attack", least=1)
    alpha: float | None = key(
        None, "change of a pixel value per step; null: a quarter of eps", unit="1/255", above=0, most=255
    )
    seed: int = key(0, "seed of the random starts", least=0, most=2**64 - 1, role="seed")


RIGHT = "(1/N) sum_i [argmax_k z_k(x'_i) = y_i]"
ATTACKED = "accuracy when every pixel may move by eps"
METRICS = (
    Metric("top1_eps_2", "eps 2/255", "high", f"{ATTACKED}, 2/255 of its range", column=True, formula=RIGHT),
    Metric("top1_eps_8", "eps 8/255", "high", f"{ATTACKED}, 8/255 of its range", column=True, formula=RIGHT),
    Metric("top1_eps_*", "eps */255", "high", f"{ATTACKED}, in 1/255 of its range", formula=RIGHT),
    Metric("clean_top1", "clean top-1", "high", "accuracy without an attack", formula=RIGHT.replace("x'", "x")),
)
CONVENTION = (
    "L is the cross entropy over all of the model's classes, x pixels in [0, 1]; eps counts 1/255 of their range. The"
    " whole evaluation set is attacked, always untargeted. An accuracy above chance under these attacks does not prove"
    ' robustness (Athalye et al., "Obfuscated Gradients Give a False Sense of Security", arXiv 1802.00420).'
)

FGSM = Protocol(
    name="fgsm",
    kind="robustness",
    version=1,
    title="FGSM, top-1",
    short="FGSM",
    sentence="Every pixel moves by eps along the sign of the loss gradient.",
    metrics=METRICS,
    needs={"data": "val"},
    passes=7,
    config=FGSMConfig,
    code="evalkit.robustness.adversarial:FGSM",
    convention=f"x' = clip(x + eps sign(dL/dx)), clipped to [0, 1]. {CONVENTION}",
    source='Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv 1412.6572.',
    differs="There is no one published protocol: papers differ in strengths and images, so no record is marked as"
    " published.",
)
PGD = Protocol(
    name="pgd",
    kind="robustness",
    version=1,
    title="PGD, top-1",
    short="PGD",
    sentence="Gradient steps within eps of the image, from a random start.",
    metrics=METRICS,
    needs={"data": "val"},
    passes=125,
    config=PGDConfig,
    code="evalkit.robustness.adversarial:PGD",
    convention="x' <- clip(x' + alpha sign(dL/dx')), clipped to within eps of x and to [0, 1], `steps` times from"
    f" x + eps u, u uniform in [-1, 1]. {CONVENTION}",
    source='Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv'
    " 1706.06083.",
    differs="There is no one published protocol: papers differ in steps, strengths and images, so no record is marked"
    " as published. One random start per image, the same for every strength, scaled; alpha = eps / 4 unless given (2"
    " at eps 8, as in the paper on CIFAR-10).",
)
