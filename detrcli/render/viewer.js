// Shows one image: ground truth, predictions, matching, costs, and where a query looks. All names go in as text.
"use strict";
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes, parent, text) {
  const drawn = tag === "svg" || (parent && parent.namespaceURI === SVG);
  const node = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

const bytesOf = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));

async function unpacked(text, Kind) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Kind(await new Response(stream).arrayBuffer());
}

// A mask in compressed run lengths, column by column, as a canvas in one colour: filled, with its edge.
function maskCanvas(parent, { size: [height, width], counts }, [red, green, blue]) {
  const canvas = make("canvas", { class: "mask" }, parent), inside = new Uint8Array(width * height), runs = [];
  for (let i = 0; i < counts.length;) {
    let value = 0, shift = 0, sign;
    do {
      sign = counts.charCodeAt(i++) - 48;
      value |= (sign & 31) << shift;
      shift += 5;
    } while (sign & 32);
    if (sign & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  let place = 0;
  runs.forEach((run, i) => { if (i % 2) inside.fill(1, place, place + run); place += run; });
  [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d"), shown = pen.createImageData(width, height);
  for (let x = 0; x < width; x++) for (let y = 0; y < height; y++) {
    const k = x * height + y;
    if (!inside[k]) continue;
    const deep = x && y && x < width - 1 && y < height - 1 && inside[k - 1] && inside[k + 1] && inside[k - height] && inside[k + height];
    shown.data.set([red, green, blue, deep ? 90 : 255], 4 * (y * width + x));
  }
  pen.putImageData(shown, 0, 0);
  return canvas;
}
const ANNOTATED = [240, 228, 66], PREDICTED = [255, 122, 46];

class Viewer {
  // `names` are the classes; `colours` are 256 steps of the heat map, as base64.
  constructor(parent, names, colours) {
    this.names = names;
    this.colours = bytesOf(colours);
    this.layer = this.head = 0;
    this.opacity = 0.75;
    this.shown = { truth: true, predictions: true, pairs: true, attention: true, masks: true };
    this.root = make("div", { class: "viewer" }, parent);
    const left = make("div", {}, this.root), right = make("div", {}, this.root);
    this.stage = make("div", { class: "stage", tabindex: 0, "aria-label": "the picture" }, left);
    this.image = make("img", { alt: "" }, this.stage);
    this.heat = make("canvas", {}, this.stage);
    this.masks = make("div", { class: "masks" }, this.stage);
    this.boxes = make("svg", { preserveAspectRatio: "none" }, this.stage);
    this.bar = make("div", { class: "bar" }, left);
    this.hover = make("div", { class: "bar hover" }, left);
    const keys = [["↑ ↓", "layer"], ["[ ]", "head"], ["p", "plain picture"], ["o", "opacity"], ["t", "ground truth"],
      ["d", "predictions"], ["m", "matching"], ["Tab", "lists"]];
    const line = make("p", { class: "keys" }, left);
    for (const [key, what] of keys) {
      make("kbd", {}, line, key);
      line.append(` ${what}  `);
    }
    this.said = make("p", { class: "said", "aria-live": "polite" }, right);
    const lists = make("div", { class: "lists" }, right);
    this.objectList = make("div", {}, this.titled(lists, "objects"));
    this.queryList = make("div", {}, this.titled(lists, "queries, by score"));
    for (const list of [this.objectList, this.queryList]) list.parentNode.style.border = "0";
    this.costs = make("div", { class: "costs" }, right);
    this.controls();
    this.stage.onclick = (event) => this.click(event);
    this.stage.onmousemove = (event) => this.value(event);
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
    this.boxesShown = {};
    for (const [key, name] of [["truth", "ground truth"], ["predictions", "predictions"], ["pairs", "matching"], ["attention", "attention"], ["masks", "masks"]]) {
      const box = make("label", {}, this.bar), input = make("input", { type: "checkbox" }, box);
      box.append(` ${name}`);
      input.checked = true;
      input.onchange = () => { this.shown[key] = input.checked; this.draw(); };
      this.boxesShown[key] = input;
    }
  }

  // An image with what is known of it; `chosen` is { object: n } or { query: q }.
  show(piece, chosen) {
    this.piece = piece;
    this.inside = null;
    this.read = piece.layers.map((layer) => ({
      ...layer,
      boxes: new Int16Array(bytesOf(layer.boxes).buffer),
      scores: new Uint16Array(bytesOf(layer.scores).buffer),
      labels: new Int16Array(bytesOf(layer.labels).buffer),
    }));
    this.last = this.layer = this.read.length - 1;
    this.image.src = piece.picture;
    this.image.alt = piece.file;
    this.stage.style.aspectRatio = `${piece.width} / ${piece.height}`;
    this.boxes.setAttribute("viewBox", `0 0 ${piece.width} ${piece.height}`);
    this.layerInput.max = this.last;
    this.layerInput.parentNode.hidden = this.last === 0;
    this.boxesShown.masks.parentNode.hidden = !Object.keys(piece.masks ?? {}).length;
    this.lists();
    this.choose(chosen ?? (piece.targets.length ? { object: 0 } : { query: this.order[0] }));
  }

  // The costs, and where queries look: loaded after the rest.
  async look(inside) {
    const piece = this.piece;
    const maps = inside.maps ? await unpacked(inside.maps, Uint8Array) : null;
    const costs = inside.costs ? await unpacked(inside.costs.values, Int16Array) : null;
    const points = inside.points ? await unpacked(inside.points.values, Int16Array) : null;
    if (this.piece !== piece) return; // another image was chosen meanwhile
    this.inside = { ...inside, maps, costs: costs && { ...inside.costs, values: costs }, points: points && { ...inside.points, values: points } };
    this.headInput.replaceChildren();
    for (let head = 0; head <= (inside.heads ?? 0); head++) make("option", {}, this.headInput, head ? head - 1 : "mean");
    this.head = 0;
    this.headInput.parentNode.hidden = !inside.maps;
    this.draw();
  }

  box(layer, query) {
    const [cx, cy, w, h] = this.read[layer].boxes.subarray(4 * query, 4 * query + 4);
    return [cx / 8192, cy / 8192, w / 8192, h / 8192];
  }
  score(layer, query) { return this.read[layer].scores[query] / 65535; }
  prediction(layer, query) {
    const best = `${this.names[this.read[layer].labels[query]]} ${this.score(layer, query).toFixed(2)}`;
    return this.read[layer].nothing.includes(query) ? `no object, at best ${best}` : best;
  }
  pair(test) { return (this.piece.pairs[this.layer] ?? []).find(test); }
  pairOfObject(n) { return this.pair((pair) => pair.target === n); }
  pairOfQuery(query) { return this.pair((pair) => pair.query === query); }

  get query() {
    if (this.chosen.query !== undefined) return this.chosen.query;
    return this.pairOfObject(this.chosen.object)?.query ?? this.piece.targets[this.chosen.object]?.closest ?? null;
  }

  lists() {
    const { targets } = this.piece, queries = this.read[this.last].scores.length;
    this.order = [...Array(queries).keys()].sort((a, b) => this.score(this.last, b) - this.score(this.last, a));
    this.objectList.replaceChildren();
    targets.forEach((target, n) => {
      const button = make("button", { "data-object": n }, this.objectList, `${n} ${target.label}${target.fate ? `: ${target.fate}` : ""}`);
      button.onclick = () => this.choose({ object: n });
    });
    if (!targets.length) make("p", { class: "keys" }, this.objectList, "none");
    this.queryList.replaceChildren();
    for (const query of this.order) {
      const button = make("button", { "data-query": query }, this.queryList);
      button.onclick = () => this.choose({ query });
    }
  }

  choose(chosen) {
    this.chosen = chosen;
    this.draw();
    const pressed = this.root.querySelector("[aria-pressed=true]");
    if (pressed) pressed.parentNode.scrollTop = pressed.offsetTop - pressed.parentNode.offsetTop - 40;
  }

  inPixels([cx, cy, w, h]) {
    const { width, height } = this.piece;
    return { x: (cx - w / 2) * width, y: (cy - h / 2) * height, width: w * width, height: h * height };
  }

  // What is drawn over the picture: box, kind, text, and what a click on it chooses.
  marks() {
    const { targets, threshold, alarms } = this.piece, marks = [], chosen = this.query;
    const text = (query) => `q${query} ${this.names[this.read[this.layer].labels[query]]}`;
    if (this.shown.truth) targets.forEach((target, n) =>
      marks.push({ box: target.box, kind: target.missed && this.layer === this.last ? "missed" : "truth", text: `${n} ${target.label}`, choice: { object: n } }));
    if (this.shown.predictions) for (const query of this.order) {
      if (query === chosen || this.score(this.layer, query) < threshold || this.read[this.layer].nothing.includes(query)) continue;
      const wrong = this.layer === this.last && alarms[query];
      const kind = wrong ? "alarm" : this.pairOfQuery(query) || !this.piece.pairs.length ? "right" : "other";
      marks.push({ box: this.box(this.layer, query), kind, text: text(query), choice: { query } });
    }
    if (chosen !== null) marks.push({ box: this.box(this.layer, chosen), kind: "chosen", text: text(chosen), choice: { query: chosen } });
    return marks;
  }

  draw() {
    const { width, height } = this.piece;
    this.layerInput.value = this.layer;
    this.layerName.textContent = ` ${this.layer} of 0 to ${this.last}`;
    this.headInput.selectedIndex = this.head;
    this.opacityInput.value = this.opacity;
    for (const [key, input] of Object.entries(this.boxesShown)) input.checked = this.shown[key];
    this.boxes.replaceChildren();
    this.drawn = this.marks();
    for (const { box, kind } of this.drawn) make("rect", { ...this.inPixels(box), class: kind }, this.boxes);
    if (this.shown.pairs) for (const pair of this.piece.pairs[this.layer] ?? []) {
      if (this.shown.predictions && this.score(this.layer, pair.query) < this.piece.threshold && pair.query !== this.query) continue;
      const [ax, ay] = this.piece.targets[pair.target].box, [bx, by] = this.box(this.layer, pair.query);
      make("line", { class: "pair", x1: ax * width, y1: ay * height, x2: bx * width, y2: by * height }, this.boxes);
    }
    this.attend();
    this.mask();
    this.label();
    for (const button of this.root.querySelectorAll(".lists button")) {
      const { query, object } = button.dataset;
      button.setAttribute("aria-pressed", query !== undefined ? Number(query) === this.query : Number(object) === this.chosen.object);
      if (query !== undefined) button.textContent = `${query} ${this.prediction(this.layer, Number(query))}`;
    }
    this.said.textContent = this.words();
    this.table();
  }

  // Names beside their boxes, the chosen one first; one without a free place is left out.
  label() {
    const { width, height } = this.piece, size = Math.max(width, height) / 38, taken = [];
    for (const { box, text } of [...this.drawn].reverse()) {
      const { x, y, height: high } = this.inPixels(box), long = 0.62 * size * (text.length + 1);
      const left = Math.min(Math.max(0, x), Math.max(0, width - long)) + size / 4;
      const free = (row) => row >= size && row <= height && !taken.some((other) =>
        left < other.left + other.long && other.left < left + long && Math.abs(row - other.row) < 1.2 * size);
      const row = [y - size / 3, y + high + size, y + 1.2 * size].find(free);
      if (row === undefined) continue;
      taken.push({ left, long, row });
      make("text", { x: left, y: row, "font-size": size }, this.boxes, text);
    }
  }

  // The place of the chosen query among those whose attention is there, or -1.
  get attended() { return this.inside?.maps ? this.inside.queries.indexOf(this.query) : -1; }

  map() {
    const { cells: [h, w], heads } = this.inside, place = (this.attended * this.read.length + this.layer) * (heads + 1) + this.head;
    return { values: this.inside.maps.subarray(place * h * w, (place + 1) * h * w), most: this.inside.most[place] };
  }

  attend() {
    this.heat.hidden = !this.shown.attention || this.attended < 0;
    if (this.heat.hidden) return;
    const { cells: [h, w], window: [left, top, right, bottom] } = this.inside, { values } = this.map();
    [this.heat.width, this.heat.height] = [w, h];
    Object.assign(this.heat.style, {
      left: `${(-100 * left) / (right - left)}%`, top: `${(-100 * top) / (bottom - top)}%`,
      width: `${(100 * w) / (right - left)}%`, height: `${(100 * h) / (bottom - top)}%`,
    });
    const pen = this.heat.getContext("2d"), shown = pen.createImageData(w, h);
    values.forEach((value, i) => {
      shown.data.set(this.colours.subarray(3 * value, 3 * value + 3), 4 * i);
      shown.data[4 * i + 3] = 255 * this.opacity * Math.min(1, 0.3 + value / 160);
    });
    pen.putImageData(shown, 0, 0);
    if (this.inside.points) this.sampled();
  }

  // The masks of what is chosen: the object's as annotated, and that of its query in the last layer.
  mask() {
    this.masks.replaceChildren();
    if (!this.shown.masks || this.layer !== this.last) return;
    const pair = this.pairOfQuery(this.query), annotated = this.piece.targets[this.chosen.object ?? pair?.target]?.mask;
    const predicted = this.piece.masks?.[this.query];
    if (annotated) maskCanvas(this.masks, annotated, ANNOTATED);
    if (predicted) maskCanvas(this.masks, predicted, PREDICTED);
  }

  sampled() {
    const { width, height } = this.piece, { each, values } = this.inside.points, heads = this.inside.heads;
    const start = (this.attended * this.read.length + this.layer) * heads;
    for (let head = 0; head < heads; head++) {
      if (this.head && head !== this.head - 1) continue;
      for (let i = 0; i < each; i++) {
        const [x, y, weight] = values.subarray(3 * ((start + head) * each + i), 3 * ((start + head) * each + i) + 3);
        const radius = Math.sqrt(weight / 32767) * Math.max(width, height) / 60;
        make("circle", { class: "point", cx: (x / 8192) * width, cy: (y / 8192) * height, r: radius }, this.boxes);
      }
    }
  }

  words() {
    const parts = [], { object } = this.chosen, query = this.query;
    if (object !== undefined && this.piece.targets[object]) {
      const target = this.piece.targets[object];
      const id = target.id === null ? "" : `, annotation ${target.id}`;
      parts.push(`Object ${object}: ${target.label}${id}${target.fate ? `, ${target.fate}` : ""}.`);
    }
    if (query === null) return [...parts, "No query is matched to it."].join(" ");
    parts.push(`Query ${query} predicts ${this.prediction(this.layer, query)}.`);
    const alarm = this.layer === this.last && this.piece.alarms[query];
    if (alarm) parts.push(`False alarm: ${alarm}.`);
    if (this.piece.pairs.length) {
      const pair = this.pairOfQuery(query);
      if (pair) {
        const margin = pair.margin === null ? "" : `, margin ${pair.margin.toFixed(3)}`;
        const second = pair.runner_up === null ? "no other query would take it" : `runner-up: query ${pair.runner_up}`;
        const decided = pair.decided === null ? "" : `, decided by ${pair.decided}`;
        parts.push(`Matched to object ${pair.target} (${this.piece.targets[pair.target].label}); ${second}${margin}${decided}.`);
      } else parts.push("Unmatched.");
    }
    if (this.attended >= 0) parts.push(`At most ${(100 * this.map().most).toPrecision(2)}% of its attention lies on a cell.`);
    else if (this.inside?.maps) parts.push("Its attention is not in this report.");
    return parts.join(" ");
  }

  // The weighted costs of the chosen object or query, the cheapest first.
  table() {
    this.costs.replaceChildren();
    const costs = this.inside?.costs, { targets } = this.piece;
    if (!costs || !targets.length) return;
    const { object } = this.chosen, queries = this.order.length, N = targets.length, T = costs.terms.length;
    const value = (term, query, n) => costs.values[((this.layer * T + term) * queries + query) * N + n] / 1000;
    const rows = (object !== undefined ? [...Array(queries).keys()].map((query) => [query, object]) : targets.map((_, n) => [this.query, n]))
      .sort((a, b) => value(T - 1, ...a) - value(T - 1, ...b)).slice(0, 8);
    make("h3", {}, this.costs, object !== undefined ? `what object ${object} costs each query (weighted), the cheapest` : `what each object costs query ${this.query} (weighted)`);
    const table = make("table", {}, this.costs), head = make("tr", {}, table);
    for (const name of [object !== undefined ? "query" : "object", ...costs.terms]) make("th", {}, head, name);
    for (const [query, n] of rows) {
      const matched = this.pairOfQuery(query)?.target === n;
      const line = make("tr", { class: matched ? "matched" : "" }, table);
      make("td", {}, line, object !== undefined ? `${query}${matched ? " ✓" : ""}` : `${n} ${targets[n].label}${matched ? " ✓" : ""}`);
      for (let term = 0; term < T; term++) make("td", {}, line, value(term, query, n).toFixed(3));
      line.onclick = () => this.choose(object !== undefined ? { query } : { object: n });
    }
  }

  at(event) {
    const place = this.stage.getBoundingClientRect();
    return [(event.clientX - place.left) / place.width, (event.clientY - place.top) / place.height];
  }

  // The smallest box there; a click on the same place goes on to the next larger one.
  click(event) {
    const [x, y] = this.at(event);
    const hit = this.drawn.filter(({ box: [cx, cy, w, h] }) => Math.abs(x - cx) <= w / 2 && Math.abs(y - cy) <= h / 2)
      .sort((a, b) => a.box[2] * a.box[3] - b.box[2] * b.box[3]).map(({ choice }) => choice);
    const same = (a, b) => a.object === b.object && a.query === b.query;
    const once = hit.filter((one, i) => hit.findIndex((other) => same(one, other)) === i);
    if (once.length) this.choose(once[(once.findIndex((one) => same(one, this.chosen)) + 1) % once.length]);
  }

  value(event) {
    if (this.attended < 0) return;
    const [x, y] = this.at(event), { cells: [h, w], window: [left, top, right, bottom] } = this.inside, { values, most } = this.map();
    const column = Math.floor(left + x * (right - left)), row = Math.floor(top + y * (bottom - top));
    if (column < 0 || row < 0 || column >= w || row >= h) return;
    const share = (values[row * w + column] / 255) * most;
    this.hover.textContent = `cell ${column},${row} of ${w} x ${h}: ${(100 * share).toFixed(2)}% of the attention`;
  }

  // Whether the key was for the viewer.
  key(name) {
    const heads = this.inside?.maps ? this.inside.heads + 1 : 1;
    if (name === "ArrowUp") this.layer = Math.min(this.last, this.layer + 1);
    else if (name === "ArrowDown") this.layer = Math.max(0, this.layer - 1);
    else if (name === "]") this.head = (this.head + 1) % heads;
    else if (name === "[") this.head = (this.head + heads - 1) % heads;
    else if (name === "o") this.opacity = this.opacity > 0.5 ? 0.3 : this.opacity > 0 ? 0 : 0.75;
    else if (name === "p") {
      const plain = Object.values(this.shown).some(Boolean);
      for (const key of Object.keys(this.shown)) this.shown[key] = !plain;
    } else if (name === "t") this.shown.truth = !this.shown.truth;
    else if (name === "d") this.shown.predictions = !this.shown.predictions;
    else if (name === "m") this.shown.pairs = !this.shown.pairs;
    else return false;
    this.draw();
    return true;
  }
}
