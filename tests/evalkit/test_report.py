"""`evalkit report`: the files it writes hold the numbers of the records, stand alone, and say what is missing."""

import base64
import csv
import io
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from evalkit import metrics, report, results
from evalkit.cli.described import protocols
from evalkit.errors import EvalkitError
from evalkit.report import figures

from .fake_records import imagenet_a, occlusion, record, write_npz, write_run

PROTOCOLS = protocols()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three methods, everything measured; the report in the same folder."""
    folder = tmp_path_factory.mktemp("runs")
    for i, label in enumerate(["mixpro", "transmix", "vanilla"]):
        write_run(folder / label, label, accuracy=0.9 - 0.05 * i)
    assert report.build([folder], None, PROTOCOLS) == folder / "report.html"
    return folder


class Page(HTMLParser):
    """Tags, image sources, table rows and unbalanced tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.attributes, self.rows, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *a) for a in attrs]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in ("img", "meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def pipe_table(text):
    """The first Markdown table of `text` as rows of cells."""
    block = re.search(r"(?:^\|.*\n)+", text, re.M).group()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]


# ---- numbers


def test_csv_holds_every_metric_of_every_record_with_every_digit(runs):
    written = {
        (r["label"], r["protocol"], r["metric"]): r
        for r in csv.DictReader(io.StringIO((runs / "report.csv").read_text()))
    }
    expected = {}
    for made in results.read([runs]):
        for metric, value in made["metrics"].items():
            expected[made["label"], made["protocol"], metric] = made, value
    assert written.keys() == expected.keys()
    for key, (made, value) in expected.items():
        line = written[key]
        assert float(line["value"]) == value
        assert line["standard_error"] == (
            "" if key[2] not in made["standard_errors"] else repr(made["standard_errors"][key[2]])
        )
        facts = [line[k] for k in ("n", "version", "complete", "demonstration", "published", "assumed")]
        assert facts == [str(made["n"]), "1", "True", "True", "False", ""]
        assert (line["checkpoint_sha256"], line["data"], line["training_seed"]) == (
            made["checkpoint_sha256"],
            made["data"]["name"],
            "0",
        )


def test_the_summary_shows_the_same_numbers_in_all_formats(runs):
    text = (runs / "report.md").read_text()
    head, rule, *lines = pipe_table(text)
    assert set("".join(rule)) <= set("-:") and {len(line) for line in lines} == {len(head)} == {11}
    assert head[1:4] == ["clean top-1 ↑", "occlusion random ↑", "occlusion salient ↑"]
    by_label = {line[0]: line[1:] for line in lines}
    assert list(by_label) == ["vanilla", "mixpro", "transmix"]  # the baseline first
    assert [by_label[name][0] for name in ("mixpro", "transmix", "vanilla")] == [
        "**90.0 ± 1.5**",
        "85.0 ± 1.5",
        "80.0 ± 1.5",
    ]
    for made in results.read([runs]):
        if made["protocol"] == "imagenet-a":
            assert by_label[made["label"]][5].strip("*") == f"{100 * made['metrics']['rms_calibration_error']:.1f}"

    rows = Page((runs / "report.html").read_text()).rows
    tex = (runs / "report.tex").read_text()
    for name, values in by_label.items():
        numbers = [re.findall(r"\d+\.\d", value) for value in values]
        (row,) = [r for r in rows if r[0] == name and len(r) == 11]
        assert [re.findall(r"\d+\.\d", cell) for cell in row[1:]] == numbers
        (line,) = [t for t in tex.splitlines() if t.startswith(name + " &")]
        assert [re.findall(r"\d+\.\d", cell) for cell in line.split("&")[1:]] == numbers
    assert tex.count(r"\textbf{") == 1 and r"\textbf{90.0}" in tex


