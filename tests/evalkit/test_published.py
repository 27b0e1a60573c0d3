"""The published values that ship with evalkit, against the arithmetic their sources print beside them."""

import re

import pytest
import timm

from evalkit import (
    config,
    models,  # noqa: F401  (registers its own with timm)
    published,
)
from evalkit.cli.described import protocols
from evalkit.downstream import det, seg
from evalkit.train.config import TrainConfig

VALUES = published.values()
NOT_RECORDED = {"flops", "images_per_second", "top1_error"}  # what no record holds under this name


def value(task, method, model, metric, place):
    found = [
        v.value
        for v in VALUES
        if (v.task, v.method, v.model, v.metric) == (task, method, model, metric) and v.place.endswith(place)
    ]
    assert len(found) == 1, (task, method, model, metric, place, found)
    return float(found[0])


def test_every_row_is_a_percentage_of_a_known_metric_with_a_source():
    assert len(VALUES) == 731 + 66
    shapes = {"parameters": r"\d{1,3}(\.\d)?M", "flops": r"\d{1,2}\.\dG", "images_per_second": r"\d{3}"}
    for v in VALUES:
        protocol = protocols()[v.task]
        costs = v.task == "accuracy" and v.metric == "parameters"
        assert costs or v.metric in NOT_RECORDED | {m.name for m in protocol.metrics}
        assert re.fullmatch(shapes.get(v.metric, r"\d{1,2}(\.\d{1,3})?"), v.value), v
        assert v.source and v.table and v.model and v.data and (v.method or v.metric in ("parameters", "flops"))
        decoders = list(protocol.detail.names) if protocol.detail else [""]
        assert v.decoder in decoders or (v.model, v.decoder) == ("resnet101", "deeplabv3plus")
        assert v.form or v.metric in ("parameters", "flops")
        assert v.setting or (v.quoted and v.without_setting)


def test_no_value_is_there_twice():
    keys = [v._replace(value="", quoted="", disputed="", note="", alpha="") for v in VALUES]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("table", "metric", "expected"),
    [
        ("imagenet-a", "top1", (19.1, 21.1, 22.4)),
        ("imagenet-a", "rms_calibration_error", (32.0, 31.2, 30.3)),
        ("imagenet-a", "aurra", (23.8, 28.8, 32.4)),
        ("imagenet-o", "aupr", (20.9, 21.9, 23.1)),
    ],
)
def test_robustness_of_deit_small(table, metric, expected):
    got = tuple(
        value(table, method, "deit_small_patch16_224", metric, "Table 5")
        for method in ("baseline", "TransMix", "MixPro")
    )
    assert got == expected


def test_gains_the_text_of_the_mixpro_paper_states():
    gain = lambda table, metric, a, b: round(  # noqa: E731
        value(table, a, "deit_small_patch16_224", metric, "Table 5")
        - value(table, b, "deit_small_patch16_224", metric, "Table 5"),
        6,
    )
    assert gain("imagenet-a", "top1", "MixPro", "TransMix") == 1.3
    assert gain("imagenet-a", "aurra", "MixPro", "TransMix") == 3.6
    assert gain("imagenet-o", "aupr", "MixPro", "TransMix") == 1.2
    assert gain("imagenet-o", "aupr", "MixPro", "baseline") == 2.2


@pytest.mark.parametrize(
    ("model", "gain"),
    [
        *(
            ("deit_tiny_patch16_224", 1.2),
            ("pvt_tiny", 1.2),
            ("xcit_tiny_24_p16_224", 1.1),
            ("ca_swin_tiny_patch4_window7_224", 1.0),
            ("cait_xxs36_224", 0.8),
        ),
        *(
            ("deit_small_patch16_224", 0.6),
            ("pvt_small", 0.7),
            ("xcit_small_12_p16_224", 0.6),
            ("ca_swin_small_patch4_window7_224", 0.5),
            ("pvt_medium", 0.6),
        ),
        *(
            ("pvt_large", 0.5),
            ("xcit_medium_24_p16_224", 0.7),
            ("deit_base_patch16_224", 0.5),
            ("xcit_large_24_p16_224", 0.9),
        ),
    ],
)
def test_gains_of_mixpro_over_transmix_as_printed_in_its_table_1(model, gain):
    assert (
        round(
            value("accuracy", "MixPro", model, "top1", "MixPro paper, Table 1")
            - value("accuracy", "TransMix", model, "top1", "MixPro paper, Table 1"),
            6,
        )
        == gain
    )


