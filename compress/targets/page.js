// Draws pictures by the bundle beside this page: sample.py, in a browser. Arrays are {data, shape}, without a batch.

const part = (id) => document.getElementById(id);
const made = (kind, about = {}) => Object.assign(document.createElement(kind), about);
const folder = (name) => name.slice(0, name.lastIndexOf("/") + 1);

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}; copy the whole folder`);
  return answer;
}
const json = async (name) => (await fetched(name)).json();

/** float32 values of an .npy file. */
async function npy(name) {
  const content = await (await fetched(name)).arrayBuffer();
  const start = 10 + new DataView(content).getUint16(8, true);
  const head = new TextDecoder().decode(content.slice(10, start));
  if (!/'<f4', 'fortran_order': False/.test(head)) throw new Error(`${name}: should hold float32; got ${head}`);
  const shape = head.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((size) => size.trim()).map(Number);
  return { data: new Float32Array(content.slice(start)), shape };
}

/** Bundle, what the page is told of it, and the engine: by WebGPU where it is there and has kernels for the bundle. */
async function load(wanted) {
  const [bundle, page] = await Promise.all([json("bundle.json"), json("page.json")]);
  const gpu = wanted && page.webgpu && Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
  const ort = await import(gpu ? "./ort.webgpu.js" : "./ort.wasm.js");
  ort.env.wasm.numThreads = 1;  // more need headers that few static servers send
  ort.env.wasm.proxy = !gpu;  // in a worker, so that the page answers meanwhile
  return { bundle, page, ort, gpu, graphs: new Map() };
}
let loaded = load(true);

async function graph(name, scheme) {
  const { page, ort, gpu, graphs } = await loaded;
  if (!graphs.has(name)) {
    const externalData = page.beside[name].map((path) => ({ path, data: folder(name) + path }));
    const executionProviders = gpu ? ["webgpu", "wasm"] : ["wasm"];
    const options = { executionProviders, extra: page.sessions[scheme], externalData };
    graphs.set(name, ort.InferenceSession.create(name, options));
  }
  return graphs.get(name);
}

const KINDS = {
  int64: (data) => BigInt64Array.from(data, (value) => BigInt(Math.trunc(value))),
  int32: (data) => Int32Array.from(data),
  float32: (data) => Float32Array.from(data),
};

/** Outputs of a graph from inputs by name. batch: that it was exported for. */
export async function run(name, scheme, given, batch = 1) {
  const { ort } = await loaded, session = await graph(name, scheme), feeds = {};
  for (const { name: input, type } of session.inputMetadata) {
    const { data, shape } = given[input];
    const repeated = batch === 1 ? data : Array.from({ length: batch }, () => [...data]).flat();
    feeds[input] = new ort.Tensor(type, KINDS[type](repeated), [batch, ...shape]);
  }
  const found = await session.run(feeds);
  return session.outputNames.map((output) => {
    const { data, dims } = found[output];
    return { data: data.subarray(0, data.length / batch), shape: dims.slice(1) };
  });
}

const SPACE = /[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;  // as in the tokenizer
const WORD = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^ \p{L}\p{N}]+/gu;
const CHUNK = RegExp(`<\\|(?:start|end)oftext\\|>|${WORD.source}`, "gu");  // cut first, and then into words

/** Text → ids by CLIP's byte pair encoding, of a tokenizer.json. Sennrich et al. 2016; Radford et al. 2021. */
export function tokenizer({ model, added_tokens: added }, { tokens, pad }) {
  const ranks = new Map(model.merges.map((pair, rank) => [Array.isArray(pair) ? pair.join(" ") : pair, rank]));
  const plain = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let others = 256;
  const letters = Array.from({ length: 256 }, (_, b) => String.fromCodePoint(plain(b) ? b : others++));
  const known = new Map(Object.entries(model.vocab)), special = new Map(added.map((one) => [one.content, one.id]));
  const escaped = [...special.keys()].map((one) => one.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|");
  const pieces = (text) => {
    let word = [...new TextEncoder().encode(text)].map((b) => letters[b]);
    word[word.length - 1] += "</w>";
    for (;;) {
      const pairs = word.slice(1).map((next, i) => ranks.get(`${word[i]} ${next}`) ?? Infinity);
      const best = Math.min(...pairs, Infinity), rest = word;
      if (best === Infinity) return word.map((piece) => known.get(piece) ?? known.get(model.unk_token));
      word = [];
      for (let i = 0; i < rest.length; i++) word.push(pairs[i] === best ? rest[i] + rest[++i] : rest[i]);
    }
  };
  const ids = (part) => {
    if (special.has(part)) return [special.get(part)];
    const text = [...part.normalize("NFC")].map((c) => c.toLowerCase()).join("").replace(SPACE, " ");
    return (text.match(CHUNK) ?? []).flatMap((chunk) => chunk.match(WORD)).flatMap(pieces);
  };
  return (text) => {
    const found = text.split(RegExp(`(${escaped || "(?!)"})`)).flatMap(ids);
    const whole = [known.get("<|startoftext|>"), ...found.slice(0, tokens - 2), known.get("<|endoftext|>")];
    return [...whole, ...Array(tokens - whole.length).fill(pad)];
  };
}

const width = ({ shape }) => shape[shape.length - 1];

/** Side by side along the width, filled up with zeros to at least so much. */
function joined(parts, least) {
  const whole = Math.max(least, parts.reduce((sum, one) => sum + width(one), 0));
  const rows = parts[0].data.length / width(parts[0]), data = new Float32Array(rows * whole);
  for (let row = 0; row < rows; row++) {
    let place = row * whole;
    for (const one of parts) {
      data.set(one.data.subarray(row * width(one), (row + 1) * width(one)), place);
      place += width(one);
    }
  }
  return { data, shape: [...parts[0].shape.slice(0, -1), whole] };
}

/** What the graph from token ids to pixels takes of a text, by name. */
async function tokens(text) {
  const { bundle } = await loaded, about = bundle.text, found = {};
  for (const [name, encoder] of Object.entries(about.encoders)) {
    const ids = tokenizer(await json(encoder.tokenizer), encoder)(text);
    found[`${name}.input_ids`] = { data: ids, shape: [encoder.tokens] };
  }
  const [, height, across] = bundle.decoder?.pixels ?? bundle.inputs.sample.shape.slice(1);
  const picture = { height, width: across, aspect: height / across };
  for (const [name, numbers] of Object.entries(about.told))
    found[name] = { data: numbers.map((one) => picture[one] ?? one), shape: [numbers.length] };
  return found;
}

/** Conditions of a text, by name: what `compress.runtime.texts` makes of it. */
async function encoded(text) {
  const { bundle } = await loaded, about = bundle.text, found = {}, told = await tokens(text);
  for (const [name, encoder] of Object.entries(about.encoders)) {
    const states = await run(encoder.model, encoder.scheme, { input_ids: told[`${name}.input_ids`] });
    Object.keys(encoder.outputs).forEach((output, i) => { found[`${name}.${output}`] = states[i]; });
  }
  for (const [name, rows] of Object.entries(about.made)) {
    const parts = rows.map((row) => Number.isInteger(row)
      ? { data: new Float32Array(row * about.width), shape: [row, about.width] }
      : joined(row.map((key) => found[key]), found[row[0]].shape.length === 2 ? about.width : 0));
    const data = Float32Array.from(parts.flatMap((one) => [...one.data]));
    told[name] = { data, shape: [parts.reduce((sum, one) => sum + one.shape[0], 0), ...parts[0].shape.slice(1)] };
  }
  return told;
}

/** What guidance puts in the place of conditions. */
async function nothing({ guidance }) {
  if (guidance.kind !== "cfg") return null;
  const named = Object.entries(guidance.null ?? {}).map(async ([name, value]) =>
    [name, Number.isInteger(value) ? { data: [value], shape: [] } : await npy(value)]);
  return Object.fromEntries(await Promise.all(named));
}

const sum = (...terms) => terms[0][1].map((_, i) => terms.reduce((all, [by, values]) => all + by * values[i], 0));

/** A sample from noise, step by step: every solver is a table of the numbers in bundle.json. */
async function solved(noise, given, steps, done) {
  const { bundle: { model, scheme, batch, sampling } } = await loaded;
  const { guidance, clip_range: limit } = sampling, left = await nothing(sampling), shape = noise.shape;
  let sample = Float32Array.from(noise.data), before = new Float32Array(sample.length), earlier = before;
  for (const [number, step] of steps.entries()) {
    const asked = { ...given, sample: { data: sample, shape }, timestep: { data: [step.timestep], shape: [] } };
    let [{ data: output }] = await run(model, scheme, asked, batch ?? 1);
    if (left && Object.keys(left).length) {
      const [{ data: other }] = await run(model, scheme, { ...asked, ...left }, batch ?? 1);
      output = sum([1 - guidance.scale, other], [guidance.scale, output]);
    }
    let clean = sum([step.clean_from_sample, sample], [step.clean_from_output, output]);
    if (limit !== null) clean = clean.map((value) => Math.min(limit, Math.max(-limit, value)));
    sample = sum([step.next_from_sample, sample], [step.next_from_clean, clean],
      [step.next_from_previous ?? 0, before], [step.next_from_earlier ?? 0, earlier]);
    [before, earlier] = [clean, before];
    done(number + 1, steps.length);
  }
  return { data: sample, shape };
}

async function drawn(noise, asked, done) {
  const { bundle } = await loaded, { sampling, decoder, batch, scheme } = bundle;
  const count = asked.steps ?? sampling.steps.length;
  const steps = [sampling.steps, ...(sampling.others ?? [])].find((one) => one.length === count);
  if (!steps) throw new Error(`the bundle does not serve ${count} steps`);
  const once = bundle.sampler && steps === sampling.steps ? bundle.sampler : null;
  const parts = [...Object.values(bundle.text?.encoders ?? {}), bundle, ...(decoder ? [decoder] : [])];
  for (const one of once ? [{ model: once, scheme }] : parts) {
    part("status").textContent = `Loading ${one.model}, ${(bundle.files[one.model].bytes / 1e6).toFixed(1)} MB`;
    await graph(one.model, one.scheme);
  }
  part("status").textContent = "Drawing";
  const began = performance.now(), start = { data: noise, shape: bundle.inputs.sample.shape.slice(1) };
  const numbers = { class_labels: asked.class ?? 0, guidance_scale: sampling.guidance.scale, steps: count };
  const given = bundle.text ? await (once ? tokens : encoded)(asked.prompt ?? "") : {};
  for (const [name, value] of Object.entries(numbers)) given[name] = { data: [value], shape: [] };
  let sample = once ? (await run(once, scheme, { ...given, noise: start }, batch ?? 1))[0]
    : await solved(start, given, steps, done);
  if (decoder && !once) {
    const latents = { data: sample.data.map((value) => value / decoder.scale + decoder.shift), shape: sample.shape };
    [sample] = await run(decoder.model, decoder.scheme, { latent_sample: latents });
  }
  if (!sample.data.every(Number.isFinite)) throw new Error("what was drawn is not finite");
  return { ...sample, seconds: (performance.now() - began) / 1000 };
}

/**
 * A picture {data, shape [c,h,w], seconds} in [-1, 1] from numbers of the standard normal distribution.
 * asked: {class}, {prompt}, {steps}, as the bundle takes them. done: told how many of how many steps are.
 */
export async function draw(noise, asked = {}, done = () => {}) {
  try {
    return await drawn(noise, asked, done);
  } catch (error) {
    if (!(await loaded).gpu) throw error;
    console.warn("by WebAssembly from here on:", error);  // of a GPU that lacks memory, or arithmetic in 16 bits
    loaded = load(false);
    return drawn(noise, asked, done);
  }
}
window.draw = draw;
window.tokenizer = tokenizer;

/** So many standard normal numbers of a seed: Box and Muller 1958, of the generator mulberry32. */
function normal(seed, count) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () =>
    Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

function show({ data, shape: [channels, height, across] }, [title, more]) {
  const canvas = made("canvas", { width: across, height, className: across < 256 ? "small" : "" });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", title);
  const pixels = new Uint8ClampedArray(height * across * 4).fill(255);
  for (let i = 0; i < height * across; i++)
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = (data[(channels === 1 ? 0 : c) * height * across + i] + 1) * 127.5;
  canvas.getContext("2d").putImageData(new ImageData(pixels, across, height), 0, 0);
  const figure = made("figure"), caption = made("figcaption");
  caption.append(title, made("span", { className: "more", textContent: ` · ${more}` }));
  figure.append(canvas, caption);
  part("empty")?.remove();
  part("pictures").prepend(figure);
  [...part("pictures").children].slice(13).forEach((old) => old.remove());
}

function fault(error) {
  part("status").className = "fault";
  part("status").textContent = `${error.message ?? error}`;
  part("progress").value = 0;
}

/** One press of a button. */
async function pressed(event) {
  event.preventDefault();
  const { bundle } = await loaded, buttons = document.querySelectorAll("button"), progress = part("progress");
  if (event.submitter?.value === "another") part("seed").value = (Number(part("seed").value) + 1) % 2 ** 32;
  const seed = Number(part("seed").value), asked = {};
  if (bundle.classes) asked.class = Number(new FormData(part("form")).get("class"));
  if (bundle.text) asked.prompt = part("prompt").value;
  asked.steps = Number(part("steps").value);
  buttons.forEach((button) => { button.disabled = true; });
  part("status").className = "";
  progress.removeAttribute("value");
  try {
    const size = bundle.inputs.sample.shape.slice(1).reduce((all, side) => all * side);
    const picture = await draw(normal(seed, size), asked, (done, all) => { progress.value = done / all; });
    const time = picture.seconds < 1 ? `${(1000 * picture.seconds).toFixed(0)} ms` : `${picture.seconds.toFixed(1)} s`;
    const what = [bundle.classes ? `class ${asked.class}` : "", asked.prompt ?? "", `seed ${seed}`].filter(Boolean);
    show(picture, [what.join(", "), `${asked.steps} step${asked.steps === 1 ? "" : "s"}, ${time}`]);
    part("status").textContent = `Drawn in ${time} by ${(await loaded).gpu ? "WebGPU" : "WebAssembly"}`;
    progress.value = 1;
  } catch (error) {
    fault(error);
  }
  buttons.forEach((button) => { button.disabled = false; });
}

async function begin() {
  part("status").textContent = "Loading";
  const { bundle, page } = await loaded, { sampling } = bundle;
  document.title = part("name").textContent = bundle.name;
  part("about").textContent = `${(bundle.params / 1e6).toFixed(1)} million parameters, ${bundle.scheme}, `
    + `${(page.bytes / 1e6).toFixed(1)} MB; drawn on this device, and nothing leaves it.`;
  part("text").hidden = !bundle.text;
  part("class").hidden = !bundle.classes;
  part("classes").append(...Array.from({ length: bundle.classes ?? 0 }, (_, i) => {
    const label = made("label"), choice = made("input", { type: "radio", name: "class", value: i, checked: !i });
    label.append(choice, made("span", { textContent: i }));
    return label;
  }));
  const counts = [sampling.steps, ...(sampling.others ?? [])].map((steps) => steps.length);
  part("counts").hidden = counts.length === 1;
  part("steps").append(...counts.map((count) => new Option(count, count)));
  part("form").addEventListener("submit", pressed);
  document.querySelectorAll("button").forEach((button) => { button.disabled = false; });
  part("status").textContent = "Ready";
}
begin().catch(fault);
