"""Keys describe themselves: what is said once is what checks, and what cannot be said cannot be defined."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from omegaconf import MISSING

from evalkit import config, keys
from evalkit.accuracy import EvalConfig
from evalkit.downstream.det import DetConfig
from evalkit.downstream.seg import SegConfig
from evalkit.errors import EvalkitError
from evalkit.keys import Keys, key
from evalkit.robustness import CONFIGS, AllConfig
from evalkit.train.config import TrainConfig

SCHEMAS = [TrainConfig, EvalConfig, SegConfig, DetConfig, AllConfig, *CONFIGS.values()]


def defined(default: Any, hint: Any = Any, **about):
    """A configuration with one key, `x`."""
    return dataclass(frozen=True)(
        type("One", (Keys,), {"__annotations__": {"x": hint}, "x": key(default, "a toy", **about)})
    )


def test_an_undescribed_field_cannot_be_defined():
    for value in ({}, {"x": 3}, {"x": dataclasses.field(default=3)}):
        with pytest.raises(TypeError, match=r"Bad\.x is not described; define it by key\("):
            type("Bad", (Keys,), {"__annotations__": {"x": int}, **value})


@pytest.mark.parametrize("meaning", ["", "  ", None])
def test_a_key_without_meaning_cannot_be_defined(meaning):
    with pytest.raises(TypeError, match="needs a meaning"):
        key(3, meaning)


def test_a_role_is_one_of_those_that_records_know():
    with pytest.raises(TypeError, match="role of a key is one of setting, seed, .*, but got 'fast'"):
        key(3, "toy", role="fast")


def test_a_plain_dataclass_is_no_configuration():
    @dataclass(frozen=True)
    class Plain:
        x: int = 3

    with pytest.raises(TypeError, match="derive it from evalkit.keys.Keys"):
        config.load(Plain, None, [])


def test_class_variables_are_no_keys():
    class Fine(Keys):
        LIMIT: ClassVar[int] = 3
        x: int = key(1, "toy")

    assert list(keys.of(dataclass(Fine))) == ["x"]


@pytest.mark.parametrize(
    "about, inside, outside, words",
    [
        ({"least": 0}, (0, 1e9), (-1e-9,), "at least 0"),
        ({"above": 0}, (1e-9, 1e9), (0, -1), "larger than 0"),
        ({"most": 2.5}, (-9, 2.5), (2.6,), "at most 2.5"),
        ({"least": 0, "most": 1}, (0, 0.5, 1), (-0.1, 1.1), "between 0 and 1"),
        ({"above": 0, "most": 255}, (0.1, 255), (0, 256), "larger than 0 and at most 255"),
        ({"least": 0, "most": 2**64 - 1}, (2**64 - 1,), (2**64,), "between 0 and 2^64-1"),
        ({}, (-1e30, 1e30), (), ""),
    ],
)
def test_bounds(about, inside, outside, words):
    schema = defined(0, **about)
    assert keys.of(schema)["x"].bounds() == words
    for value in inside:
        schema(value).check()
    for value in (*outside, math.nan, math.inf):
        verb = "lie" if words.startswith("between") else "be"
        with pytest.raises(EvalkitError) as e:
            schema(value).check()
        assert str(e.value) == f"key 'x' must {verb} {words or 'a finite number'}, but got {value}"


def test_bounds_and_choices_hold_for_each_of_a_list():
    schema = defined([1], list[int], least=1)
    schema([1, 2]).check()
    with pytest.raises(EvalkitError, match=r"^each number of key 'x' must be at least 1, but got \[3, 0\]$"):
        schema([3, 0]).check()
    with pytest.raises(EvalkitError, match=r"^unknown value of x 'fogg'. Did you mean 'fog'\?$"):
        defined(["fog"], list[str], choices=("fog", "snow"))(["snow", "fogg"]).check()


def test_null_is_left_to_the_type_and_true_is_no_number():
    defined(None, float | None, above=0)(None).check()
    defined("a", choices={"a": "first"})(None).check()
    defined(True, bool, least=5)(True).check()


def test_a_default_is_copied():
    schema = defined([1, 2], list[int])
    schema().x.append(3)
    assert schema().x == [1, 2] == keys.default(schema, "x")


def test_what_must_be_given():
    must = [name for name in keys.of(TrainConfig) if keys.default(TrainConfig, name) == MISSING]
    assert must == [
        "model",
        "data",
        "epochs",
        "batch_size",
        "micro_batch",
        "lr",
    ]
    assert keys.default(TrainConfig, "lr") == MISSING and keys.default(TrainConfig, "betas") == [0.9, 0.999]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_defaults_are_allowed(schema):
    for name, described in keys.of(schema).items():
        if keys.default(schema, name) != MISSING:
            described.check(name, keys.default(schema, name))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_number_has_a_bound_and_a_key_of_one_name_one_kind_of_meaning(schema):
    """A number without a bound lets nonsense through; null is explained where it is allowed."""
    hints = keys.hints(schema)
    for name, described in keys.of(schema).items():
        kind = keys.kind(hints[name])
        if ("number" in kind and "text" not in kind) or "integer" in kind:
            assert described.bounds() or described.choices, name
        if kind.endswith("or null") and described.role not in ("place",) and name != "label":
            assert "null" in described.meaning, name


def test_roles():
    assert keys.named(TrainConfig, "execution") == {
        *("workers", "device", "keep", "checkpoint_minutes", "checkpoint_steps", "log_steps", "track", "cache")
    }
    assert keys.named(SegConfig, "execution") == {
        *("workers", "device", "keep", "checkpoint_steps", "log_steps", "val_steps", "track")
    }
    assert {"seed"} == keys.named(TrainConfig, "seed") == keys.named(CONFIGS["pgd"], "seed")
    assert {"lr", "model", "amp", "methods"} <= keys.named(TrainConfig, "setting")
