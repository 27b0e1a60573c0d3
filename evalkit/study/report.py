"""`evalkit study report`: the tables of a study with what they allow to say, as Markdown, CSV, LaTeX and one HTML page,
with its figures as PNG, SVG and PDF."""

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_together
from ..ordered import each_once
from ..protocols import Protocols
from ..report import UNFINISHED, drawing, page, render
from ..report import figures as run_figures
from ..report.collect import Record
from ..report.provenance import provenance
from ..report.tables import Table
from ..text import cell
from . import beside, costs, figures, plan, reuse, tables
from .gather import TRAIN, Gathered, Outcomes, gather
from .spec import Study
from .tables import Difference


def build(study: Study, folder: Path, out: Path, protocols: Protocols, outcomes: Outcomes) -> Path:
    """Write report.html, report.md, report.tex, results.csv, differences.csv and figures/ of a study into `out`; the
    path of report.html.

    Args:
        study: what was planned.
        folder: where it was run.
        out: where the report goes.
        protocols: what the records are of.
        outcomes: reads the per-sample records of a record; raises EvalkitError where they are gone.

    Raises EvalkitError where nothing was measured yet or `out` cannot be written.
    """
    gathered = gather(study, folder)
    shown: list[Table] = []
    without: list[str] = []
    found: list[Difference] = []
    for measurement in (TRAIN, *(e.name for e in study.evaluations)):
        own = tables.results_tables(gathered, measurement, protocols)
        if not own and any(measurement in m.records for one in gathered.places.values() for m in one):
            form = f" (report: form: {study.report.form})" if measurement == TRAIN else ""
            without.append(f"Measured, but not in the tables: {measurement}: no record has what they show{form}.")
        differences = tables.differences(gathered, measurement, protocols, outcomes)
        table = tables.differences_table(gathered, differences, own[0].title if own else "")
        shown += [*own, *([table] if table else [])]
        found += differences
    if (table := costs.table(gathered)) is not None:
        shown.append(table)
    beside_published = beside.table(gathered, protocols)
    published = [] if beside_published is None else [beside_published]
    rows = gathered.report_rows()
    drawings = [*figures.draw(gathered, protocols), *run_figures.draw(rows, protocols)]
    made = provenance(rows, gathered.problems, protocols, out)
    planned = (folder / plan.FILE).is_file()  # not where the records alone were kept
    used = reuse.used(folder, plan.read(folder)) if planned else []
    made.remarks[:0] = [*remarks(gathered), *without, *used]
    lead = f"{page.lead(rows)} {selection(gathered)}"
    files: dict[Path, str | bytes] = {
        out / "report.html": page.html(study.title, lead, rows, shown, published, drawings, made),
        out / "report.md": render.markdown(study.title, lead, shown, published, drawings, made),
        out / "report.tex": render.latex([*shown, *published]),
        out / "results.csv": results_csv(gathered),
        out / "differences.csv": differences_csv(found, gathered),
    }
    files |= drawing.files(drawings, out / "figures")
    content = {p: c.encode("utf-8", "backslashreplace") if isinstance(c, str) else c for p, c in files.items()}
    if write_together(content, out / UNFINISHED):
        warnings.warn(f"the report in {out} was cut off while it was written; it is whole now", stacklevel=2)
    return out / "report.html"


def selection(gathered: Gathered) -> str:
    """On which images anything was selected, in a sentence."""
    records = [r for m in gathered.places.values() for one in m if (r := one.records.get(TRAIN))]
    where = ", ".join(each_once(f"{r['data']['name']} {r['data']['split']}".strip() for r in records))
    held = any(r["config"].get("holdout") for r in records)
    on = f"{where} (held out of the training images)" if held else where
    if gathered.study.report.form == "best":
        return (
            f"Selected: of each training the best evaluation, on the images that it is measured on ({on}), so that"
            " accuracies are too high."
        )
    if gathered.study.report.form == "median":
        return f"Nothing was selected: accuracies are the median of the last evaluations of each training, on {on}."
    return f"Nothing was selected: every number is of the last weights of a training; accuracies on {on}."


def remarks(gathered: Gathered) -> list[str]:
    """What is not in the tables and why."""
    lines = [f"Left out: {name}: {why}." for name, why in gathered.left_out.items()]
    lines += [f"Not measured: {what}." for what in gathered.missing]
    lines += [f"Measured, but not in the tables: {what}." for what in gathered.odd_ones()]
    lines += [f"In the folder, and no cell of this study: {name}." for name in gathered.others]
    return lines


def results_csv(gathered: Gathered) -> str:
    """Long format: one line per metric of every record, fractions with all their digits."""
    axes = list(gathered.study.axes)
    lines = []
    for members in gathered.places.values():
        for m in members:
            for name, record in m.records.items():
                lines += [dict(m.cell.values) | _line(name, record, metric) for metric in record["metrics"]]
    return _csv([*axes, *_LINE], lines)


_LINE = ("measurement", "protocol", "version", "data", "split", "metric", "value", "standard_error", "n")
_LINE += ("weights", "checkpoint_sha256", "seconds", "evalkit", "commit")


def _line(name: str, record: Record, metric: str) -> dict[str, Any]:
    data, environment = record["data"], record["environment"]
    return {
        "measurement": name,
        **{key: record[key] for key in ("protocol", "version", "n", "weights", "checkpoint_sha256", "seconds")},
        "data": data["name"],
        "split": data["split"],
        "metric": metric,
        "value": _digits(record["metrics"][metric]),
        "standard_error": _digits(record["standard_errors"].get(metric)),
        "evalkit": environment.get("evalkit"),
        "commit": environment.get("commit"),
    }


_OF_DIFFERENCE = ("measurement", "metric", "difference", "seeds", "low", "high", "low_images", "high_images", "p")
_OF_DIFFERENCE += ("p_holm", "verdict")


def differences_csv(found: Sequence[Difference], gathered: Gathered) -> str:
    """One line per difference, fractions with all their digits.

    Args:
        found: The differences.
        gathered: What was measured.
    """
    lines = []
    for d in found:
        first = gathered.places[d.place][0].cell.values
        lines.append(
            {axis: value for axis, value in first.items() if axis != "seed"}
            | {"measurement": d.measurement, "metric": d.metric.name, "verdict": d.verdict, "seeds": d.found.pairs}
            | {"difference": _digits(d.found.difference), "p": _digits(d.found.p), "p_holm": _digits(d.adjusted)}
            | dict(zip(("low", "high"), map(_digits, d.found.interval)))
            | dict(zip(("low_images", "high_images"), map(_digits, d.images or (None, None))))
        )
    return _csv([*(a for a in gathered.study.axes if a != "seed"), *_OF_DIFFERENCE], lines)


def _digits(value: float | None) -> str:
    return "" if value is None or value != value else repr(value)


def _csv(fields: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([cell(field) for field in fields])
    for line in lines:
        writer.writerow([cell(line.get(field, "")) for field in fields])
    return out.getvalue()
