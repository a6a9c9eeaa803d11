// The trained model in the page: one byte in, the logits of the next byte out. shalab/model.py has the equations, and
// shalab/pages/weights.py writes the blob. The functions need nothing but each other, so that a worker gets their text.

/**
 * A model from what `shalab.pages.weights.packed` wrote: a uint32, the length of a header in JSON, the low bytes of all
 * weights in float16, and their high bytes.
 *   network.start()                        the state before a text: zero hidden state, empty memory
 *   network.step(state, byte, {memory})    -> logits (256,), valid until the next step; changes the state. Without memory,
 *                                          attention sees the byte itself only; the memory is kept all the same
 *   network.copy(state)                    a state that goes its own way
 *   state.attention                        of the last byte: [{layer, weights}], weights[a] what the row of a bytes ago
 *                                          got, in the mean over the heads
 */
function loadNetwork(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const { config, sizes } = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const { d_model: d, d_boom: dBoom, n_heads: nHeads } = config, capacity = Math.max(1, config.max_context);
  const nMemories = config.attention_layers.length, width = d / nHeads;

  // All numbers lie in one buffer, where WebAssembly reaches them; a place is the number of a float in it.
  const nWeights = sizes.reduce((total, [, size]) => total + size, 0);
  const kernels = linear(nWeights + (nMemories + 1) * capacity * d + 9 * d + dBoom + config.vocab_size, width);
  const { floats, dot, mix } = kernels;
  let used = 0;
  const room = (size) => (used += size) - size;
  const part = (place, size) => floats.subarray(place, place + size);

  const half = Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
  const tensors = {}; // name -> place
  const data = bytes.subarray(4 + length);
  for (const [name, size] of sizes) {
    const begin = tensors[name] = room(size);
    for (let i = begin; i < begin + size; i++) floats[i] = half[data[i] | data[nWeights + i] << 8];
  }

  const sigmoid = (u) => 1 / (1 + Math.exp(-u));
  const norm = (name) => ({ gain: part(tensors[`${name}.weight`], d), bias: part(tensors[`${name}.bias`], d) });
  const linearLayer = (name, size) => ({ W: tensors[`${name}.weight`], b: part(tensors[`${name}.bias`], size) });
  const decoder = { W: tensors["embedding.weight"], b: part(tensors["decoder.bias"], config.vocab_size) };
  const blocks = Array.from({ length: config.n_layers }, (_, l) => {
    const at = `blocks.${l}`, lstm = (name) => tensors[`${at}.lstm.${name}_l0`];
    const block = {
      start: norm(`${at}.norm_start`), ff: norm(`${at}.norm_ff`), boom: norm(`${at}.norm_boom`),
      widen: linearLayer(`${at}.boom.widen`, dBoom), Wx: lstm("weight_ih"), Wh: lstm("weight_hh"),
      lstmBias: part(lstm("bias_ih"), 4 * d).map((b, i) => b + floats[lstm("bias_hh") + i]),
    };
    if (config.attention_layers.includes(l)) {
      const head = `${at}.attention`, vector = (name) => part(tensors[`${head}.${name}`], d);
      const keyGate = vector("key_gate");
      block.head = {
        mid: norm(`${at}.norm_mid`), memory: norm(`${at}.norm_memory`), value: vector("value_gate.vector"),
        query: linearLayer(`${head}.query`, d), queryNorm: norm(`${head}.norm_query`), rows: room(capacity * d),
        // the keys' gate may as well multiply the query
        gate: vector("query_gate").map((gate, j) => sigmoid(gate) * sigmoid(keyGate[j]) / Math.sqrt(width)),
      };
    }
    return block;
  });

  // One byte's numbers
  const places = { input: d, hidden: d, gates: 4 * d, own: d, query: d, read: d, wide: dBoom, scores: capacity, logits: config.vocab_size };
  const views = {};
  for (const [name, size] of Object.entries(places)) views[name] = part(places[name] = room(size), size);
  const { input, gates, own, query, read, wide, logits } = views;
  const h = new Float32Array(d);

  /** y = LayerNorm(x); y may be x. */
  function normalise(y, x, { gain, bias }) {
    let mean = 0, variance = 0;
    for (let j = 0; j < d; j++) mean += x[j];
    mean /= d;
    for (let j = 0; j < d; j++) variance += (x[j] - mean) * (x[j] - mean);
    const scale = 1 / Math.sqrt(variance / d + 1e-12);
    for (let j = 0; j < d; j++) y[j] = (x[j] - mean) * scale * gain[j] + bias[j];
  }

  /** The part of the buffer named y = W x + b. */
  function multiply(y, { W, b }, x) {
    views[y].set(b);
    dot(places[y], W, d, x, views[y].length, d);
  }

  const start = () => ({
    n: 0, // bytes read
    hidden: blocks.map(() => ({ h: new Float32Array(d), c: new Float32Array(d) })),
    memory: Array.from({ length: nMemories }, () => new Float32Array(0)), // byte n is row n % capacity
    attention: [],
  });

  const copy = (state) => ({
    n: state.n,
    hidden: state.hidden.map(({ h, c }) => ({ h: h.slice(), c: c.slice() })),
    memory: state.memory.map((rows) => rows.slice()),
    attention: state.attention.slice(),
  });

  let resident = null; // whose memory lies in the buffer

  /** Keeps the row of the byte that is read now, where the oldest was if the memory is full. */
  function remember(state, m, rows) {
    const at = (state.n % capacity) * d;
    if (at >= state.memory[m].length) {
      const larger = new Float32Array(Math.min(capacity * d, Math.max(64 * d, 2 * at)));
      larger.set(state.memory[m]);
      state.memory[m] = larger;
    }
    state.memory[m].set(own, at);
    floats.set(own, rows + at);
  }

  /** read = softmax(query rows^T) rows of each head; returns the mean weights by age. */
  function attend(rows, newest, count) {
    const weights = new Float32Array(count), scores = part(places.scores, count);
    read.fill(0);
    for (let n = 0; n < nHeads; n++) {
      const begin = n * width;
      scores.fill(0);
      dot(places.scores, rows + begin, d, places.query + begin, count, width);
      let most = -Infinity, total = 0;
      for (let r = 0; r < count; r++) if (scores[r] > most) most = scores[r];
      for (let r = 0; r < count; r++) total += scores[r] = Math.exp(scores[r] - most);
      for (let r = 0; r < count; r++) {
        scores[r] /= total;
        weights[(newest - r + capacity) % capacity] += scores[r] / nHeads;
      }
      mix(places.read + begin, rows + begin, d, places.scores, count, width);
    }
    return weights;
  }

  function step(state, byte, { memory = true } = {}) {
    if (resident !== state) {
      blocks.filter(({ head }) => head).forEach(({ head }, m) => floats.set(state.memory[m], head.rows));
      resident = state;
    }
    h.set(part(decoder.W + byte * d, d));
    state.attention = [];
    for (let l = 0; l < blocks.length; l++) {
      const block = blocks[l], { h: hidden, c: cell } = state.hidden[l];
      normalise(input, h, block.start);
      views.hidden.set(hidden);
      gates.set(block.lstmBias);
      dot(places.gates, block.Wx, d, places.input, 4 * d, d);
      dot(places.gates, block.Wh, d, places.hidden, 4 * d, d);
      for (let j = 0; j < d; j++) {
        cell[j] = sigmoid(gates[d + j]) * cell[j] + sigmoid(gates[j]) * Math.tanh(gates[2 * d + j]);
        h[j] = hidden[j] = sigmoid(gates[3 * d + j]) * Math.tanh(cell[j]);
      }
      if (block.head) {
        const { head } = block;
        normalise(own, h, head.memory);
        remember(state, state.attention.length, head.rows);
        normalise(h, h, head.mid);
        input.set(h);
        multiply("query", head.query, places.input);
        normalise(query, query, head.queryNorm);
        for (let j = 0; j < d; j++) query[j] *= head.gate[j];
        const weights = memory
          ? attend(head.rows, state.n % capacity, Math.min(state.n + 1, capacity))
          : attend(places.own, 0, 1);
        state.attention.push({ layer: l, weights });
        for (let j = 0; j < d; j++) h[j] += head.value[j] * read[j];
      }
      normalise(input, h, block.boom);
      normalise(h, h, block.ff);
      multiply("wide", block.widen, places.input);
      for (let i = 0; i < dBoom; i++) h[i % d] += wide[i] * sigmoid(1.702 * wide[i]);
    }
    input.set(h);
    multiply("logits", decoder, places.input);
    state.n += 1;
    return logits;
  }

  return { config, simd: kernels.simd, start, copy, step };
}

