"""Put what `make demo` printed into the README, and its report beside it.

    python -m benchmarks.demo [DEMO]

DEMO is the folder of the demo, "demo" by default, with its report. Its report.csv, the tables (tables.md) and the
figure of occlusion are copied to benchmarks/results/demo; the README's part between the two comments that say "demo"
becomes these tables. Tests compare the README with tables.md, and every cell with report.csv.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.runtime import write_atomic

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "demo"
FILES = {"report.csv": "report.csv", "figures/occlusion.png": "occlusion.png"}
SHOWN = ("Accuracy", "Semantic", "Object")  # how the headings of the tables begin


def tables(report: str) -> str:
    """The tables of a report that the README shows, as Markdown.

    Raises EvalkitError where the report lacks one of them.
    """
    found = []
    for start in SHOWN:
        own = re.findall(rf"^## {start}[^\n]*\n\n((?:\|[^\n]*\n)+)", report, re.MULTILINE)
        if not own:
            raise EvalkitError(f"the report has no table under a heading that begins with '{start}'; run `make demo`")
        found += own
    return "\n".join(found)


def filled(readme: str, shown: str) -> str:
    """The README with other tables.

    Args:
        readme: Its text.
        shown: The tables.

    Raises EvalkitError where the README has no place for them.
    """
    begin, end = "<!-- demo -->\n", "<!-- end of demo -->"
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise EvalkitError(f"the README needs one line '{begin.strip()}' and one '{end}' around the demo's tables")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{shown}\n{end}{rest.split(end)[1]}"


def main(demo: Path) -> None:
    """Copy and fill in.

    Args:
        demo: The demo's folder.
    """
    report = demo / "report"
    missing = [name for name in ("report.md", *FILES) if not (report / name).is_file()]
    if missing:
        raise EvalkitError(f"{report} holds no {', '.join(missing)}; run `make demo` first, or name its folder")
    shown = tables((report / "report.md").read_text(encoding="utf-8"))
    readme = filled((ROOT / "README.md").read_text(encoding="utf-8"), shown)
    KEPT.mkdir(parents=True, exist_ok=True)
    for source, name in FILES.items():
        shutil.copyfile(report / source, KEPT / name)
    write_atomic(KEPT / "tables.md", lambda f: f.write(shown.encode()))
    write_atomic(ROOT / "README.md", lambda f: f.write(readme.encode()))
    print(f"README.md and {KEPT.relative_to(ROOT)} hold the numbers of {demo}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", nargs="?", type=Path, default=Path("demo"))
    try:
        main(parser.parse_args().demo)
    except EvalkitError as e:
        sys.exit(f"error: {e}")
