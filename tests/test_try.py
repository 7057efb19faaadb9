"""The page "Try it": what runs in a browser says the same as Python, and its controls work."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import chromium
from cra_smra.data.birds import ATTRIBUTES, Birds, noise, render, species, species_names
from cra_smra.data.drawing import NOISE, NOISE_SIZE

BOOK = Path(__file__).resolve().parents[1] / "book"
TRY = BOOK / "_static" / "try"
COUNT = 100

PROBE = """<!doctype html><body><iframe id="page" src="book/try.html" width="400" height="900"></iframe><script>
const pause = ms => new Promise(done => setTimeout(done, ms));
async function probe() {
  const frame = document.getElementById("page");
  await new Promise(done => { frame.onload = done; });
  const view = frame.contentWindow, doc = frame.contentDocument, report = {predictions: [], drawn: []};
  while (!view.tryIt.ready && !view.tryIt.failed) await pause(20);
  if (view.tryIt.failed) return {failed: view.tryIt.failed};
  const given = await (await fetch("given.json")).json();
  const bytes = new Uint8Array(await (await fetch("birds.bin")).arrayBuffer());
  const size = bytes.length / given.count;
  for (let i = 0; i < given.count; i++) {
    const found = await view.tryIt.predict(bytes.slice(i * size, (i + 1) * size));
    report.predictions.push({mean: [...found.mean], each: [...found.each], maps: [...found.maps]});
  }
  for (let i = 0; i < given.codes.length; i++)
    report.drawn.push([...await view.tryIt.draw(given.codes[i], Float32Array.from(given.noise[i]))]);
  const seen = () => ({said: doc.getElementById("try-mean").textContent,
    heads: [0, 1, 2, 3].map(i => doc.getElementById("try-said-" + i).textContent),
    pixels: ["bird", "map-3", "map-4", "map-5"].map(name => {
      const canvas = doc.getElementById("try-" + name), {width, height} = canvas;
      const values = canvas.getContext("2d").getImageData(0, 0, width, height).data;
      return values.reduce((a, b) => (a * 31 + b) % 1000003, 7);
    })});
  async function move(name, value, kind) {
    const before = view.tryIt.updates, control = doc.getElementById("try-" + name);
    control.value = value;
    control.dispatchEvent(new view.Event(kind));
    while (view.tryIt.updates === before) await pause(5);
    return seen();
  }
  report.start = seen();
  report.moves = {
    species: await move("species", "11", "change"), part: await move("part-0", "0", "change"),
    pose: await move("x", "90", "input"), surroundings: await move("surroundings", "42", "input"),
  };
  const controls = [...doc.querySelectorAll("#try-page select, #try-page input")];
  report.labels = controls.map(control => [control.id, control.labels.length, control.tabIndex]);
  report.width = doc.documentElement.scrollWidth;
  report.loaded = view.performance.getEntriesByType("resource").map(entry => entry.name);
  return report;
}
probe().catch(error => ({failed: String(error)})).then(report =>
  fetch("/report", {method: "POST", body: JSON.stringify(report)}));
</script>"""


@pytest.fixture(scope="module")
def about() -> dict[str, object]:
    return json.loads((TRY / "about.json").read_text())


@pytest.fixture(scope="module")
def birds() -> torch.Tensor:
    return Birds("test", num_classes=20, per_class=COUNT // 20).images  # (100, 3, 96, 96) uint8


def given() -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and random numbers of five birds."""
    labels = torch.arange(5) * 4
    return species(20)[labels], noise("test", labels, torch.arange(5))


