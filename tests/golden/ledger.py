"""The ledger: what was compared with which official implementation, and how much it differs, as Markdown."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evalkit.train import METHODS

from .vectors import Case

HEAD = ("item", "setting", "official repository", "function", "compared", "cases", "largest difference", "deviation")
NONE = "none"


@dataclass(frozen=True)
class Row:
    """Cases of one item in one setting from one function. A class of its own so that a row is a key."""

    item: str
    setting: str
    repository: str
    function: str

    def text(self, cases: list[Case], difference: float) -> list[str]:
        compared = sorted({kind for case in cases for kind in compared_kinds(case)})
        largest = "0" if difference == 0 else f"{difference:.0e}"
        deviation = deviation_of(cases[0])
        return [
            *(self.item, self.setting, self.repository, self.function, ", ".join(compared), str(len(cases)), largest),
            NONE if deviation == NONE else f"[stated](#{cases[0].meta['method']})",
        ]


def rows(cases: Iterable[Case]) -> dict[Row, list[Case]]:
    """The cases by row, in the order in which they are read."""
    found: dict[Row, list[Case]] = {}
    for case in cases:
        found.setdefault(Row(case.item, setting_of(case), *case.official), []).append(case)
    return found


def setting_of(case: Case) -> str:
    """The preset of a method, and the arguments beside it; the kind of anything else."""
    if "method" not in case.meta:
        return case.meta.get("metric") or case.meta.get("set") or case.meta.get("mode") or case.meta["kind"]
    arguments = dict(case.meta.get("create", {})) | dict(case.meta.get("arguments", {}))
    preset = case.meta.get("preset") or arguments.pop("preset", "default")
    told = [f"{key}={value}" for key, value in sorted(arguments.items()) if key not in ("maps", "momentum")]
    return ", ".join([preset, *told])


def compared_kinds(case: Case) -> set[str]:
    """The names of what is expected, without steps and parameters."""
    found = {key.split("expect/", 1)[1].split("/")[0] for key in case.arrays if "expect/" in key}
    return {"gradient" if kind == "grad" else kind for kind in found}


def deviation_of(case: Case) -> str:
    """What the method says of itself; metrics, masks, transforms and models have none."""
    return differs(case.meta["method"]) if "method" in case.meta else NONE


def paragraph(method: str) -> str:
    """What a method says of how it differs from its paper or official code, in one line."""
    text = re.split(r"\n\s*\n", METHODS[method].__doc__ or "")
    (said,) = [part for part in text if re.match(r"\s*(Differs from|Does not differ from) the paper", part)]
    return " ".join(said.split())


def differs(method: str) -> str:
    """The same, or NONE where it says nothing more than that it does not differ."""
    said = paragraph(method)
    return NONE if said.startswith("Does not differ") and len(said.split(".")) < 3 and ";" not in said else said


def page(found: Mapping[Row, list[Case]], differences: Mapping[Row, float]) -> str:
    """The whole document."""
    lines = [
        "# Ledger",
        "",
        "What evalkit computes beside what the official implementations return for the same inputs and random draws,",
        "made by `python -m tests.golden --ledger docs/ledger.md` from the vectors in `tests/golden`. Differences are",
        "absolute; of learned and attention methods, metrics and models, gradients are divided by the largest entry of",
        "the gradient and other numbers by the largest expected one if that exceeds 1. An item's deviation is where it",
        "departs from its source on purpose; the compared setting is equal all the same.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|" + "---|" * len(HEAD),
    ]
    for row, cases in found.items():
        cells = [cell.replace("|", "\\|") for cell in row.text(cases, differences[row])]
        lines.append("| " + " | ".join(cells) + " |")
    compared = {case.meta["method"] for cases in found.values() for case in cases if "method" in case.meta}
    lines += ["", "## Deviations", ""]
    for method in sorted(compared):
        if differs(method) != NONE:
            lines += [f"### {method}", "", differs(method), ""]
    lines += ["## Methods without vectors", ""]
    for method in METHODS:
        if method not in compared:
            lines.append(f"- `{method}`: {differs(method)}")
    return "\n".join(lines) + "\n"


def differences_in(text: str) -> list[float]:
    """The column of differences of a ledger, from the top."""
    column = HEAD.index("largest difference") + 1
    table = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return [float(re.split(r"(?<!\\)\|", line)[column]) for line in table]
