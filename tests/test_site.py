"""The built book in a browser without network: every page, at 400 pixels, light and dark."""

from __future__ import annotations

import functools
import html
import json
import re
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

import build
from conftest import chromium

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 400  # pixels, a phone

# Loads every page in a frame as wide as a phone and measures what a reader would see.
PROBE = """<!doctype html><body><pre id="report">not finished</pre><script>
const pages = PAGES, report = {};
const pause = ms => new Promise(done => setTimeout(done, ms));
const channel = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const colour = text => {
  const n = (text.match(/[0-9.]+/g) || []).map(Number);
  const rgb = text.startsWith("color(") ? n.slice(0, 3) : n.slice(0, 3).map(v => v / 255);
  return {rgb, alpha: n.length > 3 ? n[3] : 1};
};
function background(element, view) {
  for (let e = element; e; e = e.parentElement) {
    const found = colour(view.getComputedStyle(e).backgroundColor);
    if (found.alpha > 0.5) return found.rgb;
  }
  return [1, 1, 1];
}
function contrasts(doc, view) {
  const poor = [], walker = doc.createTreeWalker(doc.querySelector("article"), NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement, look = view.getComputedStyle(element);
    if (!node.data.trim() || !element.getClientRects().length || look.visibility === "hidden") continue;
    if (element.closest("script, style, mjx-assistive-mml, .headerlink, button")) continue;
    const [a, b] = [luminance(colour(look.color).rgb), luminance(background(element, view))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(look.fontSize) >= 24 || (parseFloat(look.fontSize) >= 18.6 && look.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) poor.push(node.data.trim().slice(0, 40) + " " + ratio.toFixed(2) + " " + look.color);
  }
  return [...new Set(poor)];
}
async function probe(page) {
  const frame = document.createElement("iframe");
  frame.width = WIDTH; frame.height = 800;
  document.body.append(frame);
  await new Promise(done => { frame.onload = done; frame.src = page; });
  const view = frame.contentWindow, doc = frame.contentDocument;
  if (doc.querySelector(".math")) {
    const ready = () => view.MathJax && view.MathJax.startup && view.MathJax.startup.promise;
    for (let i = 0; i < 200 && !ready(); i++) await pause(50);
    if (view.MathJax && view.MathJax.startup) await view.MathJax.startup.promise;
  }
  await pause(100);
  const article = doc.querySelector("article");
  const wide = [...article.querySelectorAll("*")].filter(e => {
    const box = e.getBoundingClientRect();
    if (box.width === 0 || box.right <= WIDTH + 1) return false;
    for (let p = e.parentElement; p && p !== doc.body; p = p.parentElement)
      if (["auto", "scroll", "hidden"].includes(view.getComputedStyle(p).overflowX)) return false;
    return !e.closest("mjx-assistive-mml");
  }).map(e => e.tagName + "." + e.className + ": " + (e.textContent || "").trim().slice(0, 40));
  const visible = article.cloneNode(true);
  visible.querySelectorAll("pre, code, script, style").forEach(e => e.remove());
  const result = {
    formulas: doc.querySelectorAll(".math").length,
    typeset: [...doc.querySelectorAll(".math")].filter(e => e.querySelector("mjx-container")).length,
    failed: [...doc.querySelectorAll("mjx-merror, .MathJax_Error")].map(e => e.textContent),
    cut: [...doc.querySelectorAll('mjx-container[display="true"]')].filter(e => e.scrollWidth > e.clientWidth + 1)
      .map(e => e.parentElement.textContent.slice(0, 40) + " " + e.scrollWidth + " > " + e.clientWidth),
    width: doc.documentElement.scrollWidth, wide: wide.slice(0, 5),
    raw: visible.textContent.match(/\\{[a-z:-]+\\}[`]|[`]{3}|:::|\\$\\$|\\\\tag/g) || [],
    broken: [...doc.images].filter(e => e.complete && !e.naturalWidth).map(e => e.src),
  };
  for (const theme of ["light", "dark"]) {
    doc.documentElement.dataset.mode = theme; doc.documentElement.dataset.theme = theme;
    await pause(400);  // the theme fades from one colour to the other
    result[theme] = contrasts(doc, view);
  }
  frame.remove();
  return result;
}
(async () => {
  for (const page of pages) report[page] = await probe(page);
  document.getElementById("report").textContent = JSON.stringify(report);
})().catch(error => { document.getElementById("report").textContent = "error: " + error.stack; });
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The book, built from the stored outputs."""
    return build.build(ROOT, tmp_path_factory.mktemp("site"), run=False).parent


