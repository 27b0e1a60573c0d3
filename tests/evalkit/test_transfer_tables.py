"""evalkit.report.transfer: the papers' tables of transferred backbones, from records."""

import io
import re
import statistics
from dataclasses import replace

import pytest
from PIL import Image

from evalkit import report, results
from evalkit.cli.described import protocols
from evalkit.report.collect import rows_of, runs_of
from evalkit.report.tables import summary
from evalkit.report.transfer import transfers, transfers_beside_published

from .fake_records import cls, det, record, seg

PROTOCOLS = protocols()
OTHER = {"label": "vanilla", "method": "vanilla", "checkpoint_sha256": "b" * 64}


def rows(*records):
    return rows_of(runs_of(records))


def lines(table):
    return [(name, *(c.value for c in cells)) for name, cells in table.rows]


def config(made, **changes):
    return {"config": made["config"] | changes}


def test_segmentation_as_the_paper_prints_it():
    (table,) = transfers(
        rows(record(), seg(), seg("segmenter", metrics={"miou": 0.6}), seg(**OTHER), seg("segmenter", **OTHER)),
        PROTOCOLS,
    )
    assert table.title == "Semantic segmentation (digits-scenes)" and table.columns == [
        "backbone",
        "decoder",
        "mIoU ↑",
        "+MS ↑",
    ]
    assert lines(table) == [
        ("mixpro", "vit_tiny", "Linear", "50.0", "52.0"),
        ("vanilla", "vit_tiny", "Linear", "50.0", "52.0"),
        ("mixpro", "vit_tiny", "Segmenter", "60.0", "–"),  # without --ms
        ("vanilla", "vit_tiny", "Segmenter", "50.0", "52.0"),
    ]
    assert table.heads == [("Semantic segmentation", "digits-scenes", "", 4)] and table.quoted == 0
    assert not any(c.best for _, cells in table.rows for c in cells)  # nothing is known about the error


def test_detection_as_the_paper_prints_it():
    (table,) = transfers(
        rows(det(), det(**OTHER, model="resnet50", metrics={"box_ap": 0.38, "box_ap50": 0.586})), PROTOCOLS
    )
    assert table.columns == [
        "backbone",
        "parameters",
        *(f"{kind} AP{at} ↑" for kind in ("box", "mask") for at in ("", "50", "75")),
    ]
    assert lines(table) == [
        ("mixpro", "vit_tiny", "44.1M", "40.0", "60.0", "45.0", "30.0", "55.0", "35.0"),
        ("vanilla", "resnet50", "–", "38.0", "58.6", "–", "–", "–", "–"),
    ]


def test_seeds_of_the_transfer_make_one_row():
    values = [0.30, 0.34, 0.35]
    made = [det(seed=i, metrics={"box_ap": v}, **config(det(), seed=i)) for i, v in enumerate(values)]
    random = {"label": "vit_tiny, random", "method": None, "checkpoint_sha256": None}
    others = [
        det(**random, seed=i, metrics={"box_ap": 0.1 + v}, **config(det(), seed=i, init="random"))
        for i, v in enumerate([0.0, 0.01, 0.02])
    ]
    (table,) = transfers(rows(*made, *others), PROTOCOLS)
    cell, lower = (cells[2] for _, cells in table.rows)
    assert [name for name, _ in table.rows] == ["mixpro", "vit_tiny, random"]
    assert (
        (cell.value, cell.spread)
        == (f"{100 * statistics.fmean(values):.1f}", f"{100 * statistics.stdev(values):.1f}")
        == ("33.0", "2.6")
    )
    assert (lower.value, lower.spread, cell.best, lower.best) == ("11.0", "1.0", True, False)
    assert "standard deviation over seeds" in table.notes[2]


def test_seeds_of_the_pre_training_make_one_row_and_a_missing_one_is_said():
    trained = [
        record(seed=i, checkpoint_sha256=f"{i}" * 64, config={"lr": 0.001, "seed": i, "workers": 1}) for i in range(3)
    ]
    made = [seg(checkpoint_sha256=f"{i}" * 64, metrics={"miou": 0.5 + 0.1 * i}) for i in range(2)]
    (table,) = transfers(rows(*trained, *made), PROTOCOLS)
    ((name, (_, _, cell, _)),) = table.rows
    assert (name, cell.value, cell.remark) == ("mixpro (3 seeds)", "55.0", "2 of 3 seeds")


