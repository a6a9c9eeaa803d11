// Widgets over a text that is typed into the page, which the trained model (network.js) reads there. viewOf is
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

/** What can be made of a typed text: the place is below the widget of that kind. */
const FROM_TEXT = {
  AttentionExplorer: {
    summary: "Read a text of your own", verb: "read it",
    about: "The course's trained model reads it here, in this page",
    async make(text, { config, start, step }, progress) {
      const state = start(), rows = [];
      for (const byte of text) {
        step(state, byte);
        rows.push(state.attention[0].weights);
        await progress(rows.length);
      }
      return [{
        block: config.attention_layers[0], head: 0, query: text.length - 1, pinned: null,
        _blocks: config.attention_layers.slice(0, 1), _n_heads: 1, _text: rawBytes(text), _view: viewOf(rows),
        _reach: `${counted(text.length)} query bytes, no memory before them.`,
      }, { views: {} }];
    },
  },

  GuessingGame: {
    summary: "Play with a text of your own", verb: "play",
    about: "Somebody else types or pastes a passage, and you guess; the course's trained model is the machine",
    refuse: (text) => text.some((byte) => byte !== 10 && (byte < 32 || byte > 126)) &&
      "The passage must be of signs that a keyboard types: no accents, no tabs.",
    async make(text, { start, step }, progress, model) {
      const state = start(), network = [];
      let logits = null;
      for (const byte of new TextEncoder().encode(model.get("before"))) logits = step(state, byte);
      for (const byte of text) {
        network.push(-logSoftmax(logits)[byte] / Math.LN2);
        logits = step(state, byte);
        await progress(network.length);
      }
      return [{
        before: model.get("before"), n_bytes: text.length, guesses: [], known: "", tried: "", scored: false, scores: {},
        told: "Which byte comes next?", standing: `0 of ${counted(text.length)} bytes known; a score from ${FEWEST} on.`,
        n_scored: 0,
      }, { passage: new TextDecoder().decode(text), prices: { network }, xz: {} }];
    },
  },
};

/** A place to type a text below the view of a widget; network() loads the trained model once. */
function ownText(kind, source, shown, network) {
  const { summary, verb, about, refuse, make } = FROM_TEXT[kind];
  const node = (tag, attributes, ...children) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  };
  const field = node("textarea", { rows: 3, maxLength: MOST_BYTES, spellcheck: false });
  const button = node("button", { type: "button", textContent: verb }), told = node("span", {}), place = node("div", {});
  told.setAttribute("role", "status");
  let leave = null, asked = 0;

  button.addEventListener("click", async () => {
    const text = new TextEncoder().encode(field.value).slice(0, MOST_BYTES), mine = ++asked;
    told.textContent = text.length ? refuse?.(text) || "" : "Type something first.";
    if (told.textContent) return;
    const rest = () => new Promise((done) => setTimeout(done));
    told.textContent = "reading …";
    await rest();
    const [traits, facts] = await make(text, network(), async (n) => {
      if (n % 16) return;
      told.textContent = `read ${n} of ${text.length} bytes …`;
      await rest();
    }, shown);
    if (mine !== asked) return; // another text was asked for
    told.textContent = "";
    if (kind === "GuessingGame") field.value = ""; // nobody shall see it
    leave?.();
    const el = document.createElement("div");
    place.replaceChildren(el);
    leave = await source.render({ model: new Model(kind, traits, facts), el });
  });
  return node("details", { className: "own" },
    node("summary", { textContent: summary }),
    node("label", {}, `${about}; up to ${counted(MOST_BYTES)} bytes`, field), node("p", {}, button, " ", told), place);
}