def pages(site: Path) -> list[str]:
    return sorted(str(path.relative_to(site)) for path in site.glob("book/*.html"))


@pytest.fixture(scope="module")
def report(site, tmp_path_factory) -> dict[str, dict]:
    """What the browser found, for each page."""
    command = chromium(tmp_path_factory.mktemp("profile"))
    text = PROBE.replace("PAGES", json.dumps(pages(site))).replace("WIDTH", str(WIDTH))
    (site / "probe.html").write_text(text)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command += ["--window-size=1200,900"]
    command += ["--timeout=600000", "--virtual-time-budget=600000", "--dump-dom"]
    address = f"http://127.0.0.1:{server.server_address[1]}/probe.html"
    found = subprocess.run([*command, address], capture_output=True, text=True, timeout=600)
    server.shutdown()
    (site / "probe.html").unlink()
    shown = re.search(r'<pre id="report">(.*?)</pre>', found.stdout, re.DOTALL)
    assert shown, found.stderr[-2000:]
    return json.loads(html.unescape(shown[1]))


def test_every_formula_is_typeset_without_network(report):
    assert sum(page["formulas"] for page in report.values()) > 20
    assert {name: page["failed"] for name, page in report.items() if page["failed"]} == {}
    assert [name for name, page in report.items() if page["typeset"] != page["formulas"]] == []


def test_no_markup_is_left_raw(report):
    assert {name: page["raw"] for name, page in report.items() if page["raw"]} == {}


def test_every_displayed_formula_fits_a_phone(report):
    """Its left end would be out of reach: what is centred overflows to both sides."""
    assert {page: found["cut"] for page, found in report.items() if found["cut"]} == {}


def test_nothing_is_wider_than_a_phone(report):
    wide = {name: (page["width"], page["wide"]) for name, page in report.items()}
    assert {name: found for name, found in wide.items() if found[0] > WIDTH or found[1]} == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(report, theme):
    assert {name: page[theme][:5] for name, page in report.items() if page[theme]} == {}


def test_every_picture_loads(report):
    assert {name: page["broken"] for name, page in report.items() if page["broken"]} == {}


def test_links_and_anchors_lead_somewhere(site):
    anchors: dict[Path, set[str]] = {}
    missing = []
    for name in pages(site):
        text = (site / name).read_text()
        for target in re.findall(r'<a\b[^>]*?\bhref="([^"]+)"', text):
            parts = urlparse(html.unescape(target))
            if parts.scheme or parts.netloc:
                continue
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            if not path.exists():
                missing.append(f"{name}: {target}")
            elif parts.fragment and path.suffix == ".html":
                if path not in anchors:
                    anchors[path] = set(re.findall(r'\b(?:id|name)="([^"]+)"', path.read_text()))
                if unquote(parts.fragment) not in anchors[path]:
                    missing.append(f"{name}: {target}")
    assert missing == []


def test_colab_links_name_notebooks_that_exist(site):
    seen, colab = 0, re.compile(r"https://colab\.research\.google\.com/github/[^\"]*?/blob/main/([^\"]*)")
    for name in pages(site):
        for path in colab.findall((site / name).read_text()):
            assert path.endswith(".ipynb") and (ROOT / path).is_file(), (name, path)
            seen += 1
    assert seen >= len(list((ROOT / "book").glob("[0-9]*.ipynb"))) > 0