def test_another_schedule_data_or_version_is_another_table():
    base = seg()
    data = base["data"]
    expected = {
        "lr": (seg(**config(base, lr=0.01)), ["digits-scenes · lr=0.001", "digits-scenes · lr=0.01"]),
        "data": (seg(data=data | {"name": "mine"}), ["digits-scenes", "mine"]),
        "pixels": (
            seg(data=data | {"fingerprint": "e" * 64}),
            ["digits-scenes · data dddddddd", "digits-scenes · data eeeeeeee"],
        ),
        "version": (seg(version=2), ["digits-scenes · protocol version 1", "digits-scenes · protocol version 2"]),
    }
    for changed, where in expected.values():
        assert [t.title for t in transfers(rows(base, changed), PROTOCOLS)] == [
            f"Semantic segmentation ({w})" for w in where
        ]
    # execution, and what the row itself is
    assert len(transfers(rows(base, seg(**OTHER, **config(base, workers=7, init="random"))), PROTOCOLS)) == 1
    assert [t.title.split(" (")[0] for t in transfers(rows(det(), base), PROTOCOLS)] == [
        "Semantic segmentation",
        "Object detection and instance segmentation",
    ]


def test_incomplete_is_marked_and_never_best():
    made = [seg(seed=i, metrics={"miou": 0.5 + i / 100}, **config(seg(), seed=i)) for i in range(2)]
    (table,) = transfers(rows(*made, seg(**OTHER, metrics={"miou": 0.99}, complete=False)), PROTOCOLS)
    assert [(cells[2].remark, cells[2].best) for _, cells in table.rows] == [("", False), ("incomplete", False)]
    assert "not a final number" in table.notes[-1]


def test_transfers_stay_out_of_the_summary_of_accuracy():
    assert summary(rows(seg(), det()), PROTOCOLS) == []
    (table,) = summary(rows(record(), seg()), PROTOCOLS)
    assert table.columns == ["top-1 ↑"]


def test_a_fine_tuning_is_a_line_of_its_transfer_once():
    """Beside the other ways on the same images, of a table of its own where there are none, of neither before it."""
    tuned = record(
        label="vanilla",
        method="vanilla",
        checkpoint_sha256="c" * 64,
        data=cls()["data"],
        metrics={"top1": 0.8},
        config={"init": "runs/pre/last", "lr": 0.03, "seed": 0, "workers": 2},
    )
    plain = record(data=cls()["data"])  # began with nothing: no transfer
    (table,) = transfers(rows(record(), plain, cls("knn"), cls(), tuned), PROTOCOLS)
    assert lines(table) == [
        ("mixpro", "vit_tiny", "linear probe", "70.0", "69.0"),
        ("mixpro", "vit_tiny", "k nearest neighbours", "70.0", "69.0"),
        ("vanilla, from last", "vit_tiny", "fine-tuning", "80.0", "–"),
    ]
    (alone,) = transfers(rows(plain, tuned | {"config": tuned["config"] | {"init": "pretrained"}}), PROTOCOLS)
    assert lines(alone) == [("vanilla, from timm's weights", "vit_tiny", "fine-tuning", "80.0", "–")]
    elsewhere = tuned | {"data": tuned["data"] | {"fingerprint": "8" * 64}}
    assert len(transfers(rows(cls(), elsewhere), PROTOCOLS)) == 2
    with pytest.raises(ValueError, match="`tuned` must be one of the values that `detail` names, but got 'nothing'"):
        replace(PROTOCOLS["cls"], tuned="nothing")


# ---- beside published values


def real(make, **changes):
    name = {"seg": "pascal-context", "det": "coco"}[make.__name__]
    return make(
        data={"name": name, "fingerprint": "f" * 64, "split": "val"},
        n=5000,
        published=True,
        demonstration=False,
        **changes,
    )