/**
 * A buffer of `size` floats, and two products of what lies in it at given places: W has `rows` rows of `columns`, `stride`
 * floats apart.
 *   dot(y, W, stride, x, rows, columns)    y += W x, y of `rows`
 *   mix(y, W, stride, x, rows, columns)    y += x W, y of `columns`
 * In WebAssembly, four floats at a time, where `width` divides all columns and 16 divides it; else in plain loops.
 */
function linear(size, width) {
  const memory = (() => {
    try {
      return width % 16 ? null : new WebAssembly.Memory({ initial: Math.ceil(size / 16384) });
    } catch { return null; }
  })();
  const floats = new Float32Array(memory?.buffer ?? size);
  const plain = {
    floats, simd: false,
    dot(y, W, stride, x, rows, columns) {
      for (let r = 0; r < rows; r++) {
        let sum = 0;
        for (let j = 0; j < columns; j++) sum += floats[W + r * stride + j] * floats[x + j];
        floats[y + r] += sum;
      }
    },
    mix(y, W, stride, x, rows, columns) {
      for (let r = 0; r < rows; r++) {
        for (let j = 0; j < columns; j++) floats[y + j] += floats[x + r] * floats[W + r * stride + j];
      }
    },
  };
  if (!memory) return plain;

  // The same in WebAssembly's own bytes: https://webassembly.github.io/spec/core/binary
  const Y = 0, W = 1, STRIDE = 2, X = 3, ROWS = 4, COLUMNS = 5, J = 6, SUMS = 7; // parameters in bytes, then locals
  const get = (local) => [0x20, local], set = (local) => [0x21, local], add = [0x6a], zero = [0x41, 0];
  const more = (local, bytes) => [get(local), bytes, add, set(local)];
  const constant = (n) => [0x41, ...(n < 64 ? [n] : [n | 0x80, n >> 7])];
  const load = (at, k) => [get(at), get(J), add, 0xfd, 0, 2, 16 * k]; // four floats
  const times = [0xfd, 0xe6, 1], plus = [0xfd, 0xe4, 1], four = [0, 1, 2, 3];
  const splat = [0xfd, 19], zeros = [0x43, 0, 0, 0, 0, splat], lane = (k) => [0xfd, 31, k], add32 = [0x92];
  const loop = (...body) => [0x03, 0x40, body, 0x0d, 0, 0x0b]; // again while the number on top is not 0
  const columns = (...body) => [zero, set(J), loop(body, more(J, constant(64)), get(J), get(COLUMNS), 0x49)];
  const rows = (next, ...body) =>
    loop(body, more(W, get(STRIDE)), more(next, constant(4)), more(ROWS, [0x41, 0x7f]), get(ROWS));
  const dot = rows(Y,
    four.map((k) => [zeros, set(SUMS + k)]),
    columns(four.map((k) => [get(SUMS + k), load(W, k), load(X, k), times, plus, set(SUMS + k)])),
    get(SUMS), get(SUMS + 1), plus, get(SUMS + 2), plus, get(SUMS + 3), plus, set(SUMS),
    get(Y), get(Y), 0x2a, 2, 0, four.map((k) => [get(SUMS), lane(k), add32]), 0x38, 2, 0);
  const mix = rows(X,
    get(X), 0x2a, 2, 0, splat, set(SUMS),
    columns(four.map((k) => [get(Y), get(J), add, load(Y, k), load(W, k), get(SUMS), times, plus, 0xfd, 11, 2, 16 * k])));
  const sized = (...content) => {
    const flat = content.flat(Infinity);
    return [flat.length & 0x7f | 0x80, flat.length >> 7, flat];
  };
  const vector = (...items) => [items.length, items];
  const name = (text) => sized([...text].map((c) => c.charCodeAt(0)));
  const body = (code) => sized(vector([1, 0x7f], [4, 0x7b]), code, 0x0b); // one more i32, four vectors
  const section = (id, ...items) => [id, sized(vector(...items))];
  const module = [
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    section(1, [0x60, 6, [0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f], 0]), // a function of six i32
    section(2, [name("in"), name("memory"), 2, 0, 1]),
    section(3, 0, 0),
    section(7, [name("dot"), 0, 0], [name("mix"), 0, 1]),
    section(10, body(dot), body(mix)),
  ].flat(Infinity);
  try {
    const compiled = new WebAssembly.Module(Uint8Array.from(module));
    const fast = new WebAssembly.Instance(compiled, { in: { memory } }).exports;
    const at = (f) => (y, W, stride, x, rows, columns) => f(4 * y, 4 * W, 4 * stride, 4 * x, rows, 4 * columns);
    return { floats, simd: true, dot: at(fast.dot), mix: at(fast.mix) };
  } catch { // a browser without vectors, or a page that may not compile
    return plain;
  }
}

/** Logits -> natural logarithms of the probabilities. */
function logSoftmax(logits) {
  let most = -Infinity, total = 0;
  for (const value of logits) if (value > most) most = value;
  for (const value of logits) total += Math.exp(value - most);
  const rest = most + Math.log(total);
  return logits.map((value) => value - rest);
}

/** Equally distributed numbers in [0, 1) that a seed, a whole number, repeats (mulberry32). */
function uniform(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * The next byte, drawn as shalab/generate.py draws it: of the likeliest bytes that together reach topP, the one with the
 * largest probability / E, E exponential. The numbers of `random` are not PyTorch's, so a seed gives another text here.
 */
function drawByte(logits, { temperature, topP }, random) {
  if (temperature === 0) return logits.indexOf(logits.reduce((most, value) => Math.max(most, value)));
  const p = Array.from(logSoftmax(Float64Array.from(logits, (value) => value / temperature)), Math.exp);
  const order = [...p.keys()].sort((a, b) => p[b] - p[a]);
  let before = 0, best = -1, drawn = order[0];
  for (const byte of order) {
    const race = before >= topP ? -1 : p[byte] / -Math.log(1 - random());
    if (race > best) [best, drawn] = [race, byte];
    before += p[byte];
  }
  return drawn;
}
