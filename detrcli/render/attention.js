"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
const [h, w] = data.cells;
const canvas = at("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
const colours = bytes(data.colours), maps = data.queries.map((query) => bytes(query.maps));
const grey = new Image();
let behind; // the picture's pixels

// Which cells a pixel is mixed from, and how much of each: the same bicubic filter as in the figures.
// The picture may be a part of what the cells cover, from cell `start` to cell `end`.
function mixing(cells, pixels, start, end) {
  const cubic = (x) => {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  };
  return Array.from({ length: pixels }, (_, i) => {
    const centre = start + ((i + 0.5) * (end - start)) / pixels;
    const first = Math.max(0, Math.trunc(centre - 1.5)), after = Math.min(cells, Math.trunc(centre + 2.5));
    const shares = [];
    for (let cell = first; cell < after; cell++) shares.push(cubic(cell + 0.5 - centre));
    const all = shares.reduce((a, b) => a + b);
    return { first, shares: shares.map((share) => share / all) };
  });
}

function spread(map, across, down) {
  const rows = new Float32Array(h * canvas.width), whole = new Float32Array(canvas.height * canvas.width);
  for (let y = 0; y < h; y++)
    across.forEach(({ first, shares }, x) => {
      let sum = 0;
      shares.forEach((share, i) => (sum += share * map[y * w + first + i]));
      rows[y * canvas.width + x] = sum;
    });
  down.forEach(({ first, shares }, y) => {
    for (let x = 0; x < canvas.width; x++) {
      let sum = 0;
      for (let i = 0; i < shares.length; i++) sum += shares[i] * rows[(first + i) * canvas.width + x];
      whole[y * canvas.width + x] = sum;
    }
  });
  return whole;
}

function now() {
  const query = at("query").selectedIndex, layer = at("layer").valueAsNumber, head = at("head").selectedIndex;
  return { query, layer, head, place: layer * data.heads.length + head };
}

function draw() {
  const { query, layer, place } = now(), one = data.queries[query], said = one.layers[layer];
  const map = maps[query].subarray(place * h * w, (place + 1) * h * w);
  const least = Math.min(...map), values = spread(map, draw.across, draw.down);
  const shown = pen.createImageData(canvas.width, canvas.height), keep = data.seen_through;
  values.forEach((value, i) => {
    const step = 3 * Math.round(Math.min(255, Math.max(least, value)));
    for (let c = 0; c < 3; c++)
      shown.data[4 * i + c] = Math.round(keep * behind[4 * i + c] + (1 - keep) * colours[step + c]);
    shown.data[4 * i + 3] = 255;
  });
  pen.putImageData(shown, 0, 0);
  if (at("box").checked) outline(said, one);
  at("most").textContent = `${(100 * one.most[place]).toPrecision(2)}% of the attention on a cell`;
  at("layername").textContent = layer;
  at("said").textContent = `query ${one.query}: ${said.text}`;
}

function outline(said, one) {
  const [x0, y0, x1, y1] = said.box.map((v, i) => (v * (i % 2 ? canvas.height : canvas.width)));
  pen.lineWidth = 5;
  pen.strokeStyle = "#000a";
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  pen.lineWidth = 2.5;
  pen.strokeStyle = said.colour;
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  pen.font = "15px system-ui, sans-serif";
  const text = `${one.query} ${said.text}`, long = pen.measureText(text).width + 10;
  const x = Math.max(0, Math.min(x0 - 1, canvas.width - long)), y = y0 >= 22 ? y0 - 22 : Math.max(0, y0);
  pen.fillStyle = said.colour;
  pen.fillRect(x, y, long, 22);
  pen.fillStyle = said.ink;
  pen.fillText(text, x + 5, y + 16);
}

function choose(event) {
  const { layer } = now(), place = canvas.getBoundingClientRect();
  const x = (event.clientX - place.left) / place.width, y = (event.clientY - place.top) / place.height;
  const size = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
  const hit = data.queries
    .map((query, i) => ({ i, box: query.layers[layer].box }))
    .filter(({ box: [x0, y0, x1, y1] }) => x0 <= x && x <= x1 && y0 <= y && y <= y1)
    .sort((a, b) => size(a.box) - size(b.box));
  if (hit.length) {
    at("query").selectedIndex = hit[0].i;
    draw();
  }
}

grey.onload = () => {
  canvas.width = grey.naturalWidth;
  canvas.height = grey.naturalHeight;
  pen.drawImage(grey, 0, 0);
  behind = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  const [left, top, right, bottom] = data.window;
  [draw.across, draw.down] = [mixing(w, canvas.width, left, right), mixing(h, canvas.height, top, bottom)];
  const last = data.queries[0].layers.length - 1;
  data.queries.forEach((query) => at("query").add(new Option(`${query.query} ${query.layers[last].text}`)));
  data.heads.forEach((head) => at("head").add(new Option(head)));
  at("layer").max = at("layer").value = last;
  const bar = at("bar"), line = bar.getContext("2d");
  for (let i = 0; i < 256; i++) {
    line.fillStyle = `rgb(${colours.subarray(3 * i, 3 * i + 3).join(",")})`;
    line.fillRect(i, 0, 1, bar.height);
  }
  for (const id of ["query", "layer", "head", "box"]) at(id).oninput = draw;
  canvas.onclick = choose;
  draw();
  document.body.dataset.ready = "yes";
};
grey.src = data.picture;