def test_tex_is_balanced_and_has_a_cell_for_every_column(runs):
    tex = (runs / "report.tex").read_text()
    assert [re.findall(rf"\\{w}{{(\w+)}}", tex) for w in ("begin", "end")] == [
        ["table", "tabular"],
        ["tabular", "table"],
    ]
    bare = re.sub(r"\\[{}&%$#_]", "", tex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    columns = re.search(r"\\begin{tabular}{(l?r+)}", tex).group(1)
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")]
    assert {line.count("&") + 1 for line in body.splitlines() if line.endswith(r"\\")} == {len(columns)} == {11}
    assert all(word in tex for word in (r"\toprule", r"\cmidrule(lr){2-2}", r"\cmidrule(lr){9-11}"))


# ---- the page


def test_the_page_asks_nothing_of_the_network(runs):
    text = (runs / "report.html").read_text()
    page = Page(text)
    assert text.count("<script") == 1 and "<script src" not in text  # our own, in the page
    assert "fetch(" not in text and "@import" not in text and "url(" not in text and "<link" not in text
    assert not re.search(r"https?://", re.sub(r"data:image/(?:png|svg\+xml);base64,[\w+/=]+", "", text))
    for _, name, value in page.attributes:
        assert name not in ("srcset", "data", "action")
        # a record on the page, or beside it
        assert name != "href" or value.startswith("#record-") or value.endswith("results.jsonl")
        assert name != "src" or value.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))


def test_figures_are_in_the_page_and_beside_it(runs):
    page = Page((runs / "report.html").read_text())
    names = ["occlusion", "reliability", "risk-coverage", "precision-recall", "mixed-samples"]
    files = [(runs / "figures" / f"{name}.png").read_bytes() for name in names]
    shown = [(runs / "figures" / f"{n}.{'png' if n == 'mixed-samples' else 'svg'}").read_bytes() for n in names]
    embedded = [base64.b64decode(image["src"].split(",")[1]) for image in page.images]
    assert embedded == shown and all(image["alt"] for image in page.images)
    for data in files:
        assert np.asarray(Image.open(io.BytesIO(data)).convert("L")).std() > 5  # something is on it
    assert re.findall(r"\(figures/([\w-]+)\.png\)", (runs / "report.md").read_text()) == names


def test_how_the_numbers_were_made(runs):
    text = " ".join(Page((runs / "report.html").read_text()).text)
    markdown = (runs / "report.md").read_text()
    for made in results.read([runs]):
        for found in (text, markdown):
            assert (
                made["checkpoint_sha256"][:12] in found
                and made["data"]["fingerprint"][:12] in found
                and f"{made['protocol']} v1" in found
            )
    for found in (text, markdown):
        assert "demonstration data, not a benchmark" in found and "python 3.11" in found
    assert re.search(r"\| mixup +\| vanilla +\| mixpro +\| transmix +\|", markdown)  # what differs between the runs
    assert not re.search(r"^\| lr ", markdown, re.M)


def test_the_same_records_give_the_same_bytes(runs, tmp_path):
    out = report.build([runs], tmp_path / "new" / "folder", PROTOCOLS).parent
    for name in ("report.html", "report.md", "report.csv", "report.tex", "figures/occlusion.png"):
        links = re.compile(rb"<p><a href=.*?</a></p>")  # which lead to the records, from wherever the page lies
        assert links.sub(b"", (out / name).read_bytes()) == links.sub(b"", (runs / name).read_bytes())


def test_text_of_users_is_escaped(tmp_path):
    label = "<b>&|$x_$\\{%#~^"
    results.append(tmp_path, record(label=label, notes=["<script>alert(1)</script> a|b"]))
    report.build([tmp_path], None, PROTOCOLS)
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in {tag for tag, *_ in page.attributes} and label in [row[0] for row in page.rows]
    head, _, line = pipe_table((tmp_path / "report.md").read_text())
    assert len(head) == len(line) == 2 and line[0] == r"&lt;b&gt;&amp;\|\$x\_\$\\{%#\~^"
    assert (
        r"\textless{}b\textgreater{}\&|\$x\_\$\textbackslash{}\{\%\#\textasciitilde{}\textasciicircum{} & 90.0"
        in (tmp_path / "report.tex").read_text()
    )


# ---- what the figures are made of


def test_curves_come_from_the_per_sample_records(tmp_path):
    made = imagenet_a(tmp_path) | {"_dir": str(tmp_path)}
    scores = figures._scores(made)
    assert metrics.rms_calibration_error(scores.confidence, scores.correct) == pytest.approx(
        made["metrics"]["rms_calibration_error"], abs=1e-15
    )
    assert 1 - metrics.risk_coverage(scores.score, scores.correct).risk.mean() == pytest.approx(
        made["metrics"]["aurra"], abs=1e-15
    )


