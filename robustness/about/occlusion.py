"""What occlusion is."""

from dataclasses import dataclass

from evalkit.errors import EvalkitError
from evalkit.keys import Retired, key
from evalkit.protocols import Figure, Metric, Protocol

from ..config import CleanConfig

MODES = ("random", "salient", "nonsalient")
FILLS = {"black": "as the paper's code", "mean": "the evaluated model's mean, as OpenMixup drops patches"}


@dataclass(frozen=True)
class OcclusionConfig(CleanConfig):
    """Patch dropping: random, salient and non-salient."""

    RETIRED = {
        "saliency_norm": Retired("a saliency model sees images normalised as it wants them", harmless=("own",)),
        "saliency_pool": Retired("choose the saliency model's own grid=, which drops its patches", harmless=(False,)),
        "salient_by": Retired("a level is always a share of the saliency's mass", harmless=("mass",)),
    }
    modes: list[str] = key(
        list(MODES),
        "which patches are dropped",
        choices={
            "random": "any",
            "salient": "those that a saliency map ranks highest",
            "nonsalient": "those that it ranks lowest",
        },
    )
    levels: list[float] = key(
        [i / 10 for i in range(10)],
        "shares of the patches (random) or of the saliency's mass that are dropped, ascending; 0 is always run",
        least=0,
        most=1,
    )
    repeats: int = key(5, "random masks per image and level", least=1)
    seed: int = key(0, "seed of the random masks", least=0, most=2**64 - 1, role="seed")
    grid: int | None = key(
        None, "patches per side; null: 14, or one per patch of the model on the embedded sets", least=1
    )
    saliency: str | None = key(
        None,
        "where saliency maps come from: dino, self, a model or checkpoint, or a file.npz; null: self on embedded sets,"
        " else dino",
    )
    head: str = key("auto", "attention head of the saliency model: auto (1 for dino, else mean), mean or a number")
    offset: int = key(0, "by how much the dropped patches are moved right and down", unit="pixels", least=0)
    fill: str = key("black", "colour of what is dropped", choices=FILLS)
    shuffle: list[int] = key([], "the patches of grids with so many a side are shuffled too, ascending", least=2)

    def idle(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if not set(self.modes) & {"salient", "nonsalient"}:
            found |= dict.fromkeys(("saliency", "head"), "it belongs to modes=[salient] or [nonsalient]")
        if "random" not in self.modes and not self.shuffle:
            found |= dict.fromkeys(("repeats", "seed"), "it belongs to modes=[random], or to shuffle=[...]")
        if not self.modes:
            found |= dict.fromkeys(
                ("levels", "grid", "offset", "fill"), "it belongs to modes=[...], which drop patches"
            )
        if self.saliency and self.saliency.endswith(".npz"):
            found["head"] = "it belongs to the attention of a network, saliency=dino, self or NAME"
        return found

    def check(self) -> None:
        super().check()
        if not (self.modes or self.shuffle) or len(set(self.modes)) < len(self.modes):
            raise EvalkitError(f"modes must name each of some of {', '.join(MODES)} once, but got {self.modes}")
        if sorted(set(self.levels)) != self.levels or not any(self.levels):
            raise EvalkitError(f"levels must ascend within 0..1 and reach above 0, but got {self.levels}")
        if sorted(set(self.shuffle)) != self.shuffle:
            raise EvalkitError(f"shuffle must ascend, but got {self.shuffle}")
        if self.head not in ("auto", "mean") and not self.head.isdecimal():
            raise EvalkitError(f"head must be auto, mean or a head's number, but got '{self.head}'")


AREA = "mean top-1 over the shares dropped, patches {}: area under the curve divided by its width"
CURVE = "sum_j (q_j+1 - q_j) (a(q_j) + a(q_j+1)) / 2 / (q_J - q_0), q_0 = 0 and the levels, a as in top1_*"

OCCLUSION = Protocol(
    name="occlusion",
    kind="robustness",
    version=2,
    title="Occlusion, area under the curve",
    short="occlusion",
    sentence=(
        "Accuracy while 0 to 90 % of the image information is dropped, patch by patch (the area is evalkit's own"
        " summary, papers show the curves)."
    ),
    metrics=(
        Metric("auc_random", "random", "high", AREA.format("drawn at random"), column=True, formula=CURVE),
        Metric("auc_salient", "salient", "high", AREA.format("salient ones first"), column=True, formula=CURVE),
        Metric(
            "auc_nonsalient", "non-salient", "high", AREA.format("non-salient ones first"), column=True, formula=CURVE
        ),
        Metric(
            "clean_top1",
            "clean top-1",
            "high",
            "accuracy with nothing dropped",
            formula="a(0) = (1/N) sum_i [argmax_k z_k(x_i) = y_i]",
        ),
        Metric(
            "top1_*",
            "top-1, *",
            "high",
            "accuracy with this share dropped in this mode",
            formula="a(q) = mean over repeats of (1/N) sum_i [argmax_k z_k(x_i without D_i(q)) = y_i]",
        ),
    ),
    needs={"data": "val"},
    figures=(
        Figure(
            "curves",
            "occlusion",
            "Occlusion",
            "Top-1 accuracy while ever more of each image is blacked out. Random: patches drawn at random, the band is"
            " the standard deviation over repeated draws. Salient and non-salient: patches in the order of the saliency"
            " model's attention, until that share of the attention is gone.",
            panels={
                "random": ("Random patches", "share of patches dropped"),
                "salient": ("Salient patches first", "share of attention dropped"),
                "nonsalient": ("Non-salient patches first", "share of attention dropped"),
            },
        ),
    ),
    passes=65,
    config=OcclusionConfig,
    code="evalkit.robustness.occlusion:PROTOCOL",
    convention="D_i(q) are the dropped patches of image i, black before normalisation. Random: the first floor(q P)"
    " of P patches in a random order of the image's own, so the masks of an image are nested. Salient: the patches"
    " that hold the upper q of the saliency mass, with the one that crosses. Non-salient: the complement of salient(1"
    " - q).",
    source='Naseer et al., "Intriguing Properties of Vision Transformers", NeurIPS 2021.',
    differs="Masks are drawn per image instead of per batch, seeded by the image's path and nested (same expected"
    " accuracy, smaller spread); five runs by default as in the paper, where the code makes one; both saliency modes"
    " against the share of mass dropped, where the code counts mass kept for one; saliency of the image normalised as"
    " its own model wants it; the area under the curve is evalkit's own summary.",
)
