"""What there is to choose from: every method with its family, needs, source and cost."""

import re

from ..mixups import METHODS, MixMethod


def rows() -> list[tuple[str, str, str, str, str]]:
    """(name, family, needs, paper, extra passes through a network per step) of every method."""
    return [(name, cls.family, cls.needs or "-", paper(cls), cls.extra_passes) for name, cls in METHODS.items()]


def paper(cls: type[MixMethod]) -> str:
    """The source that the class names first: the first brackets of its docstring with a year or an arXiv number."""
    found = re.search(r"\(([^()]*(?:arXiv:\d|\b(?:19|20)\d\d\b)[^()]*)\)", " ".join((cls.__doc__ or "").split()))
    return re.sub(r", (?:equations? |\").*", "", found[1]) if found else "-"


def table() -> str:
    """The methods as lines of aligned columns under a heading; below, which of them make the host wait for the
    device."""
    lines = [
        ("method", "family", "needs", "extra passes", "paper"),
        *((name, family, needs, passes, paper) for name, family, needs, paper, passes in rows()),
    ]
    widths = [max(map(len, column)) for column in zip(*lines)]
    waiting = ", ".join(f"{name} ({cls.waits})" for name, cls in METHODS.items() if cls.waits)
    text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
    return f"{text}\n\nMixing never waits for the device, but for: {waiting}."