@pytest.fixture(scope="module")
def report(tmp_path_factory, birds) -> dict[str, object]:
    """What a browser without network found on the page."""
    command = chromium(tmp_path_factory.mktemp("profile"))
    site = tmp_path_factory.mktemp("try")
    shutil.copytree(TRY, site / "_static" / "try")
    (site / "book").mkdir()
    block = "\n".join(line for line in (BOOK / "try.md").read_text().splitlines() if line.startswith("<"))
    (site / "book" / "try.html").write_text(f"<!doctype html><meta charset=utf-8><body>{block}")
    (site / "probe.html").write_text(PROBE)
    (site / "birds.bin").write_bytes(birds.numpy().tobytes())
    codes, draws = given()
    (site / "given.json").write_text(json.dumps({"count": COUNT, "codes": codes.tolist(), "noise": draws.tolist()}))
    found, done = {}, threading.Event()

    class Server(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            found.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = subprocess.Popen(
        [*command, "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_address[1]}/probe.html"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert done.wait(300), "the browser sent no report"
    finally:
        browser.kill()
        browser.wait()
        server.shutdown()
    assert "failed" not in found, found
    return found


def python(birds: torch.Tensor) -> list[np.ndarray]:
    """The same file by ONNX Runtime in Python."""
    runtime = pytest.importorskip("onnxruntime")
    opened = runtime.InferenceSession(str(TRY / "network.onnx"), providers=["CPUExecutionProvider"])
    return opened.run(["probabilities", "stage_probabilities", "maps"], {"images": birds.numpy()})


def test_a_hundred_birds_are_predicted_as_in_python(report, birds):
    assert len(report["predictions"]) == COUNT
    for name, values in zip(("mean", "each", "maps"), python(birds), strict=True):
        browser = np.array([row[name] for row in report["predictions"]])
        assert np.abs(browser - values.reshape(COUNT, -1)).max() < 1e-4, name
        assert browser.std() > 0.01


def test_the_files_are_those_that_were_compared_with_python(about):
    for name, digest in about["sha256"].items():
        assert hashlib.sha256((TRY / name).read_bytes()).hexdigest() == digest
    assert about["difference_from_python"] < 1e-4
    assert about["trained"]["status"] == "finished" and not about["trained"]["commit"].endswith("-dirty")
    tested = about["trained"]["result"]["test"]["accuracy"]
    assert abs(about["accuracy_with_rounded_weights"] - tested) < 0.005


def test_what_the_controls_offer_is_what_the_package_draws(about):
    assert about["classes"] == species_names(species(20)) and about["codes"] == species(20).tolist()
    assert about["attributes"] == {name: list(values) for name, (_, values) in ATTRIBUTES.items()}
    assert about["noise"] == NOISE and about["noise_size"] == NOISE_SIZE


def test_the_network_recognises_most_birds(report):
    right = [np.argmax(row["mean"]) == i // (COUNT // 20) for i, row in enumerate(report["predictions"])]
    assert np.mean(right) > 0.8


def test_the_browser_draws_the_package_s_birds(report):
    codes, draws = given()
    image = (render(codes, draws, 96).image * 255).round().to(torch.uint8)
    browser = np.array(report["drawn"]).reshape(image.shape)
    assert np.abs(browser - image.numpy().astype(int)).max() <= 1  # rounding of half a grey level
    assert len({tuple(row) for row in report["drawn"]}) == 5


def test_moving_a_control_changes_bird_maps_and_predictions(report):
    names, states = list(report["moves"]), [report["start"], *report["moves"].values()]
    for name, before, after in zip(names, states, states[1:], strict=False):
        changed = [a != b for a, b in zip(before["pixels"], after["pixels"], strict=True)]
        assert all(changed), (name, changed)
    assert len({json.dumps(state["heads"]) for state in states}) == len(states)
    for state in states:
        assert re.match(r"The mean of the four says .+, \d+ %: ", state["said"])
        assert all(re.fullmatch(r".+, \d+ %", head) for head in state["heads"])
    assert "no species of the twenty" in report["moves"]["part"]["said"]
    assert "no species" not in report["moves"]["species"]["said"]


def test_every_control_has_a_label_and_the_keyboard_reaches_it(report):
    assert len(report["labels"]) == 1 + len(ATTRIBUTES) + 5 + 2
    assert all(labels == 1 and tab == 0 for _, labels, tab in report["labels"])


def test_the_page_fits_a_phone_and_needs_no_network(report):
    assert report["width"] <= 400
    assert report["loaded"] and all(name.startswith("http://127.0.0.1:") for name in report["loaded"])


def test_the_page_is_small_and_has_a_picture_without_scripts():
    assert sum(path.stat().st_size for path in TRY.iterdir()) < 20e6
    text = (BOOK / "try.md").read_text()
    assert re.search(r'<noscript><img src="\.\./_static/try/still\.png" alt="[^"]{20,}"></noscript>', text)
    assert (TRY / "still.png").read_bytes()[:4] == b"\x89PNG" and "Microsoft" in (TRY / "LICENSE").read_text()


def test_no_heading_of_the_page_takes_the_name_of_the_box():
    """Sphinx gives every section an id made from its heading; the script would empty that section."""
    text = (BOOK / "try.md").read_text()
    slugs = {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in re.findall(r"^#+ (.+)$", text, re.M)}
    boxes = re.findall(r'<div id="([^"]+)">', text)
    assert boxes == ["try-page"] and not slugs & set(boxes)
    assert 'getElementById("try-page")' in (TRY / "try.js").read_text()
