"""The report as one self-contained HTML page."""

from collections.abc import Sequence

import jinja2

from .. import __version__
from ..ordered import each_once
from ..text import plain
from .collect import Row
from .drawing import Drawing
from .provenance import DEMONSTRATION, Provenance, training_configs
from .tables import Table


def lead(rows: Sequence[Row]) -> str:
    """One sentence on what the report holds."""
    records = [r for row in rows for run in row.runs for r in run.records.values()]
    runs = sum(len(row.runs) for row in rows)
    data = ", ".join(each_once(r["data"]["name"] for r in records))
    seeds = f" ({len(rows)} without counting seeds)" if len(rows) < runs else ""
    text = (
        f"{runs} model{'s' if runs != 1 else ''}{seeds}, {len(records)} measurement{'s' if len(records) != 1 else ''}"
        f" on {data}."
    )
    return text + (f" The embedded sets are {DEMONSTRATION}." if any(r["demonstration"] for r in records) else "")


def _lines(text: str) -> str:
    """Text whose lines hold nothing that turns letters around or hides some, whoever put the ends of lines there."""
    return "\n".join(map(plain, text.split("\n")))


def html(
    title: str,
    lead: str,
    rows: Sequence[Row],
    tables: Sequence[Table],
    published: Sequence[Table],
    drawings: Sequence[Drawing],
    made: Provenance,
) -> str:
    """The page: inline style, figures as data, nothing fetched from anywhere.

    Args:
        title: Of the page.
        lead: What stands beneath it.
        rows: The rows of the tables, for their runs.
        tables: The tables of own results.
        published: Those beside published values.
        drawings: The figures.
        made: How it all was made.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evalkit.report", "."),
        autoescape=True,
        finalize=lambda value: _lines(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        tables=tables,
        published=published,
        drawings=drawings,
        made=made,
        configs=training_configs(rows),
        version=__version__,
    )
