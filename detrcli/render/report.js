// The report: galleries of tiles, marks that are saved as a list, and the viewer in a dialog.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const TILES_AT_ONCE = 60;
const categories = new Map(data.categories);
const files = new Map(), waiting = new Map();

// A page opened from disk can only load scripts, so the data of an image is a script that calls this function.
function loaded(name, values) {
  files.set(name, values);
  waiting.get(name)?.(values);
}
function load(name) {
  if (files.has(name)) return Promise.resolve(files.get(name));
  return new Promise((resolve) => {
    waiting.set(name, resolve);
    make("script", { src: `data/${name}.js` }, document.head).onerror = () => resolve(null);
  });
}

const storageKey = `detr report ${data.split} ${data.images.length} ${data.images[0]?.[1] ?? ""}`;
const keyOf = (tile) => [tile.kind, tile.image, tile.annotation ?? "", tile.annotation === null ? tile.other.join() : ""].join(" ");
let marks = {};
try { marks = JSON.parse(localStorage.getItem(storageKey) ?? "{}"); } catch { /* storage may be disabled */ }
function mark(tile, verdict) {
  if (marks[keyOf(tile)] === verdict) delete marks[keyOf(tile)];
  else marks[keyOf(tile)] = verdict;
  try { localStorage.setItem(storageKey, JSON.stringify(marks)); } catch { /* marks last until the page is closed */ }
}

function caption(tile, gallery) {
  const own = categories.get(tile.category) ?? tile.category, predicted = categories.get(tile.predicted), score = tile.score?.toFixed(2);
  if (gallery === "missing_label") return `${own} ${score}`;
  if (gallery === "wrong_label") return `${own}: predicted ${predicted} ${score}`;
  if (gallery === "loose_box") return `${own} ${score}, IoU ${tile.iou.toFixed(2)}`;
  if (gallery === "poor_mask") return `${own} ${score}, mask IoU ${tile.iou.toFixed(2)}`;
  if (gallery === "duplicate") return `${own}, duplicate of annotation ${tile.of}`;
  if (gallery === "missed") return `${own}: ${data.reasons.missed[tile.kind]}${predicted ? ` (${predicted} ${score})` : ""}`;
  return `${own} ${score}: ${data.reasons.false_positive[tile.kind]}`;
}

// A region of the image around some boxes, which are drawn over it.
function crop(parent, image, boxes, masks = []) {
  const [, , width, height, url] = data.images[image];
  let [x0, y0, side] = [0, 0, Math.max(width, height)];
  if (boxes.length) {
    const all = boxes.map(([box]) => box), low = (i) => Math.min(...all.map((box) => box[i])), high = (i) => Math.max(...all.map((box) => box[i]));
    side = Math.min(Math.max(1.7 * Math.max(high(2) - low(0), high(3) - low(1)), 0.18 * Math.max(width, height)), Math.max(width, height));
    const start = (center, whole) => (side >= whole ? (whole - side) / 2 : Math.min(Math.max(0, center - side / 2), whole - side));
    [x0, y0] = [start((low(0) + high(2)) / 2, width), start((low(1) + high(3)) / 2, height)];
  } else [x0, y0] = [(width - side) / 2, (height - side) / 2];
  const box = make("div", { class: "crop" }, parent);
  const shown = make("img", { src: url, loading: "lazy", decoding: "async", alt: "" }, box);
  const position = { width: `${(100 * width) / side}%`, left: `${(-100 * x0) / side}%`, top: `${(-100 * y0) / side}%` };
  Object.assign(shown.style, position);
  masks.forEach((mask, i) => Object.assign(maskCanvas(box, mask, [ANNOTATED, PREDICTED][i]).style, position));
  const drawing = make("svg", { viewBox: `${x0} ${y0} ${side} ${side}` }, box);
  for (const [[a, b, c, d], kind] of boxes) make("rect", { x: a, y: b, width: Math.max(c - a, 0), height: Math.max(d - b, 0), class: kind }, drawing);
}

function drawTile(parent, tile, tiles, gallery, fix) {
  const box = make("div", { class: "tile" }, parent), button = make("button", { type: "button" }, box);
  const [own, other] = tile.masks ? ["hidden", "hidden"] : ["truth", "other"]; // masks are drawn without their boxes
  crop(button, tile.image, [...(tile.box ? [[tile.box, own]] : []), ...(tile.other ? [[tile.other, other]] : [])], tile.masks);
  make("p", {}, button, caption(tile, gallery));
  const [id, file] = data.images[tile.image];
  const annotation = tile.annotation === null || tile.annotation === undefined ? "" : `, annotation ${tile.annotation}`;
  make("p", { class: "keys" }, button, `${file} (image ${id}${annotation})`);
  button.onclick = () => open(tiles, tiles.indexOf(tile));
  if (!fix) return;
  const row = make("div", { class: "marks", role: "group", "aria-label": "the annotation is" }, box);
  for (const verdict of ["right", "wrong", "unsure"]) {
    const choice = make("button", { type: "button", title: `the annotation is ${verdict}` }, row, verdict);
    const show = () => choice.setAttribute("aria-pressed", marks[keyOf(tile)] === verdict);
    choice.onclick = () => { mark(tile, verdict); row.querySelectorAll("button").forEach((button) => button.show()); };
    choice.show = show;
    show();
  }
}

