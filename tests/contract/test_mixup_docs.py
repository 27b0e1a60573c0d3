"""What is written about each method."""

import re

import pytest

from evalkit.train import METHODS, create
from evalkit.train.showcase.overview import arguments, meanings


def test_methods_are_listed_in_alphabetical_order():
    assert list(METHODS) == sorted(METHODS)
    assert len(set(METHODS.values())) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_where_it_comes_from_and_how_it_differs(name):
    text = METHODS[name].__doc__
    assert (
        len(re.findall(r"^ *(?:Differs from|Does not differ from) the paper / the official code\b.+", text, re.M)) == 1
    )
    assert re.search(
        r"arXiv:\d{4}\.\d{5}|(NeurIPS|ICLR|ICML|CVPR|ICCV|ECCV|AAAI|BMVC)( Workshops)? \d{4}|Pattern Recognition \d+,"
        r" \d{4}",
        text,
    )
    assert re.search(r"(x~|h~|T~|view\(x\)).*(=|are|as)", text)  # its formula in symbols


@pytest.mark.parametrize("name", METHODS)
def test_every_argument_has_a_meaning_of_its_own(name):
    """In the `Args:` block of the class, or of the method whose argument it hands on."""
    cls = METHODS[name]
    words = meanings(cls)
    assert [key for key in arguments(cls) if len(words.get(key, "")) < 2] == []


def test_headings_group_arguments():
    words = meanings(METHODS["mixpro"])
    assert words["pal_detach"] == "No gradient through the cosine."
    assert "The progress factor" not in " ".join(words.values())


@pytest.mark.parametrize("name", METHODS)
def test_presets_are_closed(name):
    assert next(iter(METHODS[name].PRESETS)) == "default"
    for preset in METHODS[name].PRESETS:
        create(name, preset)
