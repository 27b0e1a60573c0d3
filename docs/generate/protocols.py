"""The pages on protocols: formula, convention, source and what differs, as each is described beside its code."""

import textwrap
from collections.abc import Iterator

from evalkit import reference
from evalkit.cli import described
from evalkit.protocols import UNITS, Metric, Protocol
from evalkit.robustness.sets import SETS, DataSet

from .lookups import key_link
from .markup import code, contents, facts, formula, page, safe, table

KINDS = {"accuracy": "Accuracy", "robustness": "Robustness", "transfer": "Transfer"}
COMMANDS = {"accuracy": "eval", "robustness": "robustness {}", "transfer": "transfer {}"}
OPTIONS = {"data": "--data DIR", "id_data": "--id DIR"}  # of the data that a protocol needs
BETTER = {"high": "higher is better", "low": "lower is better", "neither": "describes"}


def pages() -> dict[str, str]:
    """Name -> text."""
    found = described.protocols()
    return {"protocols": index(), **{f"protocols/{name}": page(sections(p)) for name, p in found.items()}}


def index() -> str:
    """All protocols in one table for each kind."""
    parts = [
        "# Protocols",
        "A protocol is a way of measuring a checkpoint: what is done to the images, and which numbers come of it. Each"
        " page has the formula of every metric, the convention, the source and what differs from it. The columns are"
        " those of a report's tables; records hold every metric.",
    ]
    found = described.protocols().values()
    for kind, title in KINDS.items():
        rows = [
            (f"[{p.name}](protocols/{p.name})", p.sentence, ", ".join(m.title for m in p.columns))
            for p in found
            if p.kind == kind
        ]
        parts += [f"## {title}", table(("protocol", "what is measured", "columns"), rows)]
    parts.append(contents(f"protocols/{p.name}" for p in found))
    return page(parts)


def sections(protocol: Protocol) -> Iterator[str]:
    """The blocks of a protocol's page."""
    yield f"# {protocol.name}"
    yield f"**{safe(protocol.title)}.** {safe(protocol.sentence)} Version {protocol.version}."
    command = COMMANDS[protocol.kind].format(protocol.name)
    needed = [OPTIONS[key] for key in protocol.needs] or ["--data DIR"] * (protocol.kind == "accuracy")
    yield code(" ".join(["evalkit", command, "CKPT", *needed]))
    for title, words in (
        ("Convention", protocol.convention),
        ("Source", protocol.source),
        ("What differs", protocol.differs),
    ):
        if words:
            yield f"## {title}\n\n{safe(words)}"
    if protocol.needs:
        yield "## Data"
        yield facts((f"`{key}`", data(SETS[name])) for key, name in protocol.needs.items())
    yield "## Metrics"
    for metric in protocol.metrics:
        yield metric_entry(metric)
    if protocol.figures:
        yield "## Figures"
    for figure in protocol.figures:
        yield f"**{figure.title}.** {safe(figure.caption)}"
    yield "## Keys"
    names = [entry.name for entry in reference.entries(protocol.config)]
    yield f"{', '.join(key_link(command, name) for name in names)}."
    if protocol.passes > 1:
        yield (
            f"By default each image goes through the network {protocol.passes} times; a backward pass counts as two."
        )


def data(known: DataSet) -> str:
    """A data set in words."""
    size = f"{known.images:,} images" if known.images else f"{known.per_class} images of each class"
    where = f"`robustness all --data-root DIR` looks for it in {', '.join(f'`{f}`' for f in known.folders)}"
    instead = [f"`{own}` for a checkpoint trained on `{data}`" for data, own in known.stand_ins.items()]
    default = [f"where it is not given, {', '.join(instead)}"] if instead else []
    return "; ".join([f"{known.title}, {size}", where, *default])


def metric_entry(metric: Metric) -> str:
    """A metric as a definition: what it is, how it is computed."""
    unit = UNITS[metric.unit]
    block = "\n\n" + textwrap.indent(formula(metric.formula), "  ") if metric.formula else ""
    words = f"{safe(metric.meaning)}. *{BETTER[metric.better]}; {unit}.*"
    return f"`{metric.name}`, {safe(metric.title)}\n: {words}{block}"