def test_curves_of_images_that_count_as_wrong(tmp_path):
    """As `evaluate` has it: rows that could not be read are wrong with no confidence."""
    imagenet_a(tmp_path)
    with np.load(tmp_path / "a.npz") as f:
        arrays = dict(f)
    readable = np.arange(len(arrays["ids"])) >= 40
    arrays["logits"][~readable] = 0
    write_npz(tmp_path / "a.npz", **arrays, readable=readable)
    from evalkit.robustness import imagenet_a as protocol

    outcome = protocol.evaluate(arrays | {"readable": readable})
    made = record(
        task="robustness", protocol="imagenet-a", metrics={k: v for k, v in outcome.metrics.items() if np.isfinite(v)},
        standard_errors={}, records="a.npz",
    )  # fmt: skip
    scores = figures._scores(made | {"_dir": str(tmp_path)})
    assert scores.correct.mean() == outcome.metrics["top1"] and not scores.correct[~readable].any()
    assert metrics.rms_calibration_error(scores.confidence, scores.correct) == outcome.metrics["rms_calibration_error"]
    results.append(tmp_path, made)
    report.build([tmp_path], None, PROTOCOLS)
    assert "Left out" not in (tmp_path / "report.md").read_text().partition("Mixed samples")[0]


def test_occlusion_curve_of_one_record_and_of_several_seeds():
    one = figures._curve([occlusion()], "random")
    assert (
        one.x.tolist() == [i / 10 for i in range(10)]
        and one.mean[[0, 2]].tolist() == [0.9, 0.8]
        and one.band[[0, 2]].tolist() == [0.0, 0.02]
    )
    assert np.isnan(figures._curve([occlusion()], "salient").band).all()
    lower = occlusion(
        series=[s | {"top1": s["top1"] - 0.2} for s in occlusion()["series"]], metrics={"clean_top1": 0.7}
    )
    two = figures._curve([occlusion(), lower], "random")
    assert two.mean[[0, 2]] == pytest.approx([0.8, 0.7]) and two.band[[0, 2]] == pytest.approx([0.2 / 2**0.5] * 2)


def test_label_shares():
    classes = np.array(["cat", "dog", "a class with a long name", "owl"])
    assert figures.shares(np.array([0.5, 0.1, 0.25, 0.15]), np.array([0, 1, 0, 1]), classes) == "cat: 75 %\ndog: 25 %"
    assert (
        figures.shares(np.array([0.004, 0.4, 0.3, 0.296]), np.array([0, 1, 2, 3]), classes)
        == "dog: 40 %\na class with a: 30 %\nowl: 30 %"
    )


# ---- bad input


def test_no_results_is_one_line_that_says_what_to_run(tmp_path):
    for dirs in ([tmp_path], [tmp_path / "absent"], []):
        with pytest.raises(EvalkitError, match="evalkit") as error:
            report.build(dirs, None, PROTOCOLS)
        assert "\n" not in str(error.value)
    (tmp_path / "results.jsonl").write_text('{"half')
    with pytest.warns(UserWarning), pytest.raises(EvalkitError, match="no readable record"):
        report.build([tmp_path], None, PROTOCOLS)


def test_out_that_cannot_be_written(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match="cannot write"):
        report.build([runs], tmp_path / "file", PROTOCOLS)


