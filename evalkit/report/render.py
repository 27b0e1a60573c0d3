"""The report as Markdown, CSV and LaTeX text."""

import csv
import io
from collections.abc import Sequence

from ..text import cell, plain
from ..text import markdown as markdown_text
from .collect import Record, Row, Run
from .drawing import Drawing
from .provenance import NOT_RECORDED, Provenance
from .tables import Cell, Table

CSV_FIELDS = (
    *(
        "row",
        "label",
        "method",
        "model",
        "weights",
        "task",
        "protocol",
        "version",
        "data",
        "split",
        "data_fingerprint",
        "metric",
        "value",
    ),
    *(
        "standard_error",
        "undefined",
        "n",
        "seed",
        "training_seed",
        "checkpoint_sha256",
        "complete",
        "demonstration",
        "published",
        "assumed",
    ),
)


def csv_text(rows: Sequence[Row]) -> str:
    """Long format: one line per metric of every record, fractions with all their digits."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for run in row.runs:
            for record in run.records.values():
                for metric in record["metrics"]:
                    writer.writerow({k: cell(v) for k, v in _csv_line(row, run, record, metric).items()})
    return out.getvalue()


def _csv_line(row: Row, run: Run, record: Record, metric: str) -> dict[str, object]:
    value, error = record["metrics"][metric], record["standard_errors"].get(metric)
    same = (
        "label",
        "method",
        "model",
        "weights",
        "task",
        "protocol",
        "version",
        "n",
        "seed",
        "checkpoint_sha256",
        "complete",
    )
    return {k: record[k] for k in same} | {
        **{k: NOT_RECORDED if record[k] is None else record[k] for k in ("demonstration", "published")},
        "assumed": "; ".join(record["assumed"]),
        "row": row.name,
        "data": record["data"]["name"],
        "split": record["data"]["split"],
        "data_fingerprint": record["data"]["fingerprint"],
        "metric": metric,
        "value": None if value is None else repr(value),
        "standard_error": None if error is None else repr(error),
        "undefined": record["undefined"].get(metric),
        "training_seed": run.training["seed"] if run.training else None,
    }


# ---- Markdown


def markdown(
    title: str,
    lead: str,
    tables: Sequence[Table],
    published: Sequence[Table],
    drawings: Sequence[Drawing],
    made: Provenance,
) -> str:
    """The report as Markdown.

    Args:
        title: Of the report.
        lead: What stands beneath it.
        tables: The tables of own results.
        published: Those beside published values.
        drawings: The figures.
        made: How it all was made.
    """
    parts = [f"# {_md(title)}", _md(lead)]
    for table in tables:
        parts += [f"## {_md(table.title)}", markdown_table(table), "\n".join(f"* {_md(note)}" for note in table.notes)]
    for drawing in drawings:
        parts.append(f"## {_md(drawing.title)}")
        if drawing.png is not None:
            parts.append(f"![{_md(drawing.title)}](figures/{drawing.name}.png)")
        if drawing.png is not None:
            parts.append(_md(drawing.caption))
        parts += ["\n".join(f"* Left out: {_md(reason)}" for reason in drawing.left_out)] if drawing.left_out else []
    if published:
        parts.append("## Beside published values")
        for table in published:
            parts += [
                f"### {_md(table.title)}",
                markdown_table(table),
                "\n".join(f"* {_md(note)}" for note in table.notes),
            ]
    parts.append("## How these numbers were made")
    parts += ["\n".join(f"* {_md(line)}" for line in made.remarks)] if made.remarks else []
    parts.append(_markdown_grid(made.head, [[_md(str(c)) for c in line] for line in made.lines]))
    parts += ["### Notes", "\n".join(f"* {_md(line)}" for line in made.notes)] if made.notes else []
    if made.diff:
        parts += [
            "### What differs between the training runs",
            _markdown_grid(
                ["key", *map(_md, made.diff_names)], [[_md(k), *map(_md, values)] for k, values in made.diff]
            ),
        ]
    parts += (
        ["### Settings of the protocols", *(f"{_md(name)}: {_md('; '.join(lines))}" for name, lines in made.settings)]
        if made.settings
        else []
    )
    parts += ["### Environment", "\n".join(f"* {_md(line)}" for line in made.environments)]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """The table with aligned columns, so that it reads well as plain text too; block titles go into the column
    titles."""
    heads = [short for *_, short, span in table.heads for _ in range(span)]
    columns = [f"{head} {column}".strip() for head, column in zip(heads, table.columns)]
    return _markdown_grid(
        ["", *map(_md, columns)], [[_md(name), *map(_md_cell, cells)] for name, cells in table.rows], numbers=True
    )


def _md_cell(cell: Cell) -> str:
    text = _md(cell.value + (f" ± {cell.spread}" if cell.spread else ""))
    return (f"**{text}**" if cell.best else text) + (f" ({_md(cell.remark)})" if cell.remark else "")


def _markdown_grid(head: Sequence[str], lines: Sequence[Sequence[str]], numbers: bool = False) -> str:
    rows = [[str(cell) for cell in line] for line in (head, *lines)]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(head))]
    right = [numbers and i > 0 for i in range(len(head))]
    text = [
        "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)) + " |" for row in rows
    ]
    rule = "| " + " | ".join("-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right)) + " |"
    return "\n".join([text[0], rule, *text[1:]])


def _md(text: str) -> str:
    return markdown_text(text)


# ---- LaTeX

_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    },
    **{"[": "{[}", "]": "{]}", '"': "''", "`": r"\textasciigrave{}"},
    **{"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "·": r"$\cdot$", "…": r"\ldots{}"},
}


def latex(tables: Sequence[Table]) -> str:
    """The tables for a paper; they need the packages booktabs and graphicx."""
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(latex_table(table) for table in tables)


def latex_table(table: Table) -> str:
    """A table in LaTeX, with its caption, label and notes."""
    spans, start = [], 2
    for *_, span in table.heads:
        spans.append((start, start + span - 1))
        start += span
    blocks = [
        rf"\multicolumn{{{span}}}{{c}}{{{_tex(f'{title} ({where})' if where else title)}}}"
        for title, where, _, span in table.heads
    ]
    above = [
        " & ".join(["", *blocks]) + r" \\",
        " ".join(rf"\cmidrule(lr){{{a}-{b}}}" for a, b in spans),
    ]
    below = rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {_tex(' '.join(table.notes))}}}"
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_tex(table.title)}}}",
        *([rf"\label{{tab:{_label(table.label)}}}"] * bool(table.label)),
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        *(above if any(title for title, *_ in table.heads) else []),
        " & ".join(["", *map(_tex, table.columns)]) + r" \\",
        r"\midrule",
        *(" & ".join([_tex(name), *map(_tex_cell, cells)]) + r" \\" for name, cells in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *([below] * bool(table.notes)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def _tex_cell(cell: Cell) -> str:
    value = rf"\textbf{{{_tex(cell.value)}}}" if cell.best else _tex(cell.value)
    spread = rf" {{\small$\pm$\,{_tex(cell.spread)}}}" if cell.spread else ""
    return value + spread + (rf" {{\footnotesize ({_tex(cell.remark)})}}" if cell.remark else "")


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in plain(text))
