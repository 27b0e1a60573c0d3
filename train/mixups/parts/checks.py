"""Checks of constructor arguments: a wrong value fails at once, in one wording."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any


def expect(ok: bool, name: str, what: str, value: Any) -> None:
    """Raise ValueError "Expected argument `name` to be `what`, but got value" unless it is.

    Args:
        ok: Whether the value is right.
        name: The argument.
        what: What it must be, such as "at least 0".
        value: What it is.
    """
    if not ok:
        raise ValueError(f"Expected argument `{name}` to be {what}, but got {value!r}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a value is an integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(name: str, value: Any, options: Sequence[str]) -> str:
    """Raise ValueError for a value that is none of the options.

    Args:
        name: The argument.
        value: What it is.
        options: What it may be.
    """
    named = ", ".join(map(repr, options[:-1])) + f" or {options[-1]!r}"
    expect(value in options, name, named, value)
    return value


def flag(name: str, value: Any) -> bool:
    """Raise ValueError for a value that is neither True nor False.

    Args:
        name: The argument.
        value: What it is.
    """
    expect(isinstance(value, bool), name, "true or false", value)
    return value


def beta_parameter(value: Any, name: str = "alpha") -> float:
    """The parameter of Beta(alpha, alpha); 0 switches mixing off.

    Args:
        value: What was given.
        name: The argument, for the error.
    """
    expect(is_number(value) and value >= 0, name, "a number of at least 0", value)
    return float(value)


def block_depth(value: Any, name: str = "attn_depth") -> bool | int | str:
    """What a method's `attention` is: True (the last block) for None, the block's number counted from 1, or "rollout"
    (all blocks).

    Args:
        value: None, a number or "rollout", as it was given.
        name: The argument, for the error.
    """
    known = value is None or value == "rollout" or (is_whole(value) and value > 0)
    expect(known, name, "the number of a block, 1 or more, 'rollout' for all of them, or none for the last", value)
    return True if value is None else value


def interval(name: str, value: Any, least: float, most: float = float("inf")) -> tuple[float, float]:
    """The range [low, high] that an argument is drawn from.

    Args:
        name: The argument, for the error.
        value: Two numbers, or one for a constant.
        least: The smallest number that is allowed.
        most: The largest one.
    """
    if is_number(value):
        value = (value, value)
    ok = (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(map(is_number, value))
        and least <= value[0] <= value[1] <= most
    )
    expect(ok, name, f"two numbers in order, from {least:g} to {most:g}", value)
    return tuple(value)
