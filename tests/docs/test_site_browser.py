"""Every page of the site in a browser: none is wider than the window, and the console stays clean. One Chromium opens
them one after another in a frame, which is then made narrow and dark."""

import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH"),
    pytest.mark.skipif(importlib.util.find_spec("furo") is None, reason="needs the extra docs"),
]
MARGIN = 8  # pixels that headings of the theme reach into the margin on purpose
WIDTHS, THEMES = (1280, 400), ("light", "dark")
ACTS = """<!doctype html><iframe height=900></iframe><script>
  const frame = document.querySelector("iframe"), found = {};
  const opened = (page) => new Promise((done) => { frame.onload = done; frame.src = page; });
  (async () => {
    for (const page of PAGES) {
      frame.style.width = `${WIDTHS[0]}px`;
      await opened(page);
      const {documentElement: root, body} = frame.contentDocument;
      // the window, and whatever holds text: what the theme lets scroll as a whole, or cuts off, is too wide as well
      const parts = [root, ...root.querySelectorAll(".page, .main, .content, .article-container, article, section")];
      found[page] = [];
      for (const width of WIDTHS) {
        frame.style.width = `${width}px`;
        for (const theme of THEMES) {
          body.dataset.theme = theme;
          found[page].push({width: root.clientWidth,
                            over: Math.max(...parts.map((part) => part.scrollWidth - part.clientWidth)),
                            colour: frame.contentWindow.getComputedStyle(body).backgroundColor});
        }
      }
    }
    await fetch("/found", {method: "POST", body: JSON.stringify(found)});
  })();
</script>"""


@pytest.fixture(scope="module")
def site():
    """The site as `make docs` builds it; what is built already is not built again. Tests side by side in several
    processes build it once: nothing is written while another one reads."""
    folder, tests = ROOT / "docs" / "_build" / "html", os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "built-by").open("a+", encoding="utf-8") as built:
        fcntl.flock(built, fcntl.LOCK_EX)
        built.seek(0)
        if built.read() != tests and not up_to_date(folder):
            command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(ROOT / "docs"), str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
        built.truncate(0)
        built.write(tests)
    return folder


def up_to_date(folder):
    """Whether the site was built, by `make docs` perhaps, after all that it is made from was written."""
    made = folder / "searchindex.js"
    parts = ("docs", "evalkit", "train", "downstream", "robustness", "configs", "benchmarks")
    sources = [path for part in parts for path in (ROOT / part).rglob("*") if path.suffix != ".pyc" and path.is_file()]
    generated = (ROOT / "docs" / "_build", ROOT / "docs" / "reference")
    sources = [path for path in sources if not any(path.is_relative_to(g) for g in generated)] + [*ROOT.glob("*.md")]
    return made.exists() and made.stat().st_mtime > max(path.stat().st_mtime for path in sources)


class Server(SimpleHTTPRequestHandler):
    """The site, the page that looks at it, and a place for what it found."""

    acts, found, done = "", {}, threading.Event()

    def do_GET(self):
        if self.path != "/acts":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.acts.encode())

    def do_POST(self):
        type(self).found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.done.set()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def browser(address, profile):
    """Chromium at an address; the file that has its console."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    options += [f"--user-data-dir={profile}", "--window-size=1400,1000", "--enable-logging=stderr"]
    log = profile.with_suffix(".log")
    with log.open("w") as stderr:
        process = subprocess.Popen([CHROMIUM, *options, "--remote-debugging-port=0", address], stderr=stderr)
        try:
            yield log
        finally:
            process.terminate()
            process.wait(600)


def test_no_page_is_wider_than_the_window_and_the_console_is_clean(site, tmp_path):
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if "_static" not in path.parts)
    assert len(pages) > 90 and {"index.html", "reference/keys.html", "pages/own-data.html", "search.html"} < set(pages)
    values = f"const PAGES = {json.dumps(pages)}, WIDTHS = {list(WIDTHS)}, THEMES = {list(THEMES)};"
    Server.acts = ACTS.replace("<script>", f"<script>{values}")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with browser(f"http://127.0.0.1:{server.server_port}/acts", tmp_path / "profile") as log:
            assert Server.done.wait(600), log.read_text()[-2000:]
        server.shutdown()
    assert not [line for line in log.read_text().splitlines() if "CONSOLE" in line]
    assert list(Server.found) == pages
    for page, seen in Server.found.items():
        assert [s["width"] for s in seen] == pytest.approx([w for w in WIDTHS for _ in THEMES], abs=20)  # a scroll bar
        assert all(s["over"] <= MARGIN for s in seen), (page, seen)
        assert seen[0]["colour"] != seen[1]["colour"]  # it went dark


def test_nothing_of_a_page_comes_from_elsewhere(site):
    """Scripts, styles and pictures lie beside it: it reads without a network, and nobody learns who reads it."""
    for path in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*>", path.read_text(encoding="utf-8"))
        assert not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)], path
