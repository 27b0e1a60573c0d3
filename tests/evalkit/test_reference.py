"""The reference of keys says what the classes say, all of it, once."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from omegaconf import MISSING

from evalkit import cli, keys, reference
from evalkit.cli.schemas import schemas
from evalkit.errors import EvalkitError
from evalkit.keys import Keys, Retired, key


@dataclass(frozen=True)
class Toy(Keys):
    RETIRED: ClassVar = {"old": Retired("use speed")}
    speed: float = key(MISSING, "how fast it goes", unit="km/h", above=0, most=300)
    colour: str | None = key(None, "what it looks like; null: any", choices={"red": "like a rose", "blue": ""})
    wheels: list[int] = key([2, 2], "of each axle", least=1, role="execution")


@dataclass(frozen=True)
class Fast(Toy):
    speed: float = key(200.0, "how fast it goes", unit="km/h", above=0, most=300)


BOTH = {"drive car": Toy, "drive train": Fast}


def test_a_key_is_said_once_with_all_that_take_it():
    assert [(who, [e.name for e in found]) for who, found in reference.groups(BOTH)] == [
        (["drive car"], ["speed"]),
        (["drive car", "drive train"], ["colour", "wheels"]),
        (["drive train"], ["speed"]),
    ]


def test_listing():
    assert reference.listing(BOTH).splitlines() == [
        "evalkit drive car",
        "  speed  how fast it goes (a number in km/h, larger than 0 and at most 300; must be given)",
        "",
        "evalkit drive car, train",
        "  colour  what it looks like; null: any (one of red, blue or null; default null)",
        "  wheels  of each axle (a list of integers, at least 1; default [2, 2])",
        "",
        "evalkit drive train",
        "  speed  how fast it goes (a number in km/h, larger than 0 and at most 300; default 200.0)",
    ]


def test_page():
    assert reference.page(BOTH, "colour").splitlines() == [
        "colour of evalkit drive car, train",
        "  what it looks like; null: any",
        "  one of red, blue or null; default null",
        "  red: like a rose",
        "  setting: can move a number",
    ]
    assert reference.page(BOTH, "wheels").endswith("\n  execution: moves not one bit and may change on resume")
    with pytest.raises(EvalkitError, match=r"^unknown key 'color'. Did you mean 'colour'\?$"):
        reference.page(BOTH, "color")
    with pytest.raises(EvalkitError, match="^key 'old' no longer exists; use speed$"):
        reference.page(BOTH, "old")


def test_every_key_of_every_command_is_in_the_reference_and_in_its_help(capsys):
    assert cli.invoke(["recipes", "keys"]) == (0, "")
    listed = capsys.readouterr().out
    for command, schema in schemas().items():
        cli.invoke([command.split()[0], "--help"])
        helped = " ".join(capsys.readouterr().out.split())
        for name, described in keys.of(schema).items():
            assert f" {name} " in helped and " ".join(described.meaning.split()) in helped, (command, name)
            assert described.meaning in listed, (command, name)


def test_one_key_on_the_command_line(capsys):
    assert cli.invoke(["recipes", "keys", "mix_draws"]) == (0, "")
    assert "group: every mix group for itself" in capsys.readouterr().out
    assert cli.invoke(["recipes", "keys", "mix_draw"]) == (1, "unknown key 'mix_draw'. Did you mean 'mix_draws'?")
