"""The report's page in a browser: it sorts, filters and compares rows, and its console stays clean."""

import html
import json
import re
import shutil
import subprocess

import pytest

from evalkit import report, results
from evalkit.cli.described import protocols

from . import fake_records

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH"),
]
# What a reader does, and what the page then shows, written into the page for the test to read.
ACTS = """
<script>
addEventListener("load", () => {  // the pictures have their sizes
  const table = document.querySelector("table.sortable"), body = table.tBodies[0];
  const heads = table.tHead.rows[table.tHead.rows.length - 1].cells;
  const names = () => [...body.rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent.trim());
  const found = {};
  // the buttons, which the keyboard reaches too
  const by = (cell) => cell.querySelector("button");
  by(heads[1]).click(); found.down = names();
  by(heads[1]).click(); found.up = names();
  by(heads[0]).click(); found.alphabet = names(); found.sorted = heads[0].getAttribute("aria-sort");
  const filter = document.querySelector(".tools input");
  filter.value = "MIX"; filter.dispatchEvent(new Event("input")); found.filtered = names();
  found.status = document.querySelector(".tools [role=status]").textContent;
  filter.value = ""; filter.dispatchEvent(new Event("input"));
  const row = (name) => [...body.rows].find((r) => r.cells[0].textContent.trim() === name);
  by(row("vanilla").cells[0]).click(); row("mixpro").click();
  found.pressed = [...body.querySelectorAll("th button[aria-pressed=true]")].map((b) => b.textContent.trim());
  const difference = [...body.rows].pop();
  found.difference = [...difference.cells].slice(0, 2).map((cell) => cell.textContent);
  found.chosen = [...body.rows].filter((r) => r.classList.contains("chosen")).length;
  row("mixpro").click(); found.after = names();
  const last = (rows) => rows[rows.length - 1];
  const [segmentation] = [...document.querySelectorAll("table.sortable")].slice(1);
  const titles = [...last(segmentation.tHead.rows).cells].map((cell) => cell.textContent);
  last(segmentation.tHead.rows).cells[titles.indexOf("decoder")].click();
  found.decoders = [...segmentation.tBodies[0].rows].map((r) => r.cells[titles.indexOf("decoder")].textContent.trim());
  segmentation.tBodies[0].rows[0].click(); segmentation.tBodies[0].rows[1].click();
  const less = last(segmentation.tBodies[0].rows).cells;
  found.transferred = Object.fromEntries(titles.map((title, i) => [title, less[i].textContent]));
  const links = [...document.querySelectorAll("table.plain a")];
  found.links = links.length;
  found.records = links.map((link) => document.querySelector(link.hash).parentElement.firstElementChild.textContent);
  found.fits = document.documentElement.scrollWidth <= window.innerWidth;
  found.figure = document.querySelector("figure:not(.half) img").clientWidth;
  const column = body.rows[0].cells[0].getBoundingClientRect(), scroll = table.parentElement;
  scroll.scrollLeft = 120;
  const focused = (e) => { e.focus(); return document.activeElement === e; };
  found.reached = [...document.querySelectorAll("th button, .scroll, .tools input, summary")].every(focused);
  found.named = [...document.querySelectorAll("table")].every((t) => t.caption && t.caption.textContent.trim());
  found.scoped = [...document.querySelectorAll("thead th")].every((th) => th.scope && th.textContent.trim());
  found.frozen = body.rows[0].cells[0].getBoundingClientRect().left === column.left;
  const pre = document.createElement("pre");
  pre.id = "found"; pre.textContent = JSON.stringify(found); document.body.append(pre);
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of three runs and two segmentations."""
    folder = tmp_path_factory.mktemp("runs")
    for i, (name, top1) in enumerate((("vanilla", 0.80), ("mixpro", 0.92), ("cutmix", 0.85))):
        made = fake_records.record(label=name, method=name, metrics={"top1": top1}, checkpoint_sha256=str(i) * 64)
        results.append(folder / name, made)
        results.append(folder / name, fake_records.occlusion(label=name, method=name, checkpoint_sha256=str(i) * 64))
    for head, model, miou in (("segmenter", "resnet50", 0.6), ("linear", "resnet18", 0.5)):
        own = {"label": model, "method": None, "model": model, "checkpoint_sha256": model[-1] * 64}
        results.append(folder / head, fake_records.seg(head, **own, metrics={"miou": miou}))
    return report.build([folder], folder / "report", protocols())


@pytest.mark.parametrize("width", [400, 1280])
def test_a_reader_sorts_filters_and_compares(page, width, tmp_path):
    (copy := tmp_path / "page.html").write_text(page.read_text().replace("</body>", f"{ACTS}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--enable-logging=stderr"]
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "CONSOLE" not in done.stderr
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stdout[-500:]
    found = json.loads(html.unescape(match[1]))
    assert found["down"] == ["mixpro", "cutmix", "vanilla"] and found["up"] == ["vanilla", "cutmix", "mixpro"]
    assert found["sorted"] == "ascending" and found["status"] == "2 of 3 rows"
    assert sorted(found["pressed"]) == ["mixpro", "vanilla"]
    assert found["reached"] and found["named"] and found["scoped"]
    assert found["alphabet"] == ["cutmix", "mixpro", "vanilla"] and found["filtered"] == ["cutmix", "mixpro"]
    assert found["difference"] == ["mixpro \N{MINUS SIGN} vanilla", "+12.0"] and found["chosen"] == 2
    assert found["decoders"] == ["Linear", "Segmenter"]  # words in the order of the alphabet
    # of words there is no difference, even where they hold a number
    less = {title.replace("\N{NO-BREAK SPACE}", " "): text for title, text in found["transferred"].items()}
    assert less["backbone"] == less["decoder"] == "\N{EN DASH}" and less["mIoU \N{UPWARDS ARROW}"] == "+10.0"
    assert found["links"] == len(found["records"]) == 8 == len(set(found["records"]))  # each number leads to its record
    assert found["after"] == ["cutmix", "mixpro", "vanilla"]  # no difference of one row
    assert found["fits"]  # what is wider scrolls by itself
    assert found["figure"] >= 700 and found["frozen"]  # three panels stay readable, the rows' names in sight
