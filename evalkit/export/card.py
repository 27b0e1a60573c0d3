"""The README of an exported classifier: how to load it, what it is, how it was made, what was measured."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .. import __version__
from ..protocols import Protocols
from ..records import Record
from ..text import markdown, plain

EVALKIT = """@software{evalkit,
  title = {evalkit: mixup training, transfer and robustness evaluation of image classifiers},
  version = {%s}
}"""


@dataclass(frozen=True)
class Told:
    """What a card is made of.

    Args:
        title: Its heading.
        facts: What the network is, (what, value) each.
        usage: Blocks of Python that load it, run in the folder, each below a sentence.
        training: Key -> value of the training, as it was resolved; empty: unknown.
        records: What was measured of these weights.
        protocols: What the metrics of the records are.
        notes: What is left behind, changed or to be known, one sentence each.
        citations: BibTeX of the methods.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    usage: Sequence[tuple[str, str]]
    training: Mapping[str, Any]
    records: Sequence[Record]
    protocols: Protocols
    notes: Sequence[str]
    citations: Sequence[str]


def text(told: Told) -> str:
    """The card as Markdown, without metadata."""
    parts = [f"# {markdown(told.title)}", "\n".join(f"* {what}: {markdown(value)}" for what, value in told.facts)]
    parts.append("## Load it\n\nIn this folder, without evalkit:")
    for sentence, code in told.usage:
        parts += [sentence, f"```python\n{code.strip()}\n```"]
    parts.append(measured(told.records, told.protocols))
    if told.training:
        lines = [plain(f"{key}: {json.dumps(value)}") for key, value in told.training.items()]
        parts.append("## How it was trained\n\n```text\n" + "\n".join(lines) + "\n```")
    parts.append("## To know\n\n" + "\n".join(f"* {markdown(note)}" for note in told.notes))
    cited = [*map(inspect.cleandoc, told.citations), EVALKIT % __version__]
    parts.append("## Citation\n\n```bibtex\n" + "\n\n".join(cited) + "\n```")
    return "\n\n".join(parts) + "\n"


def metadata(told: Told, name: str, method: str | None) -> str:
    """The front matter that the Hub reads; no licence and no data set of its is named, which nobody has told.

    Args:
        told: What the card is made of.
        name: Of the model.
        method: The mixup that it was trained with.
    """
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=name_,
            dataset_name=name_,
            metric_type="accuracy",
            metric_name="top-1",
            metric_value=round(record["metrics"]["top1"], 6),
        )
        for record in told.records
        if record["protocol"] == "accuracy" and record["complete"] and record["metrics"].get("top1") is not None
        for name_ in (plain(record["data"]["name"]),)
    ]
    tags = ["image-classification", "timm", "evalkit", *([method] if method else [])]
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=tags,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def measured(records: Sequence[Record], protocols: Protocols, of: str = "") -> str:
    """The part of a card that has every metric of every record.

    Args:
        records: What was measured of the weights.
        protocols: What the metrics of the records are.
        of: A sentence above the table, if there is one.
    """
    rows = []
    for record in records:
        protocol = protocols.get(record["protocol"])
        marks = [word for word, is_so in _marks(record) if is_so]
        for name, value in record["metrics"].items():
            found = protocol.find(name) if protocol else None
            error = record["standard_errors"].get(name)
            number = str(value) if isinstance(value, int) else "undefined" if value is None else f"{value:.4f}"
            shown = number if error is None or value is None else f"{number} ± {error:.4f}"
            cells = (
                *(record["protocol"], found.title if found else name, shown, str(record["n"])),
                *(f"{record['data']['name']}, {record['data']['split']}", ", ".join(marks)),
            )
            rows.append(f"| {' | '.join(map(markdown, cells))} |")
    head = "| protocol | metric | value | images | data | remarks |\n|---|---|---|---|---|---|\n"
    table = [of, head + "\n".join(rows)] if rows else ["Nothing of these weights is recorded in their run."]
    return "\n\n".join(["## What was measured", *filter(None, table)])


def _marks(record: Record) -> list[tuple[str, Any]]:
    return [
        ("a demonstration, no benchmark", record["demonstration"]),
        ("incomplete", not record["complete"]),
        ("by the published settings", record["published"]),
    ]