def test_table_3_beside_own_rows():
    (table,) = transfers_beside_published(
        rows(real(seg, model="deit_small_patch16_224.fb_in1k"), real(seg, **OTHER, model="resnet18")), PROTOCOLS
    )
    got = lines(table)
    assert got[0][1:] == ("deit_small_patch16_224.fb_in1k", "Linear", "50.0", "52.0") and got[0][0].endswith(
        ", this report"
    )
    model = "deit_small_patch16_224"
    assert got[-6:] == [
        ("baseline (MixPro paper, Table 3)", model, "Linear", "49.1", "49.6"),
        ("TransMix (MixPro paper, Table 3)", model, "Linear", "49.7", "50.3"),
        ("MixPro (MixPro paper, Table 3)", model, "Linear", "50.3", "50.9"),
        ("baseline (MixPro paper, Table 3)", model, "Segmenter", "49.7", "50.5"),
        ("TransMix (MixPro paper, Table 3)", model, "Segmenter", "50.6", "51.2"),
        ("MixPro (MixPro paper, Table 3)", model, "Segmenter", "51.1", "51.6"),
    ]
    assert table.quoted == 6


def test_table_4_beside_own_rows():
    (table,) = transfers_beside_published(rows(real(det, model="pvt_small")), PROTOCOLS)
    assert lines(table)[0] == (
        "mixpro, this report",
        "pvt_small",
        "44.1M",
        "40.0",
        "60.0",
        "45.0",
        "30.0",
        "55.0",
        "35.0",
    )
    assert lines(table)[-1] == (
        "MixPro (MixPro paper, Table 4)",
        "pvt_small",
        "44.1M",
        "41.4",
        "64.2",
        "44.4",
        "38.9",
        "61.1",
        "41.7",
    )
    assert table.quoted == 3


@pytest.mark.parametrize(
    "change",
    [{"published": False}, {"complete": False, "published": False}, {"published": None}, {"model": "vit_tiny"}],
)
def test_published_values_stay_away_from_anything_else(change):
    assert transfers_beside_published(rows(real(det) | {"model": "pvt_small"} | change), PROTOCOLS) == []


def test_what_is_assumed_goes_along():
    assumed = ["schedule: Segmenter's, since the papers name none"]
    (table,) = transfers_beside_published(rows(real(seg, model="deit_small_patch16_224", assumed=assumed)), PROTOCOLS)
    assert lines(table)[0][0] == "mixpro, this report, schedule assumed"
    assert f"mixpro: assumed {assumed[0]}." in table.notes


# ---- in the report


def test_the_report_holds_the_tables_in_every_format(tmp_path):
    for made in (record(), seg(), seg("segmenter"), det(), real(det, **OTHER, model="pvt_small")):
        results.append(tmp_path, made)
    report.build([tmp_path], None, PROTOCOLS)
    markdown, page, tex, table = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html", "tex", "csv"))
    assert (
        "## Semantic segmentation (digits-scenes)" in markdown
        and "## Object detection and instance segmentation (coco)" in markdown
    )
    assert "not the published settings or data" not in markdown.split("## How")[0]
    line = [
        " ".join(part.split()) for part in next(row for row in markdown.splitlines() if "Segmenter" in row).split("|")
    ]
    assert line[1:-1] == ["mixpro", "vit_tiny", "Segmenter", "50.0", "52.0"]
    assert "box AP50" in page and "44.1M" in page and "digits-scenes: demonstration data" in page
    assert r"mixpro & vit\_tiny & Linear & 50.0 & 52.0 \\" in tex
    assert "MixPro (MixPro paper, Table 4) & pvt\\_small & 44.1M & 41.4" in tex
    assert len([row for row in table.splitlines() if ",seg," in row or ",det," in row]) == 4 + 4 + 7 + 7


def test_the_report_shows_what_the_first_of_each_kind_predicts(tmp_path):
    for i, made in enumerate((seg(), seg(**OTHER), seg("segmenter"), det())):
        results.append(tmp_path / str(i), made)
    picture = io.BytesIO()
    Image.new("RGB", (40, 20), (200, 30, 30)).save(picture, "PNG")
    (tmp_path / "1/samples.png").write_bytes(picture.getvalue())  # vanilla comes first
    (tmp_path / "2/samples.png").write_bytes(picture.getvalue()[:-9])
    report.build([tmp_path], None, PROTOCOLS)
    markdown = (tmp_path / "report.md").read_text()
    assert re.findall(r"## Predictions \((.*)\)", markdown) == [
        "vanilla, linear, digits-scenes",
        "mixpro, segmenter, digits-scenes",
        "mixpro, digits-scenes",
    ]
    assert (
        "Left out: mixpro: samples.png is damaged." in markdown
        and "Left out: mixpro: samples.png is missing." in markdown
    )
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["predictions-seg-linear.png"]
    assert (tmp_path / "figures/predictions-seg-linear.png").read_bytes() == picture.getvalue()
