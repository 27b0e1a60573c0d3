"""The robustness protocols by name. What each is, and its keys, stands in a file of this folder, quick to import; what
measures it lies one folder up."""

from evalkit.protocols import Protocol, by_name

from . import attacks, imagenet_a, imagenet_c, imagenet_o, occlusion, shifts

#: Name -> description of every robustness protocol, in the order of the tables; add your own.
PROTOCOLS: dict[str, Protocol] = by_name(
    (
        shifts.IMAGENET_VAL,
        occlusion.OCCLUSION,
        imagenet_a.IMAGENET_A,
        imagenet_o.IMAGENET_O,
        shifts.IMAGENET_R,
        shifts.IMAGENET_SKETCH,
        shifts.IMAGENET_V2,
        imagenet_c.IMAGENET_C,
        attacks.FGSM,
        attacks.PGD,
    )
)
