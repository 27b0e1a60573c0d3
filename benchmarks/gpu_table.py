"""The numbers of `gpu.py` as a table: a line for each, with its goal and whether it is met.

python benchmarks/gpu_table.py benchmarks/results/gpu_h200.json
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def table(found: dict[str, Any]) -> str:
    """The device's name, then each part with its numbers.

    Args:
        found: What `gpu.py` writes.
    """
    lines = [f"{found['environment']['device']}, torch {found['environment']['torch']}"]
    for part, numbers in found["parts"].items():
        seconds = f"{numbers['seconds']:.1f} s" if "seconds" in numbers else "not finished"
        lines.append(f"{part} ({'FAILED, ' if 'failed' in numbers else ''}{seconds})")
        lines += [f"  {line}" for line in described({k: v for k, v in numbers.items() if k != "seconds"})]
    return "\n".join(lines)


def described(numbers: dict[str, Any]) -> Iterator[str]:
    """A line for each entry of a part."""
    width = max(map(len, numbers), default=0)
    for name, value in numbers.items():
        if isinstance(value, dict):
            cells = [f"{key} {shown(key, v)}" for key, v in value.items() if key != "goal" and v is not None]
            yield f"{name:{width}s}  {', '.join(cells)}{verdict(value)}"
        else:
            yield f"{name:{width}s}  {shown(name, value)}"


def shown(name: str, value: Any) -> str:
    """A value as text, memory in GiB.

    Args:
        name: Of the value.
        value: A number, text, or a list of them.
    """
    if isinstance(value, list):
        return " to ".join(shown(name, v) for v in value)
    if name == "memory":
        return f"{value / 2**30:.2f} GiB"
    return (
        f"{value:,.0f}"
        if isinstance(value, float) and value >= 1000
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )


def verdict(values: dict[str, Any]) -> str:
    """Whether a goal is met: a ratio to vanilla at most that, a share of 800 TFLOP/s at least that; empty without one.

    Args:
        values: Of one entry.
    """
    goal = values.get("goal")
    if goal is None:
        return ""
    met, bound = (
        (values["relative"] <= goal, "most") if "relative" in values else (values["share_of_800"] >= goal, "least")
    )
    return f"; goal: at {bound} {goal:g}, {'met' if met else 'NOT met'}"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
