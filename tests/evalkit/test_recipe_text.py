"""Showing and comparing recipes."""

import pytest

from evalkit import config, recipe_text
from evalkit.errors import EvalkitError
from evalkit.train.config import TrainConfig

BELOW = """# Title
# Expected: much

# not the header
model: m  # from a paper
data: digits
epochs: 3
lr: 1.0e-3  # said # twice
batch_size: 4
micro_batch: 4
"""


@pytest.fixture
def pair(tmp_path):
    """A recipe and one on top of it."""
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(BELOW)
    b.write_text("# Above\nbase: a.yaml  # not a value\nepochs: 5  # longer\nmodel: n\n")
    return str(a), str(b)


def test_header_ends_with_the_first_line_that_is_no_comment(pair):
    assert recipe_text.header(config.find(pair[0])) == ["Title", "Expected: much"]


def test_sources_come_from_the_recipe_and_below_it_where_the_value_does(pair):
    assert recipe_text.sources(config.find(pair[0]), "train") == {"model": "from a paper", "lr": "said # twice"}
    assert recipe_text.sources(config.find(pair[1]), "train") == {"lr": "said # twice", "epochs": "longer"}


def test_show_writes_every_key_once_with_its_origin(pair):
    lines = recipe_text.show(TrainConfig, pair[1], ["mixup.alpha=0.5", "data=digits-photo"]).splitlines()
    assert lines[0] == "# Above" and len(lines) == 1 + len(TrainConfig.__dataclass_fields__)
    for line in (
        "epochs: 5  # longer",
        "model: n",
        "lr: 0.001  # said # twice",
        "data: digits-photo  # command line",
        "mixup: {name: vanilla, alpha: 0.5}  # command line",
        "seed: 0  # default",
        "batch_size: 4",
    ):
        assert line in lines


@pytest.mark.parametrize("name", sorted(config.recipes()))
def test_what_is_shown_is_a_recipe_itself(tmp_path, name):
    overrides = ["data_dir=some: where", "label=1e-3", "model_args.x=[yes, 'no', 1e-9, null]"]
    path = tmp_path / "shown.yaml"
    path.write_text(recipe_text.show(TrainConfig, name, overrides))
    assert config.load(TrainConfig, path) == config.load(TrainConfig, name, overrides)


def test_diff(pair):
    a, b = pair
    width = max(len(a), len(b))
    assert recipe_text.diff(TrainConfig, a, b).splitlines() == [
        "model",
        f"  {a:{width}}  m  # from a paper",
        f"  {b:{width}}  n",
        "epochs",
        f"  {a:{width}}  3",
        f"  {b:{width}}  5  # longer",
    ]
    assert recipe_text.diff(TrainConfig, a, a) == ""


def test_diff_of_transmix_and_what_was_run_shows_the_misspelt_key():
    text = recipe_text.diff(TrainConfig, "transmix", "transmix-as-run")
    assert "mixup-switch-prob with hyphens, which the parser ignores" in text
    assert [line for line in text.splitlines() if not line.startswith(" ")] == [
        *("mixup", "label", "eval_resize", "epochs", "batch_size", "micro_batch", "cooldown_epochs", "amp"),
    ]


def test_listing_has_a_line_per_recipe():
    lines = recipe_text.listing().splitlines()
    assert [line.split()[0] for line in lines] == sorted(config.recipes())
    assert all(len(line.split("  ", 1)[1].strip()) > 20 for line in lines)


def test_unknown_recipe():
    for call in (
        lambda: recipe_text.show(TrainConfig, "mixpr", []),
        lambda: recipe_text.diff(TrainConfig, "mixpro", "mixpr"),
    ):
        with pytest.raises(EvalkitError, match=r"unknown recipe 'mixpr'. Did you mean 'mixpro'\?"):
            call()


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "null"),
        (True, "true"),
        (1e-8, "1e-08"),
        ("plain-text/a.b", "plain-text/a.b"),
        ("yes", '"yes"'),
        ("null", '"null"'),
        ("1e-3", '"1e-3"'),
        ("a: b", '"a: b"'),
        ("", '""'),
        ([1, "a", {"b": None}], "[1, a, {b: null}]"),
        ({}, "{}"),
    ],
)
def test_flow(value, text):
    assert recipe_text.flow(value) == text
