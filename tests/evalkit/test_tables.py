"""evalkit.report: which records share a row and a column, and what a cell says about them."""

import math
import statistics

import pytest

from evalkit.cli.described import protocols
from evalkit.protocols import Metric
from evalkit.report.beside import beside_published
from evalkit.report.collect import describe, groups_of, rows_of, runs_of
from evalkit.report.tables import MAX_COLUMNS, Estimate, best_of, summary

from .fake_records import imagenet_a, occlusion, record

PROTOCOLS = protocols()


def rows(*records):
    return rows_of(runs_of(records))


def table(*records):
    (only,) = summary(rows(*records), PROTOCOLS)
    return only


def cells(made, column=0):
    return {name: line[column] for name, line in made.rows}


def seed(number, **changes):
    return record(
        seed=number,
        checkpoint_sha256=f"{number}" * 64,
        config={"lr": 0.001, "seed": number, "workers": number},
        **changes,
    )


# ---- rows


def test_everything_measured_on_the_same_weights_is_one_row():
    made = table(record(), occlusion(), record(label="vanilla", method="vanilla", checkpoint_sha256="b" * 64))
    assert [name for name, _ in made.rows] == ["mixpro", "vanilla"]
    assert made.columns == ["top-1 ↑", "random ↑", "salient ↑", "non-salient ↑"]
    assert [c.value for c in made.rows[0][1]] == ["90.0", "67.5", "67.5", "67.5"]
    assert [c.value for c in made.rows[1][1]] == ["90.0", "–", "–", "–"]


def test_seeds_are_averaged_with_their_standard_deviation():
    values = [0.91, 0.94, 0.92]
    made = table(
        *(seed(i, metrics={"top1": v}) for i, v in enumerate(values)),
        *(occlusion(checkpoint_sha256=f"{i}" * 64) for i in range(2)),
    )
    assert [name for name, _ in made.rows] == ["mixpro (3 seeds)"]
    cell, area = made.rows[0][1][:2]
    assert (
        (cell.value, cell.spread)
        == (f"{100 * statistics.fmean(values):.1f}", f"{100 * statistics.stdev(values):.1f}")
        == ("92.3", "1.5")
    )
    assert (area.value, area.spread, area.remark) == ("67.5", "0.0", "2 of 3 seeds")
    assert "standard deviation over seeds; it leaves out the choice of images" in made.notes[1]


def test_rows_of_one_seed_speak_of_checkpoints():
    assert "such a row speaks of its checkpoint, not of its method" in table(record()).notes[1]
    mixed = table(seed(0), seed(1), record(label="b", checkpoint_sha256="b" * 64)).notes[1]
    assert "In rows of one seed ±" in mixed and "In rows of several seeds" in mixed
    assert "one seed" not in table(seed(0), seed(1)).notes[1]


def test_runs_that_differ_in_more_than_the_seed_are_told_apart():
    other = record(checkpoint_sha256="b" * 64, config={"lr": 0.01, "mixup": "mixpro", "seed": 0, "workers": 2})
    averaged = record(checkpoint_sha256="c" * 64, weights="ema")
    assert [r.name for r in rows(record(), other, averaged)] == [
        "mixpro (raw, lr=0.001)",
        "mixpro (raw, lr=0.01)",
        "mixpro (ema)",
    ]
    # evaluated elsewhere: nobody knows whether these are seeds
    unknown = occlusion(checkpoint_sha256="d" * 64), occlusion(checkpoint_sha256="e" * 64)
    assert [r.name for r in rows(*unknown)] == ["mixpro (checkpoint dddddddd)", "mixpro (checkpoint eeeeeeee)"]
    assert [r.name for r in rows(record(), record(model="resnet18", checkpoint_sha256="f" * 64))] == [
        "mixpro (vit_tiny)",
        "mixpro (resnet18)",
    ]


# ---- columns


def test_numbers_of_other_data_versions_or_settings_never_share_a_column():
    base, other = occlusion(), {"checkpoint_sha256": "b" * 64, "label": "b"}
    grid = occlusion(**other, config={"repeats": 5, "seed": 0, "grid": 4})
    data = occlusion(**other, data={"name": "val", "fingerprint": "x", "split": "val"})
    pixels = occlusion(**other, data={"name": "digits-photo", "fingerprint": "y" * 64, "split": "val"})
    version = occlusion(**other, version=2)
    workers = occlusion(**other, config={"repeats": 5, "seed": 0, "grid": 8, "workers": 7, "out": "elsewhere"})
    expected = {
        "grid": (grid, ["digits-photo · grid=8", "digits-photo · grid=4"]),
        "data": (data, ["digits-photo", "val"]),
        "pixels": (pixels, ["digits-photo · data ffffffff", "digits-photo · data yyyyyyyy"]),
        "version": (version, ["digits-photo · protocol version 1", "digits-photo · protocol version 2"]),
        "workers": (workers, ["digits-photo"]),
    }
    for changed, names in expected.values():
        groups = groups_of(runs_of([base, changed]), PROTOCOLS)
        assert [describe(g, groups) for g in groups] == names
        made = table(base, changed)
        assert len(made.columns) == 3 * len(names) and len(made.rows) == 2
        assert [made.rows[0][1][i].value for i in range(0, len(made.columns), 3)] == ["67.5"] + ["–"] * (len(names) - 1)


