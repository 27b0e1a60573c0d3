"""`evalkit report`: one honest report (HTML, Markdown, CSV, LaTeX, figures) from the records of any number of runs."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from .. import results
from ..errors import EvalkitError
from ..protocols import Protocols
from ..runtime import write_together
from . import drawing, figures, page, render
from .beside import beside_published
from .collect import rows_of, runs_of
from .provenance import provenance
from .tables import summary
from .transfer import transfers, transfers_beside_published

TITLE = "evalkit report"
UNFINISHED = "report-unfinished.txt"  # stands beside a report whose files are not all of one writing


def build(dirs: Iterable[str | Path], out: str | Path | None, protocols: Protocols) -> Path:
    """Write report.html, report.md, report.csv, report.tex and figures/* (PNG, SVG, PDF) into `out` from every
    results.jsonl below `dirs`; returns the path of report.html.

    Args:
        dirs: Folders.
        out: Default: the first of `dirs`.
        protocols: What the records are of, in the order of the tables.

    Raises EvalkitError where there are no records or `out` cannot be written.
    """
    below = [Path(d) for d in dirs]
    if not below:
        raise EvalkitError("no folder given; name one or more that hold results, e.g. `evalkit report runs`")
    records, problems = results.scan(below)
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    if not records:
        raise EvalkitError(
            f"no readable record below {', '.join(map(str, below))}; run `evalkit train` or `evalkit robustness` again"
        )
    folder = Path(out) if out is not None else (below[0] if below[0].is_dir() else below[0].parent)

    # the baseline comes first
    rows = rows_of(runs_of(sorted(results.latest(records), key=lambda r: r["method"] != "vanilla")))
    tables = [*summary(rows, protocols), *transfers(rows, protocols)]
    published = [*beside_published(rows, protocols), *transfers_beside_published(rows, protocols)]
    drawings, made = figures.draw(rows, protocols), provenance(rows, problems, protocols, folder)
    lead = page.lead(rows)
    files: dict[Path, str | bytes] = {
        **drawing.files(drawings, folder / "figures"),
        folder / "report.csv": render.csv_text(rows),
        folder / "report.md": render.markdown(TITLE, lead, tables, published, drawings, made),
        folder / "report.tex": render.latex([*tables, *published]),
        folder / "report.html": page.html(TITLE, lead, rows, tables, published, drawings, made),
    }
    # file names may hold bytes that are no text
    content = {p: c.encode("utf-8", "backslashreplace") if isinstance(c, str) else c for p, c in files.items()}
    if write_together(content, folder / UNFINISHED):
        warnings.warn(f"the report in {folder} was cut off while it was written; it is whole now", stacklevel=2)
    return folder / "report.html"