def test_missing_damaged_and_foreign_files_are_left_out_and_said(tmp_path):
    for label in ("whole", "missing", "damaged", "foreign", "pickle", "nan"):
        write_run(tmp_path / label, label)
    (tmp_path / "missing" / "a.npz").unlink()
    (tmp_path / "missing" / "mixed.npz").unlink()
    content = (tmp_path / "damaged" / "o.npz").read_bytes()
    (tmp_path / "damaged" / "o.npz").write_bytes(content[: len(content) // 2])
    with np.load(tmp_path / "foreign" / "a.npz") as f:
        arrays = dict(f)
    write_npz(tmp_path / "foreign" / "a.npz", **arrays | {"labels": (arrays["labels"] + 1) % 10})
    write_npz(tmp_path / "pickle" / "a.npz", **arrays | {"labels": np.array([print], dtype=object)})
    write_npz(tmp_path / "nan" / "a.npz", **arrays | {"logits": arrays["logits"] * np.nan})
    write_npz(
        tmp_path / "nan" / "mixed.npz",
        x=np.zeros((2, 3, 4, 4), np.uint8),
        weights=np.ones((2, 2)),
        labels=np.array([0, 7]),
        classes=np.array(["a"]),
    )
    with open(tmp_path / "whole" / "results.jsonl", "ab") as f:
        f.write(b'{"half')
    with pytest.warns(UserWarning, match="line 5 was skipped"):
        report.build([tmp_path], None, PROTOCOLS)
    text = " ".join("".join(Page((tmp_path / "report.html").read_text()).text).split())
    markdown = (tmp_path / "report.md").read_text()
    for reason in (
        "missing: a.npz is missing.",
        "missing: mixed.npz is missing.",
        "damaged: o.npz is damaged",
        "foreign: a.npz gives top1 ",
        "pickle: a.npz is damaged",
        "nan: a.npz is damaged",
        "nan: mixed.npz is damaged",
        "results.jsonl, line 5 was skipped",
    ):
        assert reason in text and reason in markdown, reason
    assert len(Page((tmp_path / "report.html").read_text()).images) == 5


def test_no_per_sample_file_at_all_leaves_the_numbers(tmp_path):
    results.append(tmp_path, imagenet_a(tmp_path))
    (tmp_path / "a.npz").unlink()
    report.build([tmp_path], None, PROTOCOLS)
    page = Page((tmp_path / "report.html").read_text())
    assert page.images == [] and "Left out: mixpro: a.npz is missing." in "".join(page.text)
    assert not (tmp_path / "figures").exists()


def test_incomplete_and_undefined_are_marked_everywhere(tmp_path):
    results.append(tmp_path, imagenet_a(tmp_path, n=150, complete=False, notes=["3 images could not be read"]))
    report.build([tmp_path], None, PROTOCOLS)
    for name in ("report.md", "report.html", "report.tex"):
        text = (tmp_path / name).read_text()
        assert "incomplete" in text and "n/a" in text and "not a final number" in text
    assert "3 images could not be read" in (tmp_path / "report.md").read_text()
    line = next(
        r
        for r in csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text()))
        if r["metric"] == "rms_calibration_error"
    )
    assert (line["value"], line["undefined"], line["complete"]) == ("", "not defined", "False")


def test_a_rerun_supersedes_in_every_table(tmp_path):
    results.append(tmp_path, record(metrics={"top1": 0.123}, complete=False))
    results.append(tmp_path, record(metrics={"top1": 0.456}))
    report.build([tmp_path], None, PROTOCOLS)
    for name in ("report.md", "report.html", "report.tex", "report.csv"):
        text = (tmp_path / name).read_text()
        assert "12.3" not in text and "0.123" not in text and ("45.6" in text or "0.456" in text)


def test_a_report_cut_off_between_two_of_its_files_says_so(runs, tmp_path):
    """Killed before the second rename: the folder holds a note, and the next report names it."""
    replace, seen = os.replace, []
    if (pid := os.fork()) == 0:
        os.replace = lambda *args: os.kill(os.getpid(), 9) if len(seen) else (seen.append(args), replace(*args))
        report.build([runs], tmp_path / "out", PROTOCOLS)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    note = tmp_path / "out" / report.UNFINISHED
    assert "write all of them again" in note.read_text()
    with pytest.warns(UserWarning, match=f"the report in {tmp_path / 'out'} was cut off while it was written"):
        report.build([runs], tmp_path / "out", PROTOCOLS)
    whole = report.build([runs], tmp_path / "whole", PROTOCOLS).parent
    assert not note.exists() and not list((tmp_path / "out").rglob(".*"))
    for name in ("report.csv", "report.md", "report.tex", "report.html"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()


def test_fingerprints_of_different_schemes_are_remarked(tmp_path):
    """Of the same scheme they are other data, told apart in the tables; of different ones nobody knows."""
    for label, digest in (("a", "content-full:" + "1" * 64), ("b", "content-full:" + "2" * 64)):
        made = occlusion(label=label)
        results.append(tmp_path / label, made | {"data": made["data"] | {"fingerprint": digest}})
    report.build([tmp_path], tmp_path / "same", PROTOCOLS)
    results.append(tmp_path / "c", made | {"data": made["data"] | {"fingerprint": "content-sample:" + "3" * 64}})
    report.build([tmp_path], tmp_path / "mixed", PROTOCOLS)
    said = [(tmp_path / name / "report.md").read_text() for name in ("same", "mixed")]
    assert ["fingerprints of different schemes" in text for text in said] == [False, True]
