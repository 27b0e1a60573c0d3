"""No number that was measured stands in the README or on the site but out of a record.

A number looks measured if it has a decimal point, a ± or a unit of time, rate or share behind it, or is a count of
minutes in words. It must then be in one of the records that its section names, or be listed in NOT_MEASURED with what
it is.
"""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from benchmarks import demo
from evalkit.cli.described import protocols
from evalkit.errors import EvalkitError
from evalkit.protocols import Metric

from .pages import DOCS, PAGES

ROOT = DOCS.parent
README = ROOT / "README.md"
# The others are made by programs whose own tests compare the pages: docs/ledger.md, docs/bad_inputs.md.
READ = [README, *PAGES, *(p for p in sorted(DOCS.glob("*.md")) if p.stem not in ("ledger", "bad_inputs"))]
NUMBER = r"[+\-\N{MINUS SIGN}]?\d[\d,]*(?:\.\d+)?"
UNIT = r"\s?(?:%|±|×|x\b|ms\b|s\b|seconds?\b|minutes?\b|hours?\b|days?\b|images? (?:a|per) second|[GMk]B\b|failures?\b)"
DECIMALS = "|".join(rf"{NUMBER}(?<=\.{digits})(?![\w.])" for digits in (r"\d", r"\d\d", r"\d\d\d"))
LOOKS = re.compile(rf"(?<![\w.,:/=@-])(?:{NUMBER}(?={UNIT})|{DECIMALS})")
SPOKEN = re.compile(
    r"(?<!images )\b(?:an?|one|two|three|four|five|six|ten|fifteen|twenty|half an?) (?:second|minute|hour|day)s?\b",
    re.IGNORECASE,
)
RECORD = re.compile(r"`(benchmarks/results/[\w./-]+)`")
NOT_MEASURED = {  # page -> words around a number -> what it is
    "README": {"Python 3.11 to 3.13": "versions", "Five minutes Nothing here": "how long its reader has"},
    "quickstart": {"Python 3.11 to 3.13": "versions"},
    "cluster": {
        "120 seconds before the limit": "a setting of Slurm's signal",
        "may send it a minute early": "Slurm's manual",
        "wait for two minutes": "Slurm's setting",
        "waits more than 30 minutes": "evalkit.runtime.TIMEOUT",
    },
    "own-method": {"after 30 minutes at most": "evalkit.runtime.TIMEOUT"},
    "zoo": {"0.2 and 0.3 M parameters": "the size of networks"},
    "studies": {"95 % (seeds": "a level of confidence"},
    "transfer": {
        "Python 3.14": "a version",
        "NumPy 2.2.6, OpenCV 5.0": "versions",
        "NumPy below 2.3": "a version",
    },
    "compatibility": {
        "until 1.0 a minor": "a version",
    },
}


