"""Which published values a study stands for, and which of them each of its cells has beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import published
from ..errors import EvalkitError, unknown
from ..published import Published

COSTS = ("parameters", "flops", "images_per_second")  # of a network or a step: `evalkit bench step` measures them
TRAIN, COST = "train", "cost"  # what a value is of, where it is of no evaluation


class Beside(NamedTuple):
    """A published value of a cell.

    Args:
        value: What is printed.
        of: What makes the number beside it: "train", "cost" or an evaluation's name.
    """

    value: Published
    of: str


@dataclass(frozen=True)
class Entry:
    """An entry of a study's `published`.

    Args:
        values: the published values that its columns name.
        names: axis -> value of the axis -> how the source calls it, where that is another word.
    """

    values: list[Published]
    names: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)


def read(file: str, given: Any, axes: Mapping[str, Sequence[str]]) -> list[Entry]:
    """The entries of `published`: columns of evalkit/published with the values that they must have, and `names`.

    Args:
        file: Name of the study's file, for errors.
        given: What the file holds.
        axes: Axis -> its values.

    Raises EvalkitError, with the file's name, for an unknown column and for an entry that names no published value.
    """
    entries = []
    for entry in [given] if isinstance(given, dict) else given or []:
        if not isinstance(entry, dict) or "source" not in entry:
            raise EvalkitError(
                f"{file}: `published` needs a source, such as {{source: MixPro paper, table: Table 1}}; got {entry!r}"
            )
        columns = {k: {str(v) for v in _listed(value)} for k, value in entry.items() if k != "names"}
        for column, wanted in columns.items():
            if column not in Published._fields:
                raise EvalkitError(
                    f"{file}: published: {unknown('column', str(column), (*Published._fields, 'names'))}"
                )
            known = {getattr(v, column) for v in published.values()}
            for word in wanted - known:
                raise EvalkitError(f"{file}: published: {unknown(column, word, known)}")
        found = [v for v in published.values() if all(getattr(v, k) in wanted for k, wanted in columns.items())]
        if not found:
            raise EvalkitError(f"{file}: no published value has {', '.join(f'{k}={entry[k]}' for k in columns)}")
        entries.append(Entry(found, _names(file, entry.get("names") or {}, axes)))
    return entries


def _names(file: str, given: Any, axes: Mapping[str, Sequence[str]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """`names`, checked: {method: {aligned: "TransMix, mask aligned to patches (A)"}}."""
    if not isinstance(given, dict) or not all(isinstance(words, dict) for words in given.values()):
        raise EvalkitError(f"{file}: `names` must map an axis to its values and their words in the source")
    for axis, words in given.items():
        if axis not in axes or axis not in Published._fields:
            raise EvalkitError(
                f"{file}: names: {unknown('axis', str(axis), [a for a in axes if a in Published._fields])}"
            )
        for value in words:
            if str(value) not in axes[axis]:
                raise EvalkitError(f"{file}: names: {unknown(f'value of {axis}', str(value), axes[axis])}")
    return {
        axis: {str(value): tuple(str(word) for word in _listed(called)) for value, called in words.items()}
        for axis, words in given.items()
    }


def beside(entries: Sequence[Entry], chosen: Mapping[str, str], evaluations: Sequence[Any]) -> list[Beside]:
    """The published values of a cell.

    An axis that is called like a column of the published values (model, method, setting, data, alpha) tells them
    apart; a value whose column is empty, such as the parameters of a network whatever the method, is of every cell.

    Args:
        entries: of the study.
        chosen: axis -> value of the cell.
        evaluations: of the study; one measures the values of its protocol, and of the decoder that it is called by.
    """
    found = []
    for entry in entries:
        words = {
            axis: ("", *entry.names.get(axis, {}).get(value, (value,)))
            for axis, value in chosen.items()
            if axis in Published._fields
        }
        for value in entry.values:
            if all(getattr(value, axis) in called for axis, called in words.items()):
                of = _measured_by(value, evaluations)
                if of is not None:
                    found.append(Beside(value, of))
    return found


def _measured_by(value: Published, evaluations: Sequence[Any]) -> str | None:
    if value.task == "accuracy":
        return COST if value.metric in COSTS else TRAIN
    names = [e.name for e in evaluations if e.what == value.task and value.decoder in ("", e.name)]
    return names[0] if names else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