@pytest.mark.parametrize(("decoder", "gains"), [("linear", (0.6, 0.6)), ("segmenter", (0.5, 0.4))])
def test_gains_the_text_of_the_mixpro_paper_states_for_segmentation(decoder, gains):
    of = {(v.method, v.metric): float(v.value) for v in VALUES if v.task == "seg" and v.decoder == decoder}
    assert tuple(round(of["MixPro", metric] - of["TransMix", metric], 6) for metric in ("miou", "miou_ms")) == gains
    assert all(of[method, "miou"] < of[method, "miou_ms"] for method in ("baseline", "TransMix", "MixPro"))


def test_gains_the_text_of_the_mixpro_paper_states_for_detection():
    of = {(v.method, v.model, v.metric): v.value for v in VALUES if v.task == "det"}
    for metric in ("box_ap", "mask_ap"):
        assert round(float(of["MixPro", "pvt_small", metric]) - float(of["TransMix", "pvt_small", metric]), 6) == 0.5
    assert len(of) == 5 * 7 and {
        v for (_, model, metric), v in of.items() if (model, metric) == ("pvt_small", "parameters")
    } == {"44.1M"}
    for method, model in {(method, model) for method, model, _ in of}:
        box, mask = (
            [float(of[method, model, f"{kind}_ap{at}"]) for at in ("50", "75", "")] for kind in ("box", "mask")
        )
        assert box[0] > box[1] > box[2] and mask[0] > mask[1] > mask[2] and all(b > m for b, m in zip(box, mask))


def test_every_model_can_be_built_so_that_a_row_may_match_it():
    """By the name that records carry, with timm's tag of its weights or without."""
    for name in {v.model for v in VALUES}:
        architecture, _, tag = name.partition(".")
        assert timm.is_model(architecture), name
        assert not tag or name in timm.list_pretrained(), name


# Rows of protocols that nothing here runs, beside which no row of ours can stand: mmdetection's own recipe of residual
# networks, DeepLabv3+.
NEVER_OURS = {("det", "resnet50"), ("det", "resnet101"), ("seg", "resnet101")}


def test_every_published_transfer_is_of_a_backbone_that_counts_as_published():
    counted = {("seg", name) for name in seg.PUBLISHED} | {("det", name) for name in det.PUBLISHED}
    printed = {(v.task, v.model) for v in VALUES if v.task in ("seg", "det")}
    assert printed - NEVER_OURS <= counted and printed >= NEVER_OURS


def test_openmixups_medians_and_bests_are_called_so():
    """Its page: the median of the last 5 or 10 epochs for 100 and 300, the best for the DeiT setting; nothing is said
    of Tiny-ImageNet."""
    forms = {(v.setting, v.form, v.measured) for v in VALUES if v.source.startswith("OpenMixup")}
    assert forms == {
        ("pytorch-100", "median of the last 5", "top1_median"),
        ("pytorch-300", "median of the last 10", "top1_median"),
        ("rsb-a3", "median of the last 5", "top1_median"),
        ("rsb-a2", "median of the last 10", "top1_median"),
        ("openmixup-deit", "best, mean of 3 runs", "top1_best"),
        ("tiny-400", "not stated", "top1"),
    }


# Pages of OpenMixup that are no source tables (configs/classification/*/README.md): vanilla with the recipe's network
PAGES = {
    **{"cub": {"77.68"}, "aircraft": {"80.23"}, "inat2017": {"60.23"}, "inat2018": {"62.53"}, "places205": {"63.10"}},
}


ANYBODYS = ("finetune", "scratch", "small")  # for data of one's own: nothing is published of them


@pytest.mark.parametrize("name", [n for n in config.recipes() if not n.startswith(("digits", *ANYBODYS))])
def test_what_a_recipe_expects_is_published_for_its_network(name):
    expected = re.search(r"^# Expected: (.*)$", config.find(name).read_text(), re.M).group(1)
    model = config.load(TrainConfig, name, ["data_dir=somewhere"]).model
    printed = {v.value for v in VALUES if v.task == "accuracy" and v.model == model}
    numbers = set(re.findall(r"\b\d\d\.\d+\b", expected))
    if expected.startswith("not published"):
        assert not numbers and model not in {v.model for v in VALUES if v.method.startswith("MixPro")}
    else:
        assert numbers and numbers <= PAGES.get(name, printed)


def test_the_range_that_imagenet_r50_expects():
    values = [
        float(v.value) for v in VALUES if v.model == "resnet50" and v.setting == "pytorch-100" and v.method != "vanilla"
    ]
    assert (min(values), max(values)) == (77.01, 78.14) and len(values) == 16