def prose(text: str) -> str:
    """A page without code, targets of links and comments; records keep their names; comments of commands stay."""
    text = re.sub(r"^```(?:console|python|text|\{).*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"^(?!.*#)(?:\$ |evalkit |srun |make ).*$", "", text, flags=re.M)
    text = re.sub(r"^(?:\S.*?)?\s# (.*)$", r"\1", text, flags=re.M)
    text = re.sub(r"`(?!benchmarks/results/)[^`\n]*`", "CODE", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def sections(text: str) -> list[str]:
    """The parts of a page between headings."""
    return re.split(r"^#+ ", prose(text), flags=re.M)


def looking(section: str) -> list[tuple[str, str]]:
    """(number as printed, words around it) of what looks measured."""
    bare = RECORD.sub("CODE", section)
    found = [*LOOKS.finditer(bare), *SPOKEN.finditer(bare)]
    around = lambda m: " ".join(bare[max(0, m.start() - 40) : m.end() + 40].split())  # noqa: E731
    return [(m[0], around(m)) for m in found]


def numbers(path: Path) -> list[float]:
    """Every number of a record, or of the records below a folder."""
    if path.is_dir():
        return [v for p in sorted(path.rglob("*")) if p.suffix in (".json", ".csv", ".md") for v in numbers(p)]
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        cells = [cell for line in csv.reader(io.StringIO(text)) for cell in line]
    elif path.suffix == ".json":
        cells = []

        def walk(value):
            if isinstance(value, dict | list):
                for v in value.values() if isinstance(value, dict) else value:
                    walk(v)
            elif not isinstance(value, bool | str | None):
                cells.append(value)

        walk(json.loads(text))
    else:
        cells = re.findall(NUMBER, text)
    found = []
    for cell in cells:
        try:
            found.append(float(str(cell).replace(",", "").replace("\N{MINUS SIGN}", "-")))
        except ValueError:
            continue
    return found


def recorded(printed: str, values: list[float]) -> bool:
    """Whether a number as printed is one of the values, or one of them in percent, rounded as it is printed."""
    digits = len(printed.partition(".")[2])
    want = printed.replace(",", "").replace("\N{MINUS SIGN}", "-").lstrip("+")
    return any(want == f"{v:.{digits}f}" or want == f"{100 * v:.{digits}f}" for v in values)


def faults(page: str, text: str, exceptions: dict[str, str]) -> list[str]:
    """The numbers of a page that look measured and are in no record that their section names.

    Args:
        page: Its name, for what is returned.
        text: Its text.
        exceptions: Words around a number that was not measured -> what it is.
    """
    found = []
    for section in sections(text):
        values = [v for name in RECORD.findall(section) for v in numbers(ROOT / name)]
        for printed, around in looking(section):
            if any(words in around for words in exceptions) or recorded(printed, values):
                continue
            found.append(f"{page}: '{printed}' in '{around}'")
    return found


@pytest.mark.parametrize("page", READ, ids=lambda p: p.stem)
def test_every_measured_number_is_in_a_record_that_its_section_names(page):
    assert faults(page.stem, page.read_text(encoding="utf-8"), NOT_MEASURED.get(page.stem, {})) == []


def test_records_that_pages_name_exist():
    for page in READ:
        for name in RECORD.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", NOT_MEASURED)
def test_exceptions_are_still_needed(page):
    (path,) = [
        p
        for p in READ
        if p.stem == page
        and p.parent.name
        == ("docs" if page in ("cluster", "studies", "transfer") else ROOT.name if page == "README" else "pages")
    ]
    text = path.read_text(encoding="utf-8")
    for words, reason in NOT_MEASURED[page].items():
        others = {k: v for k, v in NOT_MEASURED[page].items() if k != words}
        assert reason and faults(page, text, others), words


@pytest.mark.parametrize(
    "text, count",
    [
        ("Top-1 is 97.3 %.", 1),
        ("It is 1.4 times faster.", 1),
        ("The step takes 12 ms, two minutes in all.", 2),
        ("| a | 35.33 ± 1.76 |", 2),
        ("`benchmarks/results/gpu_h200.json`: DeiT-S trains 5,185 images a second", 0),
        ("`benchmarks/results/gpu_h200.json`: DeiT-S trains 5,186 images a second", 1),
        ("`benchmarks/results/gpu_h200.json`.\n\n## Other\n\n5,185 images a second", 1),
        ("See `a=0.5`, [here](b-1.5.md), arXiv 2104.14294, version 1.0.31, 224 pixels, 2021-03-25.", 0),
        ("```console\n$ evalkit eval x\n97.3 %\n```", 0),
    ],
)
def test_what_looks_measured(text, count):
    assert len(faults("page", text, {})) == count


def test_the_count_of_what_was_compared_is_the_ledgers():
    rows = re.findall(r"^\|.*$", (DOCS / "ledger.md").read_text(encoding="utf-8"), re.MULTILINE)
    head, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    count = sum(int(row[head.index("cases")]) for row in rows if len(row) == len(head))
    assert f"| {count} recorded results of official" in (DOCS / "pages" / "what-works.md").read_text(encoding="utf-8")


def cells(text: str):
    """(head, row's name, cell) of each cell of Markdown tables."""
    for table in re.findall(r"(?:^\|[^\n]*\n)+", text, re.M):
        head, _, *rows = [[c.strip() for c in line.strip("|\n ").split("|")] for line in table.splitlines()]
        head = ["", *head] if len(head) < len(rows[0]) else head
        for row in rows:
            yield from ((title, row[0], cell) for title, cell in zip(head[1:], row[1:]))


def spread(line: dict[str, str], metric: Metric) -> str:
    """What a table prints behind the value."""
    known = line["standard_error"] and metric.better != "neither"
    return f" ± {metric.text(float(line['standard_error']))}" if known else ""


def test_the_readme_shows_the_tables_of_the_recorded_demo():
    shown = (ROOT / "benchmarks/results/demo/tables.md").read_text(encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    assert demo.filled(readme, shown) == readme


def test_every_cell_of_the_demo_is_the_number_of_its_record():
    lines = list(csv.DictReader(io.StringIO((ROOT / "benchmarks/results/demo/report.csv").read_text(encoding="utf-8"))))
    titles = {}
    for p in protocols().values():
        for m in p.columns:
            titles[f"{p.short} {m.heading()}" if p.kind != "transfer" else m.heading()] = (p.name, m)
    count = 0
    for title, row, cell in cells((ROOT / "benchmarks/results/demo/tables.md").read_text(encoding="utf-8")):
        if title in ("backbone", "decoder"):
            continue
        protocol, metric = titles[title]
        made = [x for x in lines if (x["row"], x["protocol"], x["metric"]) == (row, protocol, metric.name)]
        if cell == "–":
            assert not made, (title, row)
            continue
        printed = [metric.text(float(x["value"])) + spread(x, metric) for x in made]
        assert cell.strip("*") in printed, (title, row, printed)
        count += 1
    assert count > 50


def test_a_demo_fills_the_readme(tmp_path, monkeypatch, capsys):
    report = tmp_path / "demo" / "report"
    (report / "figures").mkdir(parents=True)
    (report / "figures" / "occlusion.png").write_bytes(b"png")
    (report / "report.csv").write_text("row\n")
    table = "|   | x |\n| - | - |\n| a | 1 |\n"
    (report / "report.md").write_text("".join(f"## {start} b\n\n{table}\n* note\n\n" for start in demo.SHOWN))
    (tmp_path / "README.md").write_text("# t\n\n<!-- demo -->\nold\n<!-- end of demo -->\n\nrest\n")
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "KEPT", tmp_path / "kept")
    demo.main(tmp_path / "demo")
    assert (
        tmp_path / "README.md"
    ).read_text() == f"# t\n\n<!-- demo -->\n\n{table}\n{table}\n{table}\n<!-- end of demo -->\n\nrest\n"
    assert (tmp_path / "kept" / "tables.md").read_text() == f"{table}\n{table}\n{table}"
    (report / "report.md").write_text("## Accuracy\n\nnothing\n")
    with pytest.raises(EvalkitError, match="no table under a heading that begins with 'Accuracy'"):
        demo.main(tmp_path / "demo")
    with pytest.raises(EvalkitError, match="run `make demo` first"):
        demo.main(tmp_path)
