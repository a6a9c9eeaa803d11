// A widget's model without a kernel, by anywidget's interface, and what draws all widgets of a page.

/** Equal as traits are: plain values by what they hold, raw bytes by their place. */
function same(a, b) {
  if (a === b) return true;
  if (!a || !b || typeof a !== "object" || a instanceof DataView) return false;
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Raw bytes as a kernel's arrive: as a DataView. */
function decoded(value, shared) {
  if (value === null || typeof value !== "object") return value;
  if ("shared" in value) return decoded(shared[value.shared], shared);
  if ("base64" in value) {
    if (!value.view) value.view = new DataView(Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0)).buffer);
    return value.view;
  }
  if (Array.isArray(value)) return value.map((part) => decoded(part, shared));
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, decoded(part, shared)]));
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
  const { widgets, shared } = JSON.parse(document.getElementById("widgets").textContent);
  const models = new Map(), styles = new Set();
  for (const place of document.querySelectorAll("[data-model]")) {
    await new Promise((done) => setTimeout(done));
    const name = place.dataset.model, stored = widgets[name], widget = MODULES[stored.module]();
    if (!models.has(name)) {
      const model = new Model(stored.class, decoded(stored.traits, shared), decoded(stored.facts, shared));
      const source = typeof widget === "function" ? await widget() : widget;
      if (!styles.has(stored.css)) document.head.append(Object.assign(document.createElement("style"), { textContent: decoded(stored.css, shared) }));
      styles.add(stored.css);
      await source.initialize?.({ model });
      models.set(name, { model, source });
    }
    const { model, source } = models.get(name), el = document.createElement("div");
    place.replaceChildren(el);
    await source.render({ model, el });
  }
  document.body.dataset.drawn = models.size;
}