def test_wide_summaries_are_split():
    many = [occlusion(data={"name": f"set{i}", "fingerprint": "f", "split": "val"}) for i in range(6)]
    pages = summary(rows(*many), PROTOCOLS)
    assert [len(t.columns) for t in pages] == [MAX_COLUMNS, 6]


# ---- cells


def estimates(*pairs):
    return [Estimate(value, error, error, 1, False) for value, error in pairs]


@pytest.mark.parametrize(
    ("pairs", "lower", "best"),
    [
        ([(0.90, 0.01), (0.93, 0.02)], False, 1),  # 0.03 > sqrt(0.0005) = 0.0224
        ([(0.90, 0.01), (0.92, 0.02)], False, None),  # 0.02 < 0.0224
        ([(0.30, 0.01), (0.20, 0.01), (0.25, 0.001)], True, 1),
        ([(0.90, math.nan), (0.93, 0.001)], False, None),
        ([(0.90, 0.0), (0.90, 0.0)], False, None),
        ([(0.90, 0.001)], False, None),
        ([(0.5, 0.001), (0.7, 0.001), (0.69, 0.1)], False, None),  # the uncertain third could be better
    ],
)
def test_best_only_beyond_the_standard_error_of_the_difference(pairs, lower, best):
    column = Metric("x", "x", "low" if lower else "high", "x", column=True)
    assert best_of(estimates(*pairs), column) == best
    assert best_of(estimates(*pairs), Metric("x", "x", "neither", "x")) is None


def test_incomplete_records_are_marked_and_never_compared():
    done, other = record(), record(label="b", checkpoint_sha256="b" * 64, metrics={"top1": 0.5})
    better = record(label="c", checkpoint_sha256="c" * 64, metrics={"top1": 0.99}, complete=False)
    made = table(done, other, better)
    assert {name: (c.best, c.remark) for name, c in cells(made).items()} == {
        "mixpro": (True, ""),
        "b": (False, ""),
        "c": (False, "incomplete"),
    }
    assert any("not a final number" in note for note in made.notes)
    complete_seeds = table(seed(0), seed(1, metrics={"top1": 0.92}), seed(2, complete=False, metrics={"top1": 0.1}))
    assert {name: c.value for name, c in cells(complete_seeds).items()} == {
        "mixpro (2 seeds)": "91.0",
        "mixpro (seed=2)": "10.0",
    }


def test_undefined_metrics_say_why(tmp_path):
    small = imagenet_a(tmp_path, n=150)
    made = table(small)
    assert made.columns == ["top-1 ↑", "RMS cal. error ↓", "AURRA ↑"]
    assert made.rows[0][1][1].value == "n/a" and any(
        note.startswith("n/a: RMS cal. error (digits-a): ") for note in made.notes
    )


# ---- published values


def deit(**changes):
    fields = {"model": "deit_small_patch16_224.fb_in1k", "label": "deit-s", "published": True, "demonstration": False}
    data = {"name": "imagenet-a", "fingerprint": "f", "split": "val"}
    return record(
        **(
            fields
            | {"task": "robustness", "protocol": "imagenet-a", "data": data, "n": 7500, "config": {}}
            | {
                "metrics": {"top1": 0.1909, "rms_calibration_error": 0.321, "aurra": 0.239},
                "standard_errors": {"top1": 0.0046},
            }
            | changes
        )
    )


def test_published_values_stand_beside_the_real_protocol_of_the_same_model():
    (made,) = beside_published(
        rows(deit(), record(), deit(label="other", checkpoint_sha256="b" * 64, model="resnet18")), PROTOCOLS
    )
    lines = {name: [(c.value, c.spread) for c in line] for name, line in made.rows}
    assert lines["deit-s (this report)"] == [("19.1", "0.5"), ("32.1", ""), ("23.9", "")]
    assert lines["MixPro (MixPro paper, Table 5)"] == [("22.4", ""), ("30.3", ""), ("32.4", "")]
    timm = [name for name in lines if "timm" in name]
    assert len(timm) == 1 and lines[timm[0]] == [("18.720", ""), ("–", ""), ("–", "")]
    assert made.title == "ImageNet-A protocol (imagenet-a), deit_small_patch16_224.fb_in1k" and made.quoted == 4
    assert len(lines) == 5  # own, three methods of the paper, timm; resnet18 has no published row for this protocol


