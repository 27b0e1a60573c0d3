"""What the transfers are, quick to import."""

from evalkit.protocols import Detail, Metric, Protocol, by_name

PARAMETERS = Metric("parameters", "parameters", "neither", "parameters of the whole network", "M", bound=None)
AP = "average precision of the {}, mean over the classes, {}"
AT = {"": "over IoU thresholds 0.50 to 0.95", "50": "at an IoU of 0.50", "75": "at an IoU of 0.75"}

SEG = Protocol(
    name="seg",
    kind="transfer",
    version=1,
    title="Semantic segmentation",
    short="seg",
    sentence="A linear decoder or Segmenter's mask transformer on the backbone, trained together.",
    metrics=(
        Metric("miou", "mIoU", "high", "intersection over union, mean over the classes", column=True),
        Metric(
            "miou_ms",
            "+MS",
            "high",
            "mIoU of predictions averaged over several scales, and mirrored where training mirrors",
            column=True,
        ),
        Metric("mean_accuracy", "mean accuracy", "high", "share of the pixels of a class, mean over the classes"),
        Metric("pixel_accuracy", "pixel accuracy", "high", "share of the pixels whose class is right"),
        PARAMETERS,
    ),
    detail=Detail("head", "decoder", {"linear": "Linear", "segmenter": "Segmenter", "deeplabv3plus": "DeepLabv3+"}),
    code="evalkit.downstream.seg:TASK",
)
DET = Protocol(
    name="det",
    kind="transfer",
    version=1,
    title="Object detection and instance segmentation",
    short="det",
    sentence="Mask R-CNN with a feature pyramid on the backbone, trained together.",
    metrics=(
        Metric("parameters", "parameters", "neither", PARAMETERS.meaning, "M", column=True, bound=None),
        *(
            Metric(f"{kind}_ap{at}", f"{kind} AP{at}", "high", AP.format(things, how), column=True)
            for kind, things in (("box", "boxes"), ("mask", "masks"))
            for at, how in AT.items()
        ),
    ),
    code="evalkit.downstream.det:TASK",
)
PROTOCOLS: dict[str, Protocol] = by_name((SEG, DET))
