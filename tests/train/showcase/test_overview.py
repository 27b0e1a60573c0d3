import re
from inspect import Parameter, cleandoc

import pytest

from evalkit.errors import EvalkitError
from evalkit.train import METHODS, MixMethod, create
from evalkit.train.mixups import arguments
from evalkit.train.showcase import overview


def test_every_method_is_a_line_with_its_source():
    *lines, empty, waiting = overview.table().splitlines()
    assert (
        empty == ""
        and waiting == "Mixing never waits for the device, but for: supermix (asks whether its masks succeed)."
    )
    assert lines[0].split() == ["method", "family", "needs", "extra", "passes", "paper"] and [
        line.split()[0] for line in lines[1:]
    ] == list(METHODS)
    rows = {row[0]: row for row in overview.rows()}
    assert rows["saliencymix"] == ("saliencymix", "saliency", "-", "Uddin et al., ICLR 2021, arXiv:2006.01791", "none")
    assert rows["puzzlemix"][2:] == (
        "input gradients",
        "Kim, Choo & Song, ICML 2020, arXiv:2009.06962",
        "1 forward + backward",
    )
    assert rows["attentivemix_plus"][3] == "Li et al., OpenMixup, arXiv:2209.04851"
    for name, cls in METHODS.items():
        assert cls.family != "own" and rows[name][3] != "-"


def test_what_is_said_about_needs_is_what_a_method_asks_for():
    for name, cls in METHODS.items():
        if name == "choice":
            continue
        assert ("attention" in cls.needs) == bool(create(name).attention), name
        assert ("gradients" in cls.needs) == hasattr(cls, "input_saliency"), name


class Toy(MixMethod):
    """A toy (Nobody, 2020).

    Args:
        strength: How much it does,
            and more.
        `low`, `high`: The range.

    Differs from nothing.
    """

    bibtex = "@misc{toy, year = {2020}}"
    PRESETS = {"default": {}, "mild": {"strength": 0.1}}

    def __init__(self, strength: float = 1.0, low: int | None = None, high: tuple[float, ...] = (0.5, 1.0)):
        super().__init__()


class Louder(Toy):
    """Another toy.

    Args:
        strength: How loud it is.
    """

    def __init__(self, extra: bool, strength: float = 2.0, **others):
        super().__init__(strength, **others)


def test_arguments_and_what_they_mean():
    assert overview.described(Toy) == [
        ("strength", "a number", "1.0", "How much it does, and more."),
        ("low", "an integer or null", "null", "The range."),
        ("high", "a list of numbers", "[0.5, 1.0]", "The range."),
    ]


def test_arguments_that_are_handed_on_are_those_of_the_class_above():
    assert [row[:3] for row in overview.described(Louder)] == [
        ("extra", "true or false", "must be given"),
        ("strength", "a number", "2.0"),
        ("low", "an integer or null", "null"),
        ("high", "a list of numbers", "[0.5, 1.0]"),
    ]
    assert overview.described(Louder)[1][3] == "How loud it is." and overview.described(Louder)[2][3] == "The range."
    assert arguments(Louder)["extra"].default is Parameter.empty


def test_an_argument_that_another_method_has_too_is_spelled_out():
    said = {name: words for name, _, _, words in overview.described(METHODS["mixpro"])}
    assert said["scale"] == 'Cell side in patches of the network. As MaskMix; not of "region".'
    assert said["pairing"].startswith('Partners, "perm": a random permutation') and said["pairing"].endswith(
        "As MaskMix."
    )
    assert overview.spelled_out("lam", "The share. As above.") == "The share. As above."


@pytest.mark.parametrize("name", METHODS)
def test_arguments_say_what_they_are_and_of_which_kind(name):
    """A reader of one page needs no other: no mere 'As CutMix.', no 'Of the mask.', no type of Python's."""
    for argument, kind, _, words in overview.described(METHODS[name]):
        assert not words.startswith(("As ", "Of ", "See ")) and len(words.split()) >= 3, (argument, words)
        assert "." not in kind and "<" not in kind, (argument, kind)


def test_a_page_holds_arguments_presets_and_bibtex(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", Toy)
    lines = [line.strip() for line in overview.page("toy").splitlines()]
    assert "strength  a number            1.0         How much it does, and more." in lines
    assert "mild     {strength: 0.1}" in lines and "@misc{toy, year = {2020}}" in lines
    assert "toy" in [line.split()[0] for line in overview.table().splitlines() if line]
    with pytest.raises(EvalkitError, match="Did you mean 'mixup'"):
        overview.page("mixpu")


@pytest.mark.parametrize("name", METHODS)
def test_a_page_is_complete(name):
    text = overview.page(name)
    for argument, parameter in arguments(METHODS[name]).items():
        assert re.search(rf"^  {argument} ", text, re.M), argument
        assert parameter.annotation is not Parameter.empty, argument
    for preset in METHODS[name].PRESETS:
        assert re.search(rf"^  {preset} ", text, re.M), preset


@pytest.mark.parametrize("name", METHODS)
def test_bibtex_is_whole_and_of_the_paper_that_the_method_names(name):
    cls = METHODS[name]
    text = cleandoc(vars(cls)["bibtex"])  # its own, not one that it inherits
    kind, key = re.match(r"@(inproceedings|article|misc)\{([a-z]+\d{4}[a-z]+),\n", text).groups()
    fields = dict(re.findall(r"^  (\w+) = \{(.*?)\},?$", text.replace("\n    ", " "), re.M))
    assert text.count("{") == text.count("}") and text.endswith("\n}")
    assert {"title", "author", "year"} < fields.keys() and fields["year"] in key
    assert kind == "misc" or "booktitle" in fields or "journal" in fields
    source = overview.paper(cls)
    if "arXiv" in source:
        assert fields["eprint"] == re.search(r"arXiv:(\d{4}\.\d{5})", source)[1]
    years = re.findall(r"\b(?:19|20)\d\d\b(?!\.)", source)
    assert not years or fields["year"] in years
    first = fields["author"].partition(",")[0].strip("{}").lower()
    assert key.startswith(re.sub("[^a-z]", "", first))
    surname = source.partition(" ")[0].rstrip(",").lower()
    assert surname in fields["author"].lower() or name == "choice"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_arguments_are_listed_once(name):
    text = overview.page(name)
    assert "Args:" not in text and text.count("\nArguments\n") == 1
    text = text[: text.index("\n\nPresets\n")]
    for argument in arguments(METHODS[name]):
        assert len(re.findall(rf"^\s+{argument}(?::|\s{{2,}})", text, re.MULTILINE)) == 1, argument