@pytest.mark.parametrize("change", [{"published": False}, {"complete": False, "published": False}])
def test_published_values_stay_away_from_anything_else(change):
    assert beside_published(rows(deit(**change)), PROTOCOLS) == []


def test_a_record_that_does_not_say_stands_beside_nothing():
    old = deit() | {"schema": 1, "published": None, "demonstration": None}
    assert beside_published(rows(old), PROTOCOLS) == []


def test_what_is_assumed_goes_along_beside_published_values():
    (made,) = beside_published(rows(deit(assumed=["schedule: that of another paper"])), PROTOCOLS)
    assert made.rows[0][0] == "deit-s (this report, schedule assumed)"
    assert made.notes[1] == "deit-s: assumed schedule: that of another paper."


def test_clean_accuracy_stands_beside_the_published_one_of_its_model():
    accuracy = {
        "protocol": "accuracy",
        "data": {"name": "val", "fingerprint": "f", "split": "val"},
        "published": True,
        "demonstration": False,
        "n": 50_000,
    }
    assert beside_published(rows(record(**accuracy | {"published": False})), PROTOCOLS) == []  # any 50,000 images
    (made,) = beside_published(rows(record(**accuracy, model="deit_tiny_patch16_224")), PROTOCOLS)
    assert ["73.8", "–"] in [[c.value for c in line] for _, line in made.rows]  # top-1 and OpenMixup's best
    other = record(**accuracy, model="pvt_tiny", checkpoint_sha256="b" * 64)
    (made,) = beside_published(rows(record(**accuracy, model="deit_tiny_patch16_224"), other), PROTOCOLS)
    lines = {name: line[0].value for name, line in made.rows}
    assert (
        lines["mixpro (pvt_tiny), pvt_tiny (this report)"] == "90.0"
        and lines["MixPro, pvt_tiny (MixPro paper, Table 1)"] == "76.7"
    )


def test_a_number_stands_beside_its_like_alone():
    """A training's last, best and median beside sources that print one of them, each in a column of its name."""
    fields = {"protocol": "accuracy", "task": "train", "published": True, "demonstration": False, "n": 50_000}
    data = {"name": "val", "fingerprint": "f", "split": "val"}
    measured = {"top1": 0.801, "top1_best": 0.812, "top1_median": 0.789, "top5": 0.95, "loss": 0.9}
    run = fields | {"data": data, "metrics": measured, "standard_errors": {}}

    def beside(*records):
        (made,) = beside_published(rows(*records), PROTOCOLS)
        return made, {name: [c.value for c in line] for name, line in made.rows}

    made, lines = beside(record(**run, model="deit_small_patch16_224", label="a"))
    assert made.columns == ["top-1 ↑", "best top-1 ↑"] and lines["a (this report)"] == ["80.1", "81.2"]
    assert lines["TransMix (TransMix supplementary, Table 2)"] == ["80.7", "–"]
    assert lines["TransMix (OpenMixup ImageNet benchmark, DeiT, best, mean of 3 runs, disputed)"] == ["–", "80.68"]
    assert any(note.startswith("best top-1: ") for note in made.notes)
    assert any("no comparison" in note for note in made.notes)

    made, lines = beside(record(**run, model="resnet34", label="a"))
    assert made.columns == ["median top-1 ↑"] and lines["a (this report)"] == ["78.9"]
    evaluated = run | {"task": "eval", "metrics": {"top1": 0.734}, "standard_errors": {}}
    made, lines = beside(record(**evaluated, model="resnet34", label="a"))
    assert made.columns == ["top-1 ↑", "median top-1 ↑"] and lines["a (this report)"] == ["73.4", "–"]
    median = "OpenMixup ImageNet benchmark, PyTorch-style, 100 epochs, median of the last 5"
    assert lines[f"CutMix ({median})"] == ["–", "73.58"]


def test_images_that_were_prepared_in_two_ways_are_said_to_be():
    ways = {"a": "shorter side 236 (bicubic), centre 224", "b": "shorter side 256 (bilinear), centre 224", "c": None}

    def one(label, way):
        data = {"name": "val", "fingerprint": "f", "split": "val"} | ({"prepared": way} if way else {})
        return record(protocol="accuracy", data=data, label=label, checkpoint_sha256=label * 64)

    said = [note for note in table(*(one(*item) for item in ways.items())).notes if "not prepared alike" in note]
    assert said == [
        "The images of val were not prepared alike, which moves numbers too: shorter side 236 (bicubic), centre 224: a;"
        " shorter side 256 (bilinear), centre 224: b; not recorded: c."
    ]
    assert not any("prepared" in note for note in table(one("a", "x"), one("b", "x")).notes)
