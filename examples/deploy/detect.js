// Detection with a model from `detr export --format onnx --with-postprocessing`, in a browser with onnxruntime-web.
// `detr guide deploy` documents the description in the file, which this module follows.

/** Return the description in the metadata of an ONNX file, a Uint8Array. onnxruntime-web does not give access to it. */
export function description(file) {
  const text = (bytes) => new TextDecoder().decode(bytes);
  for (const [field, entry] of fields(file)) {
    if (field !== 14) continue; // ModelProto.metadata_props
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    if (text(key) === "detector") return JSON.parse(text(value));
  }
  throw new Error("This file was not written by detr export.");
}

/** Yield number and bytes of the length-delimited fields of a protocol buffer. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let unit = 1; ; unit *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * unit;
      if (!(byte & 128)) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else if (kind === 1 || kind === 5) at += kind === 1 ? 8 : 4;
    else throw new Error("This is not an ONNX file.");
  }
}

/** Return width and height of the input for an image of this size. */
export function inputSize(rule, width, height) {
  if (rule.rule === "exact-size") return [rule.width, rule.height];
  if (rule.rule === "fit-inside") {
    const scale = Math.min(rule.height / height, rule.width / width);
    return [width, height].map((side) => Math.max(1, Math.trunc(side * scale)));
  }
  const { size, max_size: limit, divisor } = rule;
  let [short, long] = width <= height ? [width, height] : [height, width];
  const scale = (long / short) * size > limit ? (limit * short) / long : size;
  const edge = roundHalfEven(scale);
  if (rule.rule === "shortest-edge") {
    [short, long] = edge >= 1 ? [edge, Math.trunc((edge * long) / short)] : [1, limit];
    [short, long] = [short, long].map((side) => Math.max(1, roundHalfEven(side / divisor)) * divisor);
  } else if (rule.rule === "bounded-edges" || rule.rule === "raised-edges") {
    [short, long] = [edge, Math.trunc(short === edge ? long : (scale * long) / short)];
    const up = rule.rule === "raised-edges" ? divisor - 1 : 0;
    [short, long] = [short, long].map((side) => {
      const whole = Math.floor((Math.max(1, side) + up) / divisor) * divisor;
      return Math.max(1, whole);
    });
  } else throw new Error(`The resizing rule ${rule.rule} is unknown.`);
  return width <= height ? [short, long] : [long, short];
}

function roundHalfEven(x) {
  const rounded = Math.round(x);
  return rounded - x === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

const KERNELS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    at: (x, a = -0.5) => {
      x = Math.abs(x);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  },
};
const UNIT = 2 ** 22; // Pillow's weights are integers, in this unit

/** Resize RGB values (height x width x 3) as Pillow does, or without rounding and antialiasing. */
export function resize(values, [width, height], [newWidth, newHeight], { filter, antialias, values: type }) {
  if (!(filter in KERNELS) || (filter !== "bilinear" && !antialias))
    throw new Error(`The filter ${filter} is not supported.`);
  const whole = type === "uint8";
  const across = weights(width, newWidth, KERNELS[filter], antialias, whole);
  const down = weights(height, newHeight, KERNELS[filter], antialias, whole);
  const wide = pass(values, height, across, width * 3, 3, newWidth * 3, 3, whole);
  return pass(wide, newWidth, down, 3, newWidth * 3, 3, newWidth * 3, whole);
}

/** Return for each new pixel the first pixel that it depends on, and their weights. */
function weights(length, newLength, kernel, antialias, whole) {
  const scale = length / newLength;
  const stretch = antialias ? Math.max(1, scale) : 1;
  const support = kernel.support * stretch;
  return Array.from({ length: newLength }, (_, i) => {
    let center = (i + 0.5) * scale;
    if (!antialias) center = Math.min(Math.max(center, 0.5), length - 0.5);
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(length, Math.trunc(center + support + 0.5));
    const at = Array.from({ length: end - first }, (_, k) => kernel.at((first + k - center + 0.5) / stretch));
    const sum = at.reduce((a, b) => a + b, 0);
    const share = at.map((weight) => weight / sum);
    return { first, share: whole ? share.map((weight) => Math.trunc(weight * UNIT + Math.sign(weight) / 2)) : share };
  });
}

/** Interpolate along one axis of RGB values, for each of `lines`. */
function pass(values, lines, axis, lineStep, step, newLineStep, newStep, whole) {
  const result = new (whole ? Uint8ClampedArray : Float32Array)(lines * axis.length * 3);
  for (let line = 0; line < lines; line++)
    axis.forEach(({ first, share }, i) => {
      for (let channel = 0; channel < 3; channel++) {
        let sum = whole ? UNIT / 2 : 0;
        let from = line * lineStep + first * step + channel;
        for (const weight of share) {
          sum += values[from] * weight;
          from += step;
        }
        result[line * newLineStep + i * newStep + channel] = whole ? Math.floor(sum / UNIT) : sum;
      }
    });
  return result;
}

/** Return the input (1, 3, height, width) for an ImageData, with its width and height. */
export function preprocess({ data, width, height }, spec) {
  if (spec.pad || spec.resize.blur) throw new Error("Models that pad or blur images are not supported.");
  const size = inputSize(spec.size, width, height);
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0, j = 0; i < data.length; i += 4, j += 3) rgb.set(data.subarray(i, i + 3), j);
  const resized = resize(rgb, [width, height], size, spec.resize);
  const area = size[0] * size[1];
  const input = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel++)
    for (let i = 0; i < area; i++)
      input[channel * area + i] = (resized[3 * i + channel] * spec.rescale - spec.mean[channel]) / spec.std[channel];
  return { input, size };
}

/** Load a model, the bytes of a file. Returns a function from ImageData to detections with at least a score. */
export async function load(ort, file) {
  const model = description(file);
  if (!("scores" in model.outputs)) throw new Error("Export the model with --with-postprocessing.");
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  return async (image, threshold) => {
    const { input, size } = preprocess(image, model.input);
    const { boxes, scores, labels } = await session.run({
      images: new ort.Tensor("float32", input, [1, 3, size[1], size[0]]),
      sizes: new ort.Tensor("float32", [image.height, image.width], [1, 2]),
    });
    const found = Array.from(scores.data, (score, i) => ({
      score,
      label: model.classes[labels.data[i]].name,
      box: Array.from(boxes.data.subarray(4 * i, 4 * i + 4)), // x0, y0, x1, y1 in pixels
    }));
    return found.filter((detection) => detection.score >= threshold);
  };
}
