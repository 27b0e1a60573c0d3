import pytest
import yaml

from evalkit.errors import EvalkitError
from evalkit.study import spec

MINE = {
    "recipe": "digits",
    "set": {"threads": 1, "mixup.alpha": 0.1},
    "axes": {
        "model": {"small": {}, "large": {"model": "pvt_nano"}},
        "method": {"Mixup": {"mixup": {"name": "mixup", "alpha": 0.8}}, "CutMix": {"mixup": "cutmix"}},
        "seed": [0, 1],
    },
    "where": [{"model": "large", "method": ["CutMix"], "set": {"mixup.alpha": 0.2, "recipe": "digits-photo"}}],
    "except": [{"model": "small", "method": "Mixup", "why": "nobody asked"}],
    "evaluate": [{"robustness": "occlusion", "set": {"limit": 5}}, {"transfer": "seg", "name": "linear"}],
    "report": {"form": "best", "rows": "method", "columns": ["model"], "baseline": "Mixup"},
}


def load(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (MINE | changes).items() if v is not None}, sort_keys=False))
    return spec.load(path)


def test_cells_are_the_product_of_the_axes_with_the_keys_of_all(tmp_path):
    study = load(tmp_path)
    assert len(study.cells) == 8 and study.axes == {
        "model": ["small", "large"],
        "method": ["Mixup", "CutMix"],
        "seed": ["0", "1"],
    }
    by_name = {cell.name: cell for cell in study.cells}
    mixup = by_name["large-Mixup-seed1"]
    # the axis' mapping replaces the dotted key that was set before it
    assert mixup.recipe == "digits" and mixup.keys == {
        "threads": 1,
        "model": "pvt_nano",
        "mixup": {"name": "mixup", "alpha": 0.8},
        "seed": 1,
    }
    cutmix = by_name["large-CutMix-seed0"]
    assert cutmix.recipe == "digits-photo" and cutmix.keys["mixup.alpha"] == 0.2
    assert "mixup={name: mixup, alpha: 0.8}" in mixup.overrides()
    assert by_name["small-Mixup-seed0"].excluded == "nobody asked" and mixup.excluded is None
    assert [(e.name, e.command, e.what, e.keys) for e in study.evaluations] == [
        ("occlusion", "robustness", "occlusion", {"limit": 5}),
        ("linear", "transfer", "seg", {}),
    ]


def test_a_selection_counts_values_whatever_their_case(tmp_path):
    study = load(tmp_path)
    assert [c.name for c in spec.select(study, "method=cutmix, model=LARGE|small,seed=1")] == [
        "small-CutMix-seed1",
        "large-CutMix-seed1",
    ]
    assert spec.select(study, None) == study.cells
    for only, word in (("metod=cutmix", "method"), ("method=cutmx", "CutMix")):
        with pytest.raises(EvalkitError, match=word):
            spec.select(study, only)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": {}}, "axes"),
        ({"axes": None}, "axes"),
        ({"axes": {"seed": []}}, "seed"),
        ({"axes": {"seed": 3}}, "seed"),
        ({"recipe": None}, "which recipe"),
        ({"where": [{"modl": "small", "set": {}}]}, "model"),
        ({"where": [{"model": "smal", "set": {}}]}, "small"),
        ({"where": [{"model": "small"}]}, "needs `set`"),
        ({"except": [{"model": "small"}]}, "needs `why`"),
        ({"evaluate": [{"robust": "occlusion"}]}, "robustness"),
        ({"evaluate": [{"robustness": "occlusion", "sets": {}}]}, "set"),
        ({"evaluate": [{"robustness": "occlusion"}, {"robustness": "occlusion"}]}, "two evaluations"),
        ({"report": {"form": "bets"}}, "best"),
        ({"report": {"row": "method"}}, "rows"),
        ({"report": {"rows": "metod"}}, "method"),
        ({"report": {"rows": "method", "baseline": "mixpro"}}, "baseline"),
        ({"published": {"table": "1"}}, "source"),
        ({"set": [1]}, "set"),
    ],
)
def test_what_a_study_cannot_mean_is_named(tmp_path, changes, message):
    with pytest.raises(EvalkitError, match=message):
        load(tmp_path, **changes)


@pytest.mark.parametrize("text", ["a b", "a_b", "a/b", "$(rm -rf x)", "a\nb", "ä", "..", "'", "x" * 300, "A B"])
def test_names_of_files_are_safe_and_tell_texts_apart(text):
    name = spec.slug(text)
    assert name and len(name) < 60 and all(c.isalnum() or c in "._+~-" for c in name) and not name.startswith(".")
    others = {spec.slug(t) for t in ("a b", "a_b", "a/b", "$(rm -rf x)", "a\nb", "ä", "..", "'", "x" * 300, "A B")}
    assert len(others) == 10


def test_every_shipped_study_loads():
    for name in spec.names():
        assert spec.load(name).cells