// Fills an element with tiles, and with a button for more of them.
function fill(parent, tiles, draw) {
  let shown = 0;
  const more = make("button", { type: "button" }, null);
  const next = () => {
    more.remove();
    tiles.slice(shown, shown + TILES_AT_ONCE).forEach((tile) => draw(parent, tile));
    shown = Math.min(tiles.length, shown + TILES_AT_ONCE);
    if (shown < tiles.length) {
      more.textContent = `${tiles.length - shown} more`;
      parent.append(more);
    }
  };
  more.onclick = next;
  parent.replaceChildren();
  next();
  if (!tiles.length) make("p", { class: "keys" }, parent, "None.");
}

function gallery(parent) {
  const { kind, fix } = parent.dataset, all = data.tiles[kind];
  const bar = make("div", { class: "bar" }, parent), grid = make("div", { class: "tiles" }, parent);
  const counts = (values) => [...new Set(values)].map((value) => [value, values.filter((other) => other === value).length]).sort((a, b) => b[1] - a[1]);
  const choice = (name, options) => {
    const label = make("label", {}, bar, `${name} `), input = make("select", {}, label);
    make("option", { value: "" }, input, `all (${all.length})`);
    for (const [value, text, number] of options) make("option", { value }, input, `${text} (${number})`);
    input.onchange = draw;
    return input;
  };
  let reason = null;
  const reasons = data.reasons[kind];
  const draw = () => {
    const tiles = all.filter((tile) => (!byClass.value || String(tile.category) === byClass.value) && (!reason?.value || tile.kind === reason.value));
    fill(grid, tiles, (box, tile) => drawTile(box, tile, tiles, kind, fix));
  };
  const byClass = choice("class", counts(all.map((tile) => tile.category)).map(([id, number]) => [id, categories.get(id) ?? id, number]));
  if (Object.keys(reasons).length) reason = choice("reason", counts(all.map((tile) => tile.kind)).map(([key, number]) => [key, reasons[key], number]));
  if (fix) {
    const save = make("button", { type: "button", class: "export" }, bar, "save all marks as a list");
    save.onclick = () => download(exported());
  }
  draw();
}

// All marks, as read by `detr data fix --list`.
function exported() {
  const changes = [];
  for (const kind of ["wrong_label", "missing_label", "loose_box", "duplicate", "poor_mask"])
    for (const tile of data.tiles[kind]) {
      const verdict = marks[keyOf(tile)];
      if (!verdict) continue;
      const [image_id, file] = data.images[tile.image];
      changes.push({
        kind, verdict, image_id, file, annotation_id: tile.annotation ?? null,
        category_id: tile.predicted ?? tile.category, box: tile.other ?? tile.box, of: tile.of ?? null,
        ...(tile.masks ? { mask: tile.masks[1] } : {}),
      });
    }
  return { schema: "detr.fix/1", split: data.split, changes };
}
function download(list) {
  const link = make("a", { href: URL.createObjectURL(new Blob([JSON.stringify(list, null, 2)], { type: "application/json" })), download: "fixes.json" }, document.body);
  link.click();
  link.remove();
}

const dialog = byId("dialog"), viewer = new Viewer(byId("viewer"), data.names, data.colors);
let position = 0, row = [];
async function open(tiles, index) {
  [row, position] = [tiles, index];
  const tile = row[position], [id, file] = data.images[tile.image];
  if (!dialog.open) dialog.showModal();
  byId("which").textContent = `${position + 1} of ${row.length}: ${file} (image ${id})`;
  const view = await load(`${tile.image}`);
  if (!view || row[position] !== tile) return;
  viewer.show(view, tile.selection);
  if (tile.query !== undefined && viewer.query === null) viewer.select({ query: tile.query });
  if (view.detailed) {
    const attention = await load(`${tile.image}-attention`);
    if (attention && row[position] === tile) await viewer.addAttention(attention);
  }
  dialog.dataset.shown = `${tile.image}`;
}
const step = (by) => open(row, (position + by + row.length) % row.length);
byId("close").onclick = () => dialog.close();
byId("back").onclick = () => step(-1);
byId("on").onclick = () => step(1);
dialog.onkeydown = (event) => {
  if (ownsKeys(event.target)) return;
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else if (!viewer.key(event.key)) return;
  event.preventDefault();
};

document.querySelectorAll(".gallery").forEach(gallery);
const everything = data.images.map((_, image) => ({ image, selection: null }));
fill(byId("all"), everything, (parent, tile) => {
  const box = make("div", { class: "tile" }, parent), button = make("button", { type: "button" }, box);
  crop(button, tile.image, []);
  const [id, file, , , , objects, missed, falsePositives] = data.images[tile.image];
  make("p", {}, button, `${objects} objects, ${missed} missed, ${falsePositives} false positives`);
  make("p", { class: "keys" }, button, `${file} (image ${id})`);
  button.onclick = () => open(everything, tile.image);
});
// A link may name an image to be opened.
const wanted = Number(new URLSearchParams(location.hash.slice(1)).get("image"));
const linked = data.images.findIndex(([id]) => location.hash && id === wanted);
if (linked >= 0) open(everything, linked);
document.body.dataset.ready = "yes";
