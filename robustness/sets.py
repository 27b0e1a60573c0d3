"""The published data sets that the protocols read: where each lies below a data root, what it holds when it is whole,
and which embedded set stands in for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources


@dataclass(frozen=True)
class DataSet:
    """A data set by its facts. One of the user's own classes may lie in its place, see `layouts.open_set`.

    Args:
        name: As `--data` errors, `needs` of protocols and the lists in evalkit/data call it.
        title: As a person calls it.
        folders: Below the data root, the first that is there.
        stand_ins: What a checkpoint was trained on -> the set that demonstrates it without a download.
        images: In all, where the classes hold different numbers.
        per_class: Images of each class, where all hold as many.
        subset: Of 200 classes of ImageNet, listed in evalkit/data.
        unpacked: Folders that its archives unpack to, where their name is not the set's own.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    images: int | None = None
    per_class: int | None = None
    subset: bool = False
    unpacked: tuple[str, ...] = ()

    def wnids(self) -> list[str]:
        """The sorted WordNet ids of a subset."""
        return (
            (resources.files("evalkit.data") / f"{self.name.replace('-', '_')}_wnids.txt")
            .read_text(encoding="utf-8")
            .split()
        )


V2 = tuple(f"imagenetv2-{kind}-format-val" for kind in ("matched-frequency", "threshold0.7", "top-images"))
SETS: dict[str, DataSet] = {
    s.name: s
    for s in (
        DataSet(
            "val",
            "ImageNet val",
            ("imagenet/val", "imagenet-1k/val", "ILSVRC2012/val", "ILSVRC2012_img_val", "imagenet-val", "val"),
            stand_ins={name: name for name in ("digits", "digits-photo", "fashion-mnist")},
            per_class=50,
        ),
        DataSet(
            "imagenet-a",
            "ImageNet-A",
            ("imagenet-a",),
            stand_ins={"digits-photo": "digits-a"},
            images=7500,
            subset=True,
        ),
        DataSet(
            "imagenet-o",
            "ImageNet-O",
            ("imagenet-o",),
            stand_ins={"digits-photo": "digits-o"},
            images=2000,
            subset=True,
        ),
        DataSet("imagenet-r", "ImageNet-R", ("imagenet-r",), images=30_000, subset=True),
        DataSet(
            "imagenet-sketch",
            "ImageNet-Sketch",
            ("imagenet-sketch", "sketch"),
            images=50_889,
            unpacked=("sketch", "imagenet-sketch"),
        ),
        DataSet("imagenet-v2", "ImageNetV2", ("imagenet-v2", "imagenetv2", *V2), images=10_000, unpacked=V2),
        DataSet("imagenet-c", "ImageNet-C", ("imagenet-c",), per_class=50),
    )
}


def wnids(name: str) -> list[str]:
    """The 200 sorted WordNet ids of a subset of ImageNet's classes."""
    return SETS[name].wnids()
