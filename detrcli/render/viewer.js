// The image viewer: ground truth, predictions, matching, costs and attention. All names are inserted as text.
"use strict";
const SVG = "http://www.w3.org/2000/svg";
const BOX_STEPS = 8192, SCORE_STEPS = 65535, WEIGHT_STEPS = 32767, COST_STEPS = 1000; // as in viewer.py

function make(tag, attributes, parent, text) {
  const svg = tag === "svg" || (parent && parent.namespaceURI === SVG);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

const bytesOf = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

async function unpacked(text, ArrayType) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new ArrayType(await new Response(stream).arrayBuffer());
}

// Draws a mask in compressed COCO run lengths, column by column, on a canvas: filled, with an outline.
function maskCanvas(parent, { size: [height, width], counts }, [red, green, blue]) {
  const canvas = make("canvas", { class: "mask" }, parent), inside = new Uint8Array(width * height), runs = [];
  for (let i = 0; i < counts.length;) {
    let value = 0, shift = 0, char;
    do {
      char = counts.charCodeAt(i++) - 48;
      value |= (char & 31) << shift;
      shift += 5;
    } while (char & 32);
    if (char & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  let position = 0;
  runs.forEach((run, i) => { if (i % 2) inside.fill(1, position, position + run); position += run; });
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  for (let x = 0; x < width; x++) for (let y = 0; y < height; y++) {
    const k = x * height + y;
    if (!inside[k]) continue;
    const interior = x && y && x < width - 1 && y < height - 1 && inside[k - 1] && inside[k + 1] && inside[k - height] && inside[k + height];
    pixels.data.set([red, green, blue, interior ? 90 : 255], 4 * (y * width + x));
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}
const ANNOTATED = [240, 228, 66], PREDICTED = [255, 122, 46];

class Viewer {
  // `names` are those of the classes; `colors` are the 256 colors of the heat map in base64.
  constructor(parent, names, colors) {
    this.names = names;
    this.colors = bytesOf(colors);
    this.layer = this.head = 0;
    this.opacity = 0.75;
    this.shown = { truth: true, predictions: true, pairs: true, attention: true, masks: true };
    this.root = make("div", { class: "viewer" }, parent);
    const left = make("div", {}, this.root), right = make("div", {}, this.root);
    this.stage = make("div", { class: "stage", tabindex: 0, "aria-label": "image" }, left);
    this.image = make("img", { alt: "" }, this.stage);
    this.heat = make("canvas", {}, this.stage);
    this.masks = make("div", { class: "masks" }, this.stage);
    this.boxes = make("svg", { preserveAspectRatio: "none" }, this.stage);
    this.bar = make("div", { class: "bar" }, left);
    this.hover = make("div", { class: "bar hover" }, left);
    const keys = [["↑ ↓", "layer"], ["[ ]", "head"], ["p", "image alone"], ["o", "opacity"], ["t", "ground truth"],
      ["d", "predictions"], ["m", "matching"], ["Tab", "lists"]];
    const line = make("p", { class: "keys" }, left);
    for (const [key, action] of keys) {
      make("kbd", {}, line, key);
      line.append(` ${action}  `);
    }
    this.said = make("p", { class: "said", "aria-live": "polite" }, right);
    const lists = make("div", { class: "lists" }, right);
    this.objectList = make("div", {}, this.titled(lists, "objects"));
    this.queryList = make("div", {}, this.titled(lists, "queries, by score"));
    for (const list of [this.objectList, this.queryList]) list.parentNode.style.border = "0";
    this.costs = make("div", { class: "costs" }, right);
    this.controls();
    this.stage.onclick = (event) => this.click(event);
    this.stage.onmousemove = (event) => this.showShare(event);
  }

  titled(parent, title) {
    const box = make("div", {}, parent);
    make("h3", {}, box, title);
    return box;
  }

  controls() {
    const range = (name, attributes, act) => {
      const label = make("label", {}, this.bar, `${name} `), input = make("input", { type: "range", ...attributes }, label);
      input.oninput = () => { act(input.valueAsNumber); this.draw(); };
      return [input, make("output", {}, label)];
    };
    [this.layerInput, this.layerName] = range("layer", { min: 0, step: 1 }, (value) => (this.layer = value));
    const label = make("label", {}, this.bar, "head ");
    this.headInput = make("select", {}, label);
    this.headInput.onchange = () => { this.head = this.headInput.selectedIndex; this.draw(); };
    [this.opacityInput] = range("opacity", { min: 0, max: 1, step: 0.05, value: this.opacity }, (value) => (this.opacity = value));
    this.checkboxes = {};
    for (const [key, name] of [["truth", "ground truth"], ["predictions", "predictions"], ["pairs", "matching"], ["attention", "attention"], ["masks", "masks"]]) {
      const box = make("label", {}, this.bar), input = make("input", { type: "checkbox" }, box);
      box.append(` ${name}`);
      input.checked = true;
      input.onchange = () => { this.shown[key] = input.checked; this.draw(); };
      this.checkboxes[key] = input;
    }
  }

  // Shows the view of an image; the selection is { object: n } or { query: q }.
  show(view, selection) {
    this.view = view;
    this.attention = null;
    this.layers = view.layers.map((layer) => ({
      ...layer,
      boxes: new Int16Array(bytesOf(layer.boxes).buffer),
      scores: new Uint16Array(bytesOf(layer.scores).buffer),
      labels: new Int16Array(bytesOf(layer.labels).buffer),
    }));
    this.last = this.layer = this.layers.length - 1;
    this.image.src = view.url;
    this.image.alt = view.file;
    this.stage.style.aspectRatio = `${view.width} / ${view.height}`;
    this.boxes.setAttribute("viewBox", `0 0 ${view.width} ${view.height}`);
    this.layerInput.max = this.last;
    this.layerInput.parentNode.hidden = this.last === 0;
    this.checkboxes.masks.parentNode.hidden = !Object.keys(view.masks ?? {}).length;
    this.fillLists();
    this.select(selection ?? (view.targets.length ? { object: 0 } : { query: this.order[0] }));
  }

  // Adds attention and costs, which are loaded later.
  async addAttention(attention) {
    const view = this.view;
    const maps = attention.maps ? await unpacked(attention.maps, Uint8Array) : null;
    const costs = attention.costs ? await unpacked(attention.costs.values, Int16Array) : null;
    const points = attention.points ? await unpacked(attention.points.values, Int16Array) : null;
    if (this.view !== view) return; // another image was opened in the meantime
    this.attention = { ...attention, maps, costs: costs && { ...attention.costs, values: costs }, points: points && { ...attention.points, values: points } };
    this.headInput.replaceChildren();
    for (let head = 0; head <= (attention.heads ?? 0); head++) make("option", {}, this.headInput, head ? head - 1 : "mean");
    this.head = 0;
    this.headInput.parentNode.hidden = !attention.maps;
    this.draw();
  }

  box(layer, query) {
    return [...this.layers[layer].boxes.subarray(4 * query, 4 * query + 4)].map((value) => value / BOX_STEPS);
  }
  score(layer, query) { return this.layers[layer].scores[query] / SCORE_STEPS; }
  prediction(layer, query) {
    const best = `${this.names[this.layers[layer].labels[query]]} ${this.score(layer, query).toFixed(2)}`;
    return this.layers[layer].noObject.includes(query) ? `no object, at best ${best}` : best;
  }
  pair(test) { return (this.view.pairs[this.layer] ?? []).find(test); }
  pairOfObject(n) { return this.pair((pair) => pair.target === n); }
  pairOfQuery(query) { return this.pair((pair) => pair.query === query); }

  get query() {
    if (this.selection.query !== undefined) return this.selection.query;
    return this.pairOfObject(this.selection.object)?.query ?? this.view.targets[this.selection.object]?.closest ?? null;
  }

  fillLists() {
    const { targets } = this.view, queries = this.layers[this.last].scores.length;
    this.order = [...Array(queries).keys()].sort((a, b) => this.score(this.last, b) - this.score(this.last, a));
    this.objectList.replaceChildren();
    targets.forEach((target, n) => {
      const button = make("button", { "data-object": n }, this.objectList, `${n} ${target.label}${target.outcome ? `: ${target.outcome}` : ""}`);
      button.onclick = () => this.select({ object: n });
    });
    if (!targets.length) make("p", { class: "keys" }, this.objectList, "none");
    this.queryList.replaceChildren();
    for (const query of this.order) {
      const button = make("button", { "data-query": query }, this.queryList);
      button.onclick = () => this.select({ query });
    }
  }

  select(selection) {
    this.selection = selection;
    this.draw();
    const pressed = this.root.querySelector("[aria-pressed=true]");
    if (pressed) pressed.parentNode.scrollTop = pressed.offsetTop - pressed.parentNode.offsetTop - 40;
  }

  inPixels([cx, cy, w, h]) {
    const { width, height } = this.view;
    return { x: (cx - w / 2) * width, y: (cy - h / 2) * height, width: w * width, height: h * height };
  }

  // The boxes over the image: box, kind, text, and what a click on it selects.
  marks() {
    const { targets, threshold, falsePositives } = this.view, marks = [], selected = this.query;
    const text = (query) => `q${query} ${this.names[this.layers[this.layer].labels[query]]}`;
    if (this.shown.truth) targets.forEach((target, n) =>
      marks.push({ box: target.box, kind: target.missed && this.layer === this.last ? "missed" : "truth", text: `${n} ${target.label}`, selection: { object: n } }));
    if (this.shown.predictions) for (const query of this.order) {
      if (query === selected || this.score(this.layer, query) < threshold || this.layers[this.layer].noObject.includes(query)) continue;
      const wrong = this.layer === this.last && falsePositives[query];
      const kind = wrong ? "false-positive" : this.pairOfQuery(query) || !this.view.pairs.length ? "right" : "other";
      marks.push({ box: this.box(this.layer, query), kind, text: text(query), selection: { query } });
    }
    if (selected !== null) marks.push({ box: this.box(this.layer, selected), kind: "chosen", text: text(selected), selection: { query: selected } });
    return marks;
  }

  draw() {
    const { width, height } = this.view;
    this.layerInput.value = this.layer;
    this.layerName.textContent = ` ${this.layer} of 0 to ${this.last}`;
    this.headInput.selectedIndex = this.head;
    this.opacityInput.value = this.opacity;
    for (const [key, input] of Object.entries(this.checkboxes)) input.checked = this.shown[key];
    this.boxes.replaceChildren();
    this.drawn = this.marks();
    for (const { box, kind } of this.drawn) make("rect", { ...this.inPixels(box), class: kind }, this.boxes);
    if (this.shown.pairs) for (const pair of this.view.pairs[this.layer] ?? []) {
      if (this.shown.predictions && this.score(this.layer, pair.query) < this.view.threshold && pair.query !== this.query) continue;
      const [ax, ay] = this.view.targets[pair.target].box, [bx, by] = this.box(this.layer, pair.query);
      make("line", { class: "pair", x1: ax * width, y1: ay * height, x2: bx * width, y2: by * height }, this.boxes);
    }
    this.drawAttention();
    this.drawMasks();
    this.drawLabels();
    for (const button of this.root.querySelectorAll(".lists button")) {
      const { query, object } = button.dataset;
      button.setAttribute("aria-pressed", query !== undefined ? Number(query) === this.query : Number(object) === this.selection.object);
      if (query !== undefined) button.textContent = `${query} ${this.prediction(this.layer, Number(query))}`;
    }
    this.said.textContent = this.description();
    this.drawCosts();
  }

  // Labels beside their boxes, the selected one first; a label without a free place is omitted.
  drawLabels() {
    const { width, height } = this.view, size = Math.max(width, height) / 38, taken = [];
    for (const { box, text } of [...this.drawn].reverse()) {
      const { x, y, height: boxHeight } = this.inPixels(box), length = 0.62 * size * (text.length + 1);
      const left = Math.min(Math.max(0, x), Math.max(0, width - length)) + size / 4;
      const free = (row) => row >= size && row <= height && !taken.some((other) =>
        left < other.left + other.length && other.left < left + length && Math.abs(row - other.row) < 1.2 * size);
      const row = [y - size / 3, y + boxHeight + size, y + 1.2 * size].find(free);
      if (row === undefined) continue;
      taken.push({ left, length, row });
      make("text", { x: left, y: row, "font-size": size }, this.boxes, text);
    }
  }

  // The position of the selected query among those with attention, or -1.
  get attended() { return this.attention?.maps ? this.attention.queries.indexOf(this.query) : -1; }

  map() {
    const { cells: [h, w], heads } = this.attention, i = (this.attended * this.layers.length + this.layer) * (heads + 1) + this.head;
    return { values: this.attention.maps.subarray(i * h * w, (i + 1) * h * w), most: this.attention.most[i] };
  }

  drawAttention() {
    this.heat.hidden = !this.shown.attention || this.attended < 0;
    if (this.heat.hidden) return;
    const { cells: [h, w], window: [left, top, right, bottom] } = this.attention, { values } = this.map();
    [this.heat.width, this.heat.height] = [w, h];
    Object.assign(this.heat.style, {
      left: `${(-100 * left) / (right - left)}%`, top: `${(-100 * top) / (bottom - top)}%`,
      width: `${(100 * w) / (right - left)}%`, height: `${(100 * h) / (bottom - top)}%`,
    });
    const context = this.heat.getContext("2d"), pixels = context.createImageData(w, h);
    values.forEach((value, i) => {
      pixels.data.set(this.colors.subarray(3 * value, 3 * value + 3), 4 * i);
      pixels.data[4 * i + 3] = 255 * this.opacity * Math.min(1, 0.3 + value / 160);
    });
    context.putImageData(pixels, 0, 0);
    if (this.attention.points) this.drawPoints();
  }

  // The masks of the selection in the last layer: the annotated mask of the object, and the mask of its query.
  drawMasks() {
    this.masks.replaceChildren();
    if (!this.shown.masks || this.layer !== this.last) return;
    const pair = this.pairOfQuery(this.query), annotated = this.view.targets[this.selection.object ?? pair?.target]?.mask;
    const predicted = this.view.masks?.[this.query];
    if (annotated) maskCanvas(this.masks, annotated, ANNOTATED);
    if (predicted) maskCanvas(this.masks, predicted, PREDICTED);
  }

  // The sampled points of deformable attention.
  drawPoints() {
    const { width, height } = this.view, { count, values } = this.attention.points, heads = this.attention.heads;
    const start = (this.attended * this.layers.length + this.layer) * heads;
    for (let head = 0; head < heads; head++) {
      if (this.head && head !== this.head - 1) continue;
      for (let i = 0; i < count; i++) {
        const [x, y, weight] = values.subarray(3 * ((start + head) * count + i), 3 * ((start + head) * count + i) + 3);
        const radius = Math.sqrt(weight / WEIGHT_STEPS) * Math.max(width, height) / 60;
        make("circle", { class: "point", cx: (x / BOX_STEPS) * width, cy: (y / BOX_STEPS) * height, r: radius }, this.boxes);
      }
    }
  }

  description() {
    const parts = [], { object } = this.selection, query = this.query;
    if (object !== undefined && this.view.targets[object]) {
      const target = this.view.targets[object];
      const id = target.id === null ? "" : `, annotation ${target.id}`;
      parts.push(`Object ${object}: ${target.label}${id}${target.outcome ? `, ${target.outcome}` : ""}.`);
    }
    if (query === null) return [...parts, "It is matched to no query."].join(" ");
    parts.push(`Query ${query} predicts ${this.prediction(this.layer, query)}.`);
    const falsePositive = this.layer === this.last && this.view.falsePositives[query];
    if (falsePositive) parts.push(`False positive: ${falsePositive}.`);
    if (this.view.pairs.length) {
      const pair = this.pairOfQuery(query);
      if (pair) {
        const margin = pair.margin === null ? "" : `, margin ${pair.margin.toFixed(3)}`;
        const runnerUp = pair.runner_up === null ? "no runner-up" : `runner-up: query ${pair.runner_up}`;
        const decided = pair.decided === null ? "" : `, decided by ${pair.decided}`;
        parts.push(`Matched to object ${pair.target} (${this.view.targets[pair.target].label}); ${runnerUp}${margin}${decided}.`);
      } else parts.push("Unmatched.");
    }
    if (this.attended >= 0) parts.push(`The largest share of its attention in a cell is ${(100 * this.map().most).toPrecision(2)}%.`);
    else if (this.attention?.maps) parts.push("The attention of this query was not saved.");
    return parts.join(" ");
  }

  // The weighted costs of the selected object or query, the lowest first.
  drawCosts() {
    this.costs.replaceChildren();
    const costs = this.attention?.costs, { targets } = this.view;
    if (!costs || !targets.length) return;
    const { object } = this.selection, queries = this.order.length, N = targets.length, T = costs.terms.length;
    const value = (term, query, n) => costs.values[((this.layer * T + term) * queries + query) * N + n] / COST_STEPS;
    const rows = (object !== undefined ? [...Array(queries).keys()].map((query) => [query, object]) : targets.map((_, n) => [this.query, n]))
      .sort((a, b) => value(T - 1, ...a) - value(T - 1, ...b)).slice(0, 8);
    make("h3", {}, this.costs, object !== undefined ? `lowest weighted costs of object ${object}` : `weighted costs of query ${this.query}`);
    const table = make("table", {}, this.costs), head = make("tr", {}, table);
    for (const name of [object !== undefined ? "query" : "object", ...costs.terms]) make("th", {}, head, name);
    for (const [query, n] of rows) {
      const matched = this.pairOfQuery(query)?.target === n;
      const line = make("tr", { class: matched ? "matched" : "" }, table);
      make("td", {}, line, object !== undefined ? `${query}${matched ? " ✓" : ""}` : `${n} ${targets[n].label}${matched ? " ✓" : ""}`);
      for (let term = 0; term < T; term++) make("td", {}, line, value(term, query, n).toFixed(3));
      line.onclick = () => this.select(object !== undefined ? { query } : { object: n });
    }
  }

  // The position of the mouse in [0, 1] of the image.
  at(event) {
    const stage = this.stage.getBoundingClientRect();
    return [(event.clientX - stage.left) / stage.width, (event.clientY - stage.top) / stage.height];
  }

  // Selects the smallest box there; another click in the same place selects the next larger box.
  click(event) {
    const [x, y] = this.at(event);
    const hits = this.drawn.filter(({ box: [cx, cy, w, h] }) => Math.abs(x - cx) <= w / 2 && Math.abs(y - cy) <= h / 2)
      .sort((a, b) => a.box[2] * a.box[3] - b.box[2] * b.box[3]).map(({ selection }) => selection);
    const same = (a, b) => a.object === b.object && a.query === b.query;
    const distinct = hits.filter((hit, i) => hits.findIndex((other) => same(hit, other)) === i);
    if (distinct.length) this.select(distinct[(distinct.findIndex((hit) => same(hit, this.selection)) + 1) % distinct.length]);
  }

  showShare(event) {
    if (this.attended < 0) return;
    const [x, y] = this.at(event), { cells: [h, w], window: [left, top, right, bottom] } = this.attention, { values, most } = this.map();
    const column = Math.floor(left + x * (right - left)), row = Math.floor(top + y * (bottom - top));
    if (column < 0 || row < 0 || column >= w || row >= h) return;
    const share = (values[row * w + column] / 255) * most;
    this.hover.textContent = `cell ${column},${row} of ${w} x ${h}: ${(100 * share).toFixed(2)}% of the attention`;
  }

  // Handles a key, and returns whether it is one of the viewer's.
  key(name) {
    const heads = this.attention?.maps ? this.attention.heads + 1 : 1;
    if (name === "ArrowUp") this.layer = Math.min(this.last, this.layer + 1);
    else if (name === "ArrowDown") this.layer = Math.max(0, this.layer - 1);
    else if (name === "]") this.head = (this.head + 1) % heads;
    else if (name === "[") this.head = (this.head + heads - 1) % heads;
    else if (name === "o") this.opacity = this.opacity > 0.5 ? 0.3 : this.opacity > 0 ? 0 : 0.75;
    else if (name === "p") {
      const alone = Object.values(this.shown).some(Boolean);
      for (const key of Object.keys(this.shown)) this.shown[key] = !alone;
    } else if (name === "t") this.shown.truth = !this.shown.truth;
    else if (name === "d") this.shown.predictions = !this.shown.predictions;
    else if (name === "m") this.shown.pairs = !this.shown.pairs;
    else return false;
    this.draw();
    return true;
  }
}

// Whether a key belongs to the element that has the focus.
const ownsKeys = (element) => element.tagName === "SELECT" || element.type === "range";

// Shows the viewer of a page with a single image.
function showPage() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const viewer = new Viewer(document.getElementById("viewer"), data.names, data.colors);
  window.viewer = viewer;
  viewer.show(data.view, data.selection);
  viewer.addAttention(data.attention).then(() => (document.body.dataset.ready = "yes"));
  document.onkeydown = (event) => {
    if (!ownsKeys(event.target) && viewer.key(event.key)) event.preventDefault();
  };
}
