"""What papers printed: every result cell of the source tables as a row of a CSV file, in one format for all sources.

OpenMixup's ImageNet page, AutoMix's appendix (Tables 11 to 14), TransMix's supplement (Tables 1 to 3, section B),
MixPro (Tables 1 to 10) and timm's result files. The tests compare them with a second, independent transcription.
"""

import csv
import functools
from importlib import resources
from typing import NamedTuple


class Published(NamedTuple):
    """One published value, with the digits its source prints.

    Args:
        source: paper or page.
        table: its table, as it is called there.
        setting: how the network was trained; empty where the source quotes a number without saying.
        task: protocol that measures it: "accuracy", "imagenet-a", "seg" ...
        data: data set that it is of.
        model: architecture by timm's or evalkit's name.
        decoder: of a segmentation, else empty.
        method: mixup as the source calls it; empty for what does not depend on it.
        alpha: parameter of the Beta distribution that the source states, else empty.
        metric: of the protocol, "parameters", "flops" (multiply-adds) or "images_per_second".
        form: which number of a training it is, such as "median of the last 10" or "not stated".
        value: in percent; parameters as 22M, multiply-adds as 4.7G.
        quoted: whom the source quotes, else empty.
        disputed: what contradicts it, a printed gain or another table, else empty.
        note: what was read differently and why, else empty.
    """

    source: str
    table: str
    setting: str
    task: str
    data: str
    model: str
    decoder: str
    method: str
    alpha: str
    metric: str
    form: str
    value: str
    quoted: str
    disputed: str
    note: str

    @property
    def measured(self) -> str:
        """The metric of a record that this value is like: "top1_median" and "top1_best" are other numbers than the
        last top-1."""
        kind = self.form.partition(" ")[0].rstrip(",")
        return f"{self.metric}_{kind}" if kind in ("median", "best") else self.metric

    @property
    def place(self) -> str:
        """Source and table, and the reporting form where it is not the usual one."""
        form = self.form if self.measured != self.metric else ""
        return ", ".join(part for part in (self.source, self.table, form) if part)

    @property
    def without_setting(self) -> bool:
        """Whether the source quotes it and says nothing of how it was made: nobody can repeat it from this source."""
        return bool(self.quoted) and not self.setting


@functools.cache
def values() -> tuple[Published, ...]:
    """All published values that come with evalkit, in the order of their files and tables."""
    found = []
    for path in sorted(resources.files(__name__).iterdir(), key=lambda p: p.name):
        if path.name.endswith(".csv"):
            with path.open(encoding="utf-8") as f:
                found += [Published(**line) for line in csv.DictReader(f)]
    return tuple(found)
