// A widget's model without a kernel, by anywidget's interface, and what draws all widgets of a page.

/** Equal as traits are: plain values by what they hold, raw bytes by their place. */
function same(a, b) {
  if (a === b) return true;
  if (!a || !b || typeof a !== "object" || typeof b !== "object" || a instanceof DataView) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => same(a[name], b[name]));
}

/** What `compressed` of course.py made: the JSON, in which raw bytes are as a kernel's arrive, a DataView each. */
async function opened(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer(), length = new DataView(buffer).getUint32(0, true);
  const content = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let end = 4 + length;
  content.shared = content.shared.map((part) =>
    (typeof part === "number" ? new DataView(buffer.slice(end, (end += part))) : part));
  return content;
}

/** The value with what it shares with others in its place. */
function whole(value, shared) {
  if (value === null || typeof value !== "object") return value;
  if ("shared" in value) return shared[value.shared];
  if (Array.isArray(value)) return value.map((part) => whole(part, shared));
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, whole(part, shared)]));
}

class Model {
  kernel = false; // widgets ask this where a control needs Python
  #traits;
  #acts = new Map();
  #unsaved = new Set();
  #answer;

  /** kind: the widget's class in Python, which says who answers; facts: what it answers from. */
  constructor(kind, traits, facts = {}) {
    this.#traits = traits;
    this.#answer = ANSWERS[kind]?.(this, facts);
  }

  get(name) { return this.#traits[name]; }

  set(name, value) {
    if (same(this.#traits[name], value)) return;
    this.#traits[name] = value;
    this.#unsaved.add(name);
    this.#tell(`change:${name}`, value);
    this.#tell("change", value);
  }

  /** Several traits at once, as a kernel's message brings them: all are there before the first is told of. */
  take(values) {
    const changed = Object.entries(values).filter(([name, value]) => !same(this.#traits[name], value));
    Object.assign(this.#traits, Object.fromEntries(changed));
    for (const [name, value] of changed) this.#tell(`change:${name}`, value);
    if (changed.length) this.#tell("change", null);
  }

  on(names, act) {
    for (const name of names.split(" ")) this.#acts.set(name, [...(this.#acts.get(name) ?? []), act]);
  }

  off(names, act) {
    for (const name of names?.split(" ") ?? [...this.#acts.keys()]) {
      this.#acts.set(name, act ? (this.#acts.get(name) ?? []).filter((other) => other !== act) : []);
    }
  }

  save_changes() {
    const names = [...this.#unsaved];
    this.#unsaved.clear();
    if (names.length) queueMicrotask(() => this.#answer?.changed(names));
  }

  send(content) { queueMicrotask(() => this.#answer?.message?.(content)); }

  #tell(name, value) { for (const act of this.#acts.get(name) ?? []) act(this, value); }
}

/** Draws all views of the page, one after the other, so that it can be read meanwhile. */
async function drawAll() {
  const { widgets, shared, weights } = await opened(document.getElementById("widgets").textContent);
  const there = new Map(); // model id -> {model, source}
  let loaded = null;
  const network = () => (loaded ??= loadNetwork(new Uint8Array(whole(weights, shared).buffer)));

  async function begin(name) {
    const { css, traits, facts, module, kind } = whole(widgets[name], shared);
    const source = await MODULES[module](), model = new Model(kind, traits, facts);
    if (![...document.querySelectorAll("style")].some((style) => style.textContent === css)) {
      document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
    }
    await source.initialize?.({ model });
    return { model, source };
  }

  async function draw(place) {
    const name = place.dataset.model, { kind } = widgets[name];
    if (!there.has(name)) there.set(name, await begin(name));
    const { model, source } = there.get(name), el = document.createElement("div");
    place.replaceChildren(el);
    await source.render({ model, el });
    if (weights && kind in FROM_TEXT) place.append(ownText(kind, source, model, network));
  }

  for (const place of document.querySelectorAll("[data-model]")) {
    await new Promise((done) => setTimeout(done));
    const picture = [...place.childNodes];
    await draw(place).catch((error) => { // the others shall be drawn all the same
      console.error(error);
      place.replaceChildren(...picture);
    });
  }
  reach();
  document.body.dataset.drawn = performance.now(); // milliseconds from the beginning
}
