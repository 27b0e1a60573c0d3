"""What accuracy is, quick to import."""

from .protocols import Metric, Protocol

ACCURACY = Protocol(
    name="accuracy",
    kind="accuracy",
    version=1,
    title="Clean accuracy",
    short="clean",
    sentence="Accuracy on the validation images.",
    metrics=(
        Metric("top1", "top-1", "high", "share of the images whose most probable class is the label", column=True),
        Metric("top5", "top-5", "high", "share of the images whose label is among the five most probable classes"),
        Metric("top*", "top-*", "high", "share of the images whose label is among so many most probable classes"),
        Metric("top1_best", "best top-1", "high", "top-1 of the best evaluation while training"),
        Metric("top1_median", "median top-1", "high", "median top-1 of the last evaluations while training"),
        Metric("loss", "loss", "low", "cross entropy with the labels", "nat", bound=None),
    ),
)
