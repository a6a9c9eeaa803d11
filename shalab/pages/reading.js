// An attention explorer over a text that is typed into the page: network.js reads it, and what follows is
// AttentionExplorer._reduce of explorer.py for a window without memory.

const MOST_BYTES = 1000, TOP_WEIGHTS = 10, LOWEST = 1e-7;
const rawBytes = (array) => new DataView(array.buffer, array.byteOffset, array.byteLength);
const LEVELS = Float32Array.from({ length: 256 }, (_, i) => (i ? LOWEST ** (1 - (i - 1) / 254) : 0));

const level = (weight) =>
  weight > 0 ? Math.round(Math.min(255, Math.max(0, 1 + (254 * Math.log(weight / LOWEST)) / -Math.log(LOWEST)))) : 0;

/** The largest code of each patch, where the text had begun: the map as coarse as a screen shows it. */
function patches(codes, n, mostRows = 320, mostColumns = 1000) {
  const [height, width] = [mostRows, mostColumns].map((most) => Math.ceil(n / most)), found = [];
  for (let row = 0; row < n; row += height) {
    const last = Math.min(n, row + height) - 1;
    for (let column = 0; column <= last; column += width) {
      let most = 0;
      for (let t = row; t <= last; t++) {
        for (let age = column; age < Math.min(n, column + width); age++) most = Math.max(most, codes[t * n + age]);
      }
      found.push(most);
    }
  }
  return found.sort((a, b) => a - b);
}

/** rows[t][age]: the weight that byte t gave to the byte `age` before it -> what explorer.js draws. */
function viewOf(rows) {
  const n = rows.length, nTop = Math.min(TOP_WEIGHTS, n), codes = new Uint8Array(n * n);
  const starts = [0];
  for (let age = 1; age < n; age *= 2) starts.push(age);
  const weights = new Float32Array(n * nTop), ages = new Uint32Array(n * nTop), shares = new Float32Array(n * starts.length);
  rows.forEach((row, t) => {
    const order = Array.from(row.keys()).sort((a, b) => row[b] - row[a] || a - b);
    for (let k = 0; k < nTop; k++) {
      ages[t * nTop + k] = order[k] ?? k; // an age from before the text began is not shown
      weights[t * nTop + k] = k < order.length ? row[order[k]] : 0;
    }
    row.forEach((weight, age) => {
      codes[t * n + age] = level(weight);
      shares[t * starts.length + (age ? Math.floor(Math.log2(age)) + 1 : 0)] += weight;
    });
  });
  const coarse = patches(codes, n), at = (part) => LEVELS[Math.max(1, coarse[Math.round(part * (coarse.length - 1))])];
  return {
    map: rawBytes(codes), bin: 1, levels: rawBytes(LEVELS), range: [Math.min(at(0.3), at(0.999) / 2), at(0.999)],
    n_top: nTop, top_weights: rawBytes(weights), top_ages: rawBytes(ages), octaves: starts, shares: rawBytes(shares),
  };
}

/** A place to type a text, below an explorer; `network()` loads the trained model once. */
function ownText(network, source) {
  const make = (tag, attributes, ...children) => {
    const node = Object.assign(document.createElement(tag), attributes);
    node.append(...children);
    return node;
  };
  const field = make("textarea", { rows: 3, maxLength: MOST_BYTES });
  const button = make("button", { type: "button", textContent: "read it" }), told = make("span", {}), place = make("div", {});
  told.setAttribute("role", "status");
  let leave = null, asked = 0;

  button.addEventListener("click", async () => {
    const text = new TextEncoder().encode(field.value).slice(0, MOST_BYTES), mine = ++asked;
    if (!text.length) {
      told.textContent = "Type something first.";
      return;
    }
    const { config, start, step } = await network();
    const state = start(), rows = [];
    for (const byte of text) {
      step(state, byte);
      rows.push(state.attention[0].weights);
      if (rows.length % 16) continue;
      told.textContent = `read ${rows.length} of ${text.length} bytes …`;
      await new Promise((done) => setTimeout(done));
      if (mine !== asked) return; // another text was asked for
    }
    told.textContent = "";
    leave?.();
    const model = new Model("", {
      block: config.attention_layers[0], head: 0, query: text.length - 1, pinned: null,
      _blocks: config.attention_layers.slice(0, 1), _n_heads: 1, _text: rawBytes(text), _view: viewOf(rows),
      _reach: `${counted(text.length)} query bytes, no memory before them.`,
    });
    const el = document.createElement("div");
    place.replaceChildren(el);
    leave = await source.render({ model, el });
  });
  return make("details", { className: "own" },
    make("summary", { textContent: "Read a text of your own" }),
    make("label", {}, `The course's trained model reads it here, in this page; up to ${counted(MOST_BYTES)} bytes`, field),
    make("p", {}, button, " ", told), place);
}
