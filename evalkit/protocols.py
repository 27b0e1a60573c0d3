"""What a protocol is, in one description that stands beside its code.

The command line, records, report, comparison and documentation read it and know no protocol by name. The core imports
no application: the command line hands the applications' descriptions in. Nothing here is slow to import.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, Literal, get_args

Better = Literal["high", "low", "neither"]
Kind = Literal["accuracy", "robustness", "transfer"]
# What the report can draw: accuracy by level from the series of a record, and three curves from per-sample logits.
Drawn = Literal["curves", "reliability", "risk-coverage", "precision-recall"]
UNITS = {
    "%": "a fraction, printed in percent",
    "nat": "printed as it is",
    "": "a bare number, printed as it is",
    "M": "a count, printed in millions",
}


@dataclass(frozen=True)
class Metric:
    """One number of a protocol. Raises ValueError for one that lacks its title, direction or meaning.

    A `*` in the name stands for any text, and in the title for the same: `error_*` describes `error_fog`. Of several
    descriptions that fit, the first one without a `*` counts, else the first.

    Args:
        name: As in records.
        title: Of its column.
        better: Which values are better; "neither" for what only describes.
        meaning: What it measures, in words.
        unit: One of UNITS.
        column: Whether tables have a column for it; report.csv and `compare` hold every metric.
        bound: The largest value there can be, if there is one; none is negative.
        formula: How it is computed, in symbols.
    """

    name: str
    title: str
    better: Better
    meaning: str
    unit: str = "%"
    column: bool = False
    bound: float | None = 1.0
    formula: str = ""

    def __post_init__(self) -> None:
        for part in ("name", "title", "meaning"):
            _need(f"metric '{self.name}'", part, getattr(self, part))
        if self.meaning.rstrip().endswith("."):
            raise ValueError(f"metric '{self.name}': tables put the full stop behind its meaning; leave it out")
        _need_one_of(f"metric '{self.name}'", "better", self.better, get_args(Better))
        _need_one_of(f"metric '{self.name}'", "unit", self.unit, UNITS)
        if "*" in self.name and (self.column or self.name.count("*") > 1):
            raise ValueError(
                f"metric '{self.name}' stands for several: it holds one * and is no column; describe one by itself"
            )

    def named(self, name: str) -> "Metric":
        """The description of the metric `name`, which this one fits."""
        if "*" not in self.name:
            return self
        before, _, after = self.name.partition("*")
        part = name[len(before) : len(name) - len(after)]
        return replace(self, name=name, title=self.title.replace("*", part))

    def heading(self) -> str:
        """The title with its unit, unless that is percent, and an arrow to the better side."""
        unit = "" if self.unit in ("%", "", "M") else f" [{self.unit}]"
        arrow = {"high": " \N{UPWARDS ARROW}", "low": " \N{DOWNWARDS ARROW}", "neither": ""}[self.better]
        return f"{self.title}{unit}{arrow}"

    def within(self, low: float, high: float) -> tuple[float, float]:
        """An interval cut at what the metric can be."""
        return max(low, 0.0), high if self.bound is None else min(high, self.bound)

    def text(self, value: float) -> str:
        """A value as tables print it.

        >>> Metric("top1", "top-1", "high", "share of the images classified right").text(0.7683)
        '76.8'
        """
        if self.unit == "M":
            return f"{value / 1e6:.1f}M"
        return f"{100 * value:.1f}" if self.unit == "%" else f"{value:.3f}"


@dataclass(frozen=True)
class Figure:
    """A figure of the report. Raises ValueError for a kind that the report cannot draw, and for no title or caption.

    Args:
        kind: One of `Drawn`: what is drawn.
        name: Of its file.
        title: Its heading.
        caption: What is drawn, in sentences.
        panels: Of curves: mode in the series -> title and x axis of its panel; without, every mode is a panel of its
            own name.
    """

    kind: Drawn
    name: str
    title: str
    caption: str
    panels: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _need_one_of(f"figure '{self.name}'", "kind", self.kind, get_args(Drawn))
        for part in ("name", "title", "caption"):
            _need(f"figure '{self.name}'", part, getattr(self, part))


@dataclass(frozen=True)
class Detail:
    """A key of the configuration that tells rows of one table apart, such as the decoder of a segmentation.

    Args:
        key: The key of the configuration.
        title: Of its column.
        names: Value -> how it is printed; rows come in this order.
    """

    key: str
    title: str
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("key", "title"):
            _need(f"detail '{self.key}'", part, getattr(self, part))


@dataclass(frozen=True)
class Protocol:
    """A protocol by its facts. Raises ValueError for one that lacks its title, short title, sentence or a column.

    Args:
        name: On the command line and in records.
        kind: One of `Kind`: which tables show it.
        version: Raised whenever a number can move.
        title: As a person calls it.
        short: One word, above columns.
        sentence: What is measured.
        metrics: Every metric that a record may hold, in the order of the columns.
        needs: Data key of `config` -> the set that belongs there.
        figures: What the report draws of it.
        detail: A key that tells rows of one table apart.
        tuned: Of a transfer: the value of `detail` that trainings which began with weights, by their key `init`, stand
            under: the report shows them as rows of it.
        passes: Forward passes per image by default, a backward pass counted as two: what it costs.
        config: The class of its keys.
        code: "module:NAME" of what measures it, imported when it runs.
        convention: What a reader of the numbers must know of how images and scores become them, in sentences.
        source: The papers that it is from.
        differs: How it differs from their text and code, in sentences.
    """

    name: str
    kind: Kind
    version: int
    title: str
    short: str
    sentence: str
    metrics: tuple[Metric, ...]
    needs: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    detail: Detail | None = None
    tuned: str = ""
    passes: int = 1
    config: Any = None
    code: str = ""
    convention: str = ""
    source: str = ""
    differs: str = ""

    def __post_init__(self) -> None:
        what = f"protocol '{self.name}'"
        for part in ("name", "title", "short", "sentence"):
            _need(what, part, getattr(self, part))
        _need_one_of(what, "kind", self.kind, get_args(Kind))
        if isinstance(self.version, bool) or not isinstance(self.version, int) or self.version < 1:
            raise ValueError(f"{what}: `version` must be an integer of at least 1, but got {self.version!r}")
        if self.tuned and (self.detail is None or self.tuned not in self.detail.names):
            raise ValueError(f"{what}: `tuned` must be one of the values that `detail` names, but got {self.tuned!r}")
        names = [m.name for m in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"{what} describes the metric '{next(n for n in names if names.count(n) > 1)}' twice")
        if not self.columns:
            raise ValueError(f"{what} has no column, so no table would show it; give one of its metrics column=True")

    @property
    def columns(self) -> tuple[Metric, ...]:
        """The metrics that tables show, in order."""
        return tuple(m for m in self.metrics if m.column)

    def find(self, name: str) -> Metric | None:
        """The description of the metric `name`, None if there is none."""
        fits = [m for m in self.metrics if m.name == name or ("*" in m.name and fnmatchcase(name, m.name))]
        return min(fits, key=lambda m: "*" in m.name).named(name) if fits else None

    def metric(self, name: str) -> Metric:
        """The description of the metric `name`. Raises ValueError where it has none."""
        found = self.find(name)
        if found is None:
            raise ValueError(f"protocol '{self.name}' does not describe its metric '{name}'; add a Metric for it")
        return found

    def detail_of(self, record: Mapping[str, Any]) -> str:
        """The value of `detail` in a record's config, as text; "" for none."""
        return "" if self.detail is None else str(record["config"].get(self.detail.key) or "")

    def load(self) -> Any:
        """What measures it: the object that `code` names."""
        module, _, name = self.code.partition(":")
        return getattr(import_module(module), name)


Protocols = Mapping[str, Protocol]


def by_name(protocols: Iterable[Protocol]) -> dict[str, Protocol]:
    """Name -> protocol. Raises ValueError for a name that occurs twice."""
    found: dict[str, Protocol] = {}
    for protocol in protocols:
        if protocol.name in found:
            raise ValueError(f"there are two protocols called '{protocol.name}'")
        found[protocol.name] = protocol
    return found


def _need(what: str, part: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} needs a {part}, but got {value!r}")


def _need_one_of(what: str, part: str, value: Any, options: Iterable[str]) -> None:
    if value not in tuple(options):
        raise ValueError(f"{what}: `{part}` must be one of {', '.join(map(repr, options))}, but got {value!r}")
