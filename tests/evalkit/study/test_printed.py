import pytest
import yaml

from evalkit.errors import EvalkitError
from evalkit.study import plan, spec

MINE = {
    "recipe": "mixpro",
    "axes": {
        "method": {"plain": {"mixup": "vanilla"}, "TransMix": {"recipe": "transmix"}, "MixPro": {}},
        "seed": [0, 1],
    },
    "evaluate": [{"robustness": "imagenet-a"}, {"transfer": "seg", "name": "linear"}],
    "published": [
        {"source": "MixPro paper", "table": "Table 5", "names": {"method": {"plain": "baseline"}}},
        {"source": "MixPro paper", "table": "Table 3", "model": "deit_small_patch16_224"},
        {"source": "MixPro paper", "table": "Table 1", "model": "deit_small_patch16_224"},
    ],
}


def load(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (MINE | changes).items() if v is not None}, sort_keys=False))
    return spec.load(path)


def test_a_cell_has_the_values_of_its_method_by_what_measures_them(tmp_path):
    study = load(tmp_path)
    found = {cell.name: [(v.value, v.metric, of) for v, of in study.beside(cell)] for cell in study.cells}
    assert (
        found["MixPro-seed0"]
        == found["MixPro-seed1"]
        == [
            ("22.4", "top1", "imagenet-a"),
            ("30.3", "rms_calibration_error", "imagenet-a"),
            ("32.4", "aurra", "imagenet-a"),
            # nothing measures ImageNet-O here, nor Segmenter's decoder
            ("50.3", "miou", "linear"),
            ("50.9", "miou_ms", "linear"),
            ("22.1M", "parameters", "cost"),
            ("4.7G", "flops", "cost"),
            ("81.3", "top1", "train"),
        ]
    )
    # the second entry has no other word for `plain`, and a network's size is of every method
    assert [v for v, *_ in found["plain-seed0"]] == ["19.1", "32.0", "23.8", "22.1M", "4.7G"]


def test_cells_that_no_source_prints_are_left_away(tmp_path):
    table = {"source": "MixPro paper", "table": "Table 7"}
    axes = {
        "model": {"deit_tiny_patch16_224": {"model": "deit_tiny_patch16_224"}, "pvt_tiny": {"model": "pvt_tiny"}},
        "method": {"region mask": {}, "mine": {}},
    }
    study = load(tmp_path, axes=axes, published=table, cells="published")
    assert [list(cell.values.values()) for cell in study.cells] == [["deit_tiny_patch16_224", "region mask"]]
    assert len(load(tmp_path, axes=axes, published=table).cells) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"published": "MixPro"}, ["source", "MixPro"]),
        ({"published": {"source": "MixPro papre"}}, ["MixPro paper"]),
        ({"published": {"source": "MixPro paper", "tabel": "Table 1"}}, ["tabel", "table"]),
        ({"published": {"source": "MixPro paper", "table": "Table 14"}}, ["no published value"]),
        ({"published": {"source": "MixPro paper", "names": {"model": {"x": "y"}}}}, ["axis", "method"]),
        ({"published": {"source": "MixPro paper", "names": {"method": {"plian": "y"}}}}, ["plain"]),
        ({"published": {"source": "MixPro paper", "names": ["method"]}}, ["must map an axis"]),
        ({"cells": "publishd"}, ["published"]),
        (
            {"axes": {"method": {"a-b": {}, "a": {}}, "label": {"c": {}, "b-c": {}}}, "published": None},
            ["a-b-c", "rename"],
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, changes, words):
    with pytest.raises(EvalkitError) as error:
        load(tmp_path, **changes)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_weights_in_place_of_a_training(tmp_path):
    """A cell of weights has no training; the evaluations take them and the cell's keys."""
    axes = {"model": {"resnet101": {"weights": "resnet101.tv_in1k"}, "mine": {"model": "resnet18"}}, "seed": [3]}
    study = load(tmp_path, axes=axes, published=None, recipe="imagenet-r50")
    made = plan.make(study, study.cells, given=["data_dir=D"], check=lambda recipe, words: None if recipe else "asked")
    jobs = {job.id: job for job in made.jobs}
    assert len(jobs) == 2 + 3 and "resnet101-seed3.train" not in jobs
    assert jobs["resnet101-seed3.linear"].argv == ["transfer", "seg", "resnet101.tv_in1k", "seed=3"]
    assert jobs["resnet101-seed3.linear"].needs == [] and jobs["mine-seed3.linear"].needs == ["mine-seed3.train"]
