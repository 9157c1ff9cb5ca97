// Moves through the layers and queries of a matching. All names are put in as text.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const state = { layer: data.layers.length - 1, query: null, term: "total" };

function make(tag, attributes, parent, text) {
  const node = parent.namespaceURI === SVG || tag === "svg"
    ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

const number = (value) => (value === null ? "" : value.toFixed(3));
const pairOfQuery = (layer, query) => layer.pairs.find((pair) => pair.query === query);

// Boxes are cx, cy, w, h in [0, 1]; the drawing is as large as the picture.
function inPixels([cx, cy, w, h]) {
  const { width, height } = data.image;
  return { x: (cx - w / 2) * width, y: (cy - h / 2) * height, width: w * width, height: h * height };
}

// Names of objects stand above their boxes and those of queries below; one without a free place is left out.
function name(svg, shape, kind, text, taken) {
  const { width, height } = data.image, { x, y } = inPixels(shape);
  const size = Math.max(width, height) / 36, long = 0.6 * size * (text.length + 1);
  const above = y - size / 3, inside = y + 1.2 * size, below = y + inPixels(shape).height + size;
  const rows = kind === "object" ? [above, inside, below] : [below, above, inside];
  const left = Math.min(Math.max(0, x), width - long) + size / 4;
  const free = (row) => row >= size && row <= height && !taken.some(
    (other) => left < other.left + other.long && other.left < left + long && Math.abs(row - other.row) < 1.2 * size);
  const row = rows.find(free);
  if (row === undefined) return;
  taken.push({ left, long, row });
  make("text", { x: left, y: row, "font-size": size, class: kind }, svg, text);
}

function picture(layer) {
  const svg = by("boxes"), { width, height } = data.image, taken = [];
  svg.replaceChildren();
  const marks = [
    ...data.targets.map((target, n) => [target.box, "object", `${n} ${target.label}`]),
    ...layer.pairs.filter((pair) => pair.query !== state.query)
      .map((pair) => [layer.boxes[pair.query], "matched", `q${pair.query}`]),
  ];
  if (state.query !== null) marks.push([layer.boxes[state.query], "chosen", `q${state.query}`]);
  for (const [shape, kind] of marks) make("rect", { ...inPixels(shape), class: kind }, svg);
  for (const pair of layer.pairs) {
    const [ax, ay] = data.targets[pair.target].box, [bx, by] = layer.boxes[pair.query];
    make("line", { x1: ax * width, y1: ay * height, x2: bx * width, y2: by * height }, svg);
  }
  for (const [shape, kind, text] of marks.reverse()) name(svg, shape, kind, text, taken); // the chosen one first
}

function costs(layer) {
  const values = layer.cost[state.term].map((row) => row.map((value) => value * data.weights[state.term]));
  const all = values.flat(), least = Math.min(...all), most = Math.max(...all);
  const table = by("costs");
  table.replaceChildren();
  by("scale").textContent = all.length
    ? `${number(least)} (light, cheap) to ${number(most)}; framed: the matched queries` : "no objects, no costs";
  const head = make("tr", {}, table);
  make("th", {}, head, "query");
  data.targets.forEach((target, n) => make("th", {}, head, `${n} ${target.label}`));
  values.forEach((row, query) => {
    const line = make("tr", { "data-query": query, class: query === state.query ? "chosen" : "" }, table);
    make("th", {}, line, query);
    row.forEach((value, n) => {
      const light = most > least ? (most - value) / (most - least) : 1;
      const [red, green, blue] = data.heat[Math.round(light * (data.heat.length - 1))];
      const matched = layer.pairs.some((pair) => pair.query === query && pair.target === n);
      make("td", {
        class: matched ? "matched" : "",
        style: `background: rgb(${red},${green},${blue}); color: ${light > 0.6 ? "black" : "white"}`,
      }, line, value.toFixed(2));
    });
    line.onclick = () => { state.query = query; show(); };
  });
}

function said(layer) {
  const query = state.query;
  if (query === null) return "Choose a query: in the list, or by a row of the costs.";
  const best = `${layer.labels[query]} (${number(layer.scores[query])})`;
  const answer = `Query ${query} predicts ${layer.nothing[query] ? `no object, at best ${best}` : best}. `;
  const pair = pairOfQuery(layer, query);
  if (!pair) return `${answer}It is unmatched.`;
  const target = `object ${pair.target} (${data.targets[pair.target].label})`;
  const margin = pair.margin === null ? "" : `, margin ${number(pair.margin)}`;
  const second = pair.runner_up === null ? "no other query would take it" : `runner-up: query ${pair.runner_up}`;
  const decided = pair.decided === null ? "" : `, decided by ${pair.decided}`;
  return `${answer}It is matched to ${target}; ${second}${margin}${decided}.`;
}

function show() {
  const layer = data.layers[state.layer];
  by("layer").value = state.layer;
  by("layer-name").textContent = `layer ${state.layer} of 0 to ${data.layers.length - 1}`;
  by("query").value = state.query === null ? "" : state.query;
  by("term").value = state.term;
  picture(layer);
  costs(layer);
  by("said").textContent = said(layer);
}

by("layer").max = data.layers.length - 1;
by("boxes").setAttribute("viewBox", `0 0 ${data.image.width} ${data.image.height}`);
make("option", { value: "" }, by("query"), "none");
data.layers[0].boxes.forEach((_, query) => make("option", { value: query }, by("query"), query));
for (const term of Object.keys(data.weights)) {
  const weight = term === "total" ? "" : `, times ${data.weights[term]}`;
  make("option", { value: term }, by("term"), term + weight);
}
by("layer").oninput = () => { state.layer = Number(by("layer").value); show(); };
by("query").onchange = () => { state.query = by("query").value === "" ? null : Number(by("query").value); show(); };
by("term").onchange = () => { state.term = by("term").value; show(); };
show();
