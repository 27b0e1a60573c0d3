"""What the attacks are."""

from evalkit.protocols import Metric, Protocol

from ..config import FGSMConfig, PGDConfig

ATTACKED = "accuracy when every pixel may move by eps"
METRICS = (
    Metric("top1_eps_2", "eps 2/255", "high", f"{ATTACKED}, 2/255 of its range", column=True),
    Metric("top1_eps_8", "eps 8/255", "high", f"{ATTACKED}, 8/255 of its range", column=True),
    Metric("top1_eps_*", "eps */255", "high", f"{ATTACKED}, in 1/255 of its range"),
    Metric("clean_top1", "clean top-1", "high", "accuracy without an attack"),
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
)
