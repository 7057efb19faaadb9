// The page "Try it": two ONNX files, the drawing of birds and the network, run here; nothing is sent anywhere.
"use strict";

(function () {
  const folder = new URL(".", document.currentScript.src).href;
  const page = document.getElementById("try-page");
  const POSE = { x: "left to right", y: "up and down", scale: "size", roll: "turn", tilt: "tilt" };
  const CLASSIFIERS = ["stage 3", "stage 4", "stage 5", "joint"];
  let about, birds, network, code, running = false, again = false;

  const make = (name, settings = {}, ...children) => {
    const element = Object.assign(document.createElement(name), settings);
    element.append(...children);
    return element;
  };

  // Where each name's numbers begin in the vector of random numbers.
  function places() {
    const found = {};
    let start = 0;
    for (const [name, count] of Object.entries(about.noise)) { found[name] = start; start += count; }
    return found;
  }

  // Numbers in [0, 1) that follow from a seed: mulberry32.
  function numbers(seed, count) {
    const found = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      seed = (seed + 0x6D2B79F5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      found[i] = Math.min(((t ^ (t >>> 14)) >>> 0) / 4294967296, 0.99999);
    }
    return found;
  }

  async function draw(values, noise) { // -> Uint8Array (3 * S * S), red first
    const feeds = {
      code: new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]),
      noise: new ort.Tensor("float32", new Float32Array(noise), [1, noise.length]),
    };
    return (await birds.run(feeds)).image.data;
  }

  async function predict(image) { // -> probabilities (K), of each classifier (4 * K), maps (3 * h * w)
    const images = new ort.Tensor("uint8", new Uint8Array(image), [1, 3, about.size, about.size]);
    const found = await network.run({ images });
    return { mean: found.probabilities.data, each: found.stage_probabilities.data, maps: found.maps.data, shape: found.maps.dims };
  }

  function paint(canvas, image, map, shape) { // an image, or a map over the grey image
    const size = about.size, pixels = new ImageData(size, size), area = size * size;
    const top = map ? Math.max(...map) : 1;
    for (let i = 0; i < area; i++) {
      let colour = [image[i], image[area + i], image[2 * area + i]];
      if (map) {
        const row = Math.floor(Math.floor(i / size) * shape[0] / size), column = Math.floor((i % size) * shape[1] / size);
        const heat = map[row * shape[1] + column] / top, grey = 0.35 * (colour[0] + colour[1] + colour[2]) / 3;
        colour = [grey + 165 * heat, grey + 110 * heat * heat, grey + 60 * heat * (1 - heat)];
      }
      pixels.data.set([...colour, 255], 4 * i);
    }
    canvas.width = canvas.height = size;
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  function best(probabilities) {
    let place = 0;
    probabilities.forEach((value, i) => { if (value > probabilities[place]) place = i; });
    return place;
  }

  const species = () => about.codes.findIndex(known => known.every((value, i) => value === code[i]));
  const slider = name => Number(page.querySelector(`#try-${name}`).value);

  function noise() {
    const found = numbers(slider("surroundings"), about.noise_size), at = places();
    for (const name of Object.keys(POSE)) found[at[name]] = Math.min(slider(name) / 100, 0.99999);
    found[at.flip] = page.querySelector("#try-flip").checked ? 0.99 : 0.01;
    return found;
  }

  async function update() {
    if (running) { again = true; return; } // one at a time; the last position counts
    running = true;
    do {
      again = false;
      const image = await draw(code, noise()), found = await predict(image), count = about.classes.length;
      paint(page.querySelector("#try-bird"), image);
      const [stages, h, w] = found.shape.slice(1);
      for (let stage = 0; stage < stages; stage++) {
        const map = found.maps.slice(stage * h * w, (stage + 1) * h * w);
        paint(page.querySelector(`#try-map-${stage + 3}`), image, map, [h, w]);
      }
      CLASSIFIERS.forEach((name, i) => {
        const own = found.each.slice(i * count, (i + 1) * count), place = best(own);
        page.querySelector(`#try-said-${i}`).textContent = `${about.classes[place]}, ${Math.round(100 * own[place])} %`;
      });
      const place = best(found.mean), drawn = species();
      const truth = drawn < 0 ? "no species of the twenty has these parts" : drawn === place ? "right" : `it is a ${about.classes[drawn]}`;
      page.querySelector("#try-mean").textContent =
        `The mean of the four says ${about.classes[place]}, ${Math.round(100 * found.mean[place])} %: ${truth}.`;
    } while (again);
    running = false;
    window.tryIt.updates += 1;
  }

  function labelled(text, control) {
    return make("label", { htmlFor: control.id }, make("span", { textContent: text }), control);
  }

  function select(id, names, change) {
    const control = make("select", { id }, ...names.map((name, i) => make("option", { value: i, textContent: name })));
    control.addEventListener("change", change);
    return control;
  }

  function range(name, text, low, high, value) {
    const control = make("input", { id: `try-${name}`, type: "range", min: low, max: high, value });
    control.addEventListener("input", update);
    return labelled(text, control);
  }

  function showCode() {
    Object.keys(about.attributes).forEach((name, i) => { page.querySelector(`#try-part-${i}`).value = code[i]; });
    const drawn = species();
    page.querySelector("#try-species").value = drawn < 0 ? "" : drawn;
  }

  function build() {
    const set = (i, value) => { code[i] = value; showCode(); update(); };
    const whole = select("try-species", about.classes, event => { code = [...about.codes[event.target.value]]; showCode(); update(); });
    const parts = Object.entries(about.attributes).map(([name, values], i) =>
      labelled(name, select(`try-part-${i}`, values, event => set(i, Number(event.target.value)))));
    const flip = make("input", { id: "try-flip", type: "checkbox" });
    flip.addEventListener("change", update);
    const canvas = (id, name) => make("figure", {}, make("canvas", { id, role: "img", ariaLabel: name }), make("figcaption", { textContent: name }));
    page.replaceChildren(
      make("div", { className: "try-pictures" }, canvas("try-bird", "the bird"),
        ...[3, 4, 5].map(stage => canvas(`try-map-${stage}`, `map of stage ${stage}`))),
      make("p", { id: "try-mean", ariaLive: "polite" }),
      make("dl", { className: "try-said" }, ...CLASSIFIERS.flatMap((name, i) =>
        [make("dt", { textContent: name }), make("dd", { id: `try-said-${i}` })])),
      make("fieldset", {}, make("legend", { textContent: "Pose and surroundings" }),
        ...Object.entries(POSE).map(([name, text]) => range(name, text, 0, 100, 50)),
        range("surroundings", "surroundings", 0, 99, 7), labelled("looks to the other side", flip)),
      make("fieldset", {}, make("legend", { textContent: "Species and parts" }), labelled("species", whole), ...parts));
    code = [...about.codes[3]];
    showCode();
  }

  async function start() {
    ort.env.wasm.wasmPaths = folder;
    ort.env.wasm.numThreads = 1; // several need headers that plain servers of files do not send
    about = await (await fetch(folder + "about.json")).json();
    [birds, network] = await Promise.all(["birds", "network"].map(name => ort.InferenceSession.create(`${folder}${name}.onnx`)));
    build();
    await update();
    window.tryIt.ready = true;
  }

  window.tryIt = { ready: false, failed: null, updates: 0, draw, predict };
  start().catch(error => {
    window.tryIt.failed = String(error);
    const hint = location.protocol === "file:" ?
      "A page that was opened as a file may not read other files. Run python -m http.server in the folder of the book and open http://localhost:8000." :
      `This page could not start: ${error}`;
    page.querySelector("p").textContent = hint;
  });
})();
