"""What the values of a results record may be, whatever wrote it."""

from collections.abc import Callable, Mapping
from typing import Any

MAX_DEPTH, LARGEST = 16, 1e300


def check_content(record: Mapping[str, Any]) -> None:
    """Raise ValueError for what readers of records could not work with: nested too deep, numbers out of all bounds,
    values of other types than tables and figures show."""
    if _depth(record) > MAX_DEPTH:
        raise ValueError(f"a results record is nested {MAX_DEPTH} deep at most, but this one is deeper")
    parts = ("metrics", "standard_errors")
    numbers = {f: record.get(f, {}) for f in parts}
    numbers |= {f"series {i}": row for i, row in enumerate(record["series"] or []) if isinstance(row, Mapping)}
    for part, values in numbers.items():
        for key, value in values.items():
            # a row of a series may hold words, and a list of numbers such as those of repeated runs
            members = value if part not in parts and isinstance(value, list) else [value]
            if not all(_is_number(v) or v is None or (part not in parts and isinstance(v, str)) for v in members):
                raise ValueError(
                    f"Expected {part.removesuffix('s')} `{key}` to be a number or null, but got {short(value)}"
                )
    kinds: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("notes", "assumed", "idle_keys"), lambda v: all(isinstance(note, str) for note in v)),
        "undefined": lambda v: all(isinstance(why, str) for why in v.values()),
        "series": lambda v: all(isinstance(row, Mapping) and _is_row(row) for row in v or []),
        "data": lambda v: isinstance(v.get("prepared"), str | None),
        "intervals": lambda v: all(
            isinstance(pair, list | tuple) and len(pair) == 2 and all(x is None or _is_number(x) for x in pair)
            for pair in v.values()
        ),
        "n": lambda v: 0 <= v < 2**63,
        "seconds": lambda v: v is None or _is_number(v),
    }
    for name, fits in kinds.items():
        if name in record and not fits(record[name]):
            raise ValueError(f"field `{name}` of a results record holds values of another type than such a field does")


def _is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row of a series can be drawn, if it is one of those that are: a point of the curve `mode`."""
    if "mode" not in row:
        return True
    point = _is_number(row.get("level")) and all(row.get(k) is None or _is_number(row[k]) for k in ("top1", "sd"))
    return isinstance(row["mode"], str) and point


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _depth(value: Any, above: int = 0) -> int:
    """How deep containers are nested; stops just beyond MAX_DEPTH."""
    if not isinstance(value, Mapping | list | tuple) or above > MAX_DEPTH:
        return above
    inner = value.values() if isinstance(value, Mapping) else value
    return max((_depth(v, above + 1) for v in inner), default=above + 1)


def short(value: Any) -> str:
    """A value as an error shows it, at most 80 characters."""
    if isinstance(value, int) and abs(value) >= LARGEST:
        return "a number of more than 300 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
