"""The published values that ship with evalkit, against the arithmetic their sources print beside them."""

import re

import pytest
import timm

from evalkit import (
    config,
    models,  # noqa: F401  (registers its own with timm)
)
from evalkit.cli.described import protocols
from evalkit.downstream import det, seg
from evalkit.report.beside import published_values
from evalkit.train.config import TrainConfig

VALUES = published_values()


def value(table, method, model, metric, source):
    found = [
        v.value
        for v in VALUES
        if (v.table, v.method, v.model, v.metric) == (table, method, model, metric) and source in v.source
    ]
    assert len(found) == 1, (table, method, model, metric, source, found)
    return float(found[0])


def test_every_line_is_a_percentage_of_a_known_metric_with_a_source():
    assert len(VALUES) > 300
    for v in VALUES:
        protocol = protocols()[v.table]
        assert v.metric in {m.name for m in protocol.metrics}
        assert (
            re.fullmatch(r"\d{1,2}\.\dM" if v.metric == "parameters" else r"\d{1,2}\.\d{1,3}", v.value)
            and v.source
            and v.method
            and v.model
        )
        assert v.decoder in (protocol.detail.names if protocol.detail else [""])


def test_no_value_is_there_twice():
    keys = [(v.table, v.method, v.model, v.metric, v.source, v.decoder) for v in VALUES]
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
            value("accuracy", "MixPro", model, "top1", "Table 1")
            - value("accuracy", "TransMix", model, "top1", "Table 1"),
            6,
        )
        == gain
    )


@pytest.mark.parametrize(("decoder", "gains"), [("linear", (0.6, 0.6)), ("segmenter", (0.5, 0.4))])
def test_gains_the_text_of_the_mixpro_paper_states_for_segmentation(decoder, gains):
    of = {(v.method, v.metric): float(v.value) for v in VALUES if v.table == "seg" and v.decoder == decoder}
    assert tuple(round(of["MixPro", metric] - of["TransMix", metric], 6) for metric in ("miou", "miou_ms")) == gains
    assert all(of[method, "miou"] < of[method, "miou_ms"] for method in ("baseline", "TransMix", "MixPro"))


def test_gains_the_text_of_the_mixpro_paper_states_for_detection():
    of = {(v.method, v.model, v.metric): v.value for v in VALUES if v.table == "det"}
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
    printed = {(v.table, v.model) for v in VALUES if v.table in ("seg", "det")}
    assert printed - NEVER_OURS <= counted and printed >= NEVER_OURS


def test_openmixups_medians_and_bests_are_called_so():
    """Its page: the median of the last 5 or 10 epochs for 100 and 300, the best for the DeiT setting."""
    found = {(v.metric, v.source) for v in VALUES if "OpenMixup" in v.source}
    assert len(found) == 5 and {metric for metric, _ in found} == {"top1_median", "top1_best"}
    for metric, source in found:
        said = re.search(r"(100|300) epochs, median of the last (5|10)$", source)
        assert metric == ("top1_median" if said else "top1_best") and ("best" in source) == (said is None)
        assert said is None or {"100": "5", "300": "10"}[said[1]] == said[2]
    assert {v.metric for v in VALUES if v.table == "accuracy" and "OpenMixup" not in v.source} == {"top1"}


# Printed in the papers beside the tables that ship: AutoMix appendix, table 14; OpenMixup's Tiny-ImageNet benchmark.
ALSO_PRINTED = {"cifar100": {"76.42", "77.73", "78.04", "78.55"}, "tiny-imagenet": {"61.68"}}


@pytest.mark.parametrize("name", [n for n in config.recipes() if not n.startswith("digits")])
def test_what_a_recipe_expects_is_published_for_its_network(name):
    expected = re.search(r"^# Expected: (.*)$", config.find(name).read_text(), re.M).group(1)
    model = config.load(TrainConfig, name, ["data_dir=somewhere"]).model
    published = {v.value for v in VALUES if v.table == "accuracy" and v.model == model} | ALSO_PRINTED.get(name, set())
    numbers = set(re.findall(r"\b\d\d\.\d+\b", expected))
    assert numbers <= published and (numbers or name == "cub")


def test_the_range_that_imagenet_r50_expects():
    values = [
        float(v.value)
        for v in VALUES
        if v.model == "resnet50" and "PyTorch setting, 100 epochs" in v.source and v.method != "vanilla"
    ]
    assert (min(values), max(values)) == (77.01, 78.14) and len(values) == 15
