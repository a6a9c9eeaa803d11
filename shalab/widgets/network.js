// The trained model in the page: one byte in, the logits of the next byte out. shalab/model.py has the equations, and
// shalab/pages/weights.py writes the blob. Each function works by itself, so that its text can go into a worker.

/**
 * A model from what `shalab.pages.weights.packed` wrote: a uint32, the length of a header in JSON, and float16 weights.
 *   network.start()                        the state before a text: zero hidden state, empty memory
 *   network.step(state, byte, {memory})    -> logits (256,), valid until the next step; changes the state. Without memory,
 *                                          attention sees the byte itself only; the memory is kept all the same
 *   network.copy(state)                    a state that goes its own way
 *   state.attention                        of the last byte: [{layer, weights}], weights[a] what the row of a bytes ago
 *                                          got, in the mean over the heads
 */
function loadNetwork(bytes) {
  const { config, tensors } = (() => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const length = view.getUint32(0, true), header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    const found = {};
    let at = 4 + length;
    for (const [name, size] of header.tensors) {
      found[name] = Float32Array.from({ length: size }, (_, i) => half(view.getUint16(at + 2 * i, true)));
      at += 2 * size;
    }
    return { config: header.config, tensors: found };
  })();
  const d = config.d_model, nHeads = config.n_heads, capacity = Math.max(1, config.max_context);

  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15); // the weights are finite
  }

  const sigmoid = (u) => 1 / (1 + Math.exp(-u));

  /** y = W x + b for rows of `x.length`; four rows at a time, a multiple of four in all but odd widths. */
  function multiply(y, W, x, b) {
    const columns = x.length, rows = y.length;
    let r = 0;
    for (; r + 3 < rows; r += 4) {
      const w0 = r * columns, w1 = w0 + columns, w2 = w1 + columns, w3 = w2 + columns;
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      for (let j = 0; j < columns; j++) {
        const v = x[j];
        s0 += W[w0 + j] * v;
        s1 += W[w1 + j] * v;
        s2 += W[w2 + j] * v;
        s3 += W[w3 + j] * v;
      }
      y[r] = s0 + b[r];
      y[r + 1] = s1 + b[r + 1];
      y[r + 2] = s2 + b[r + 2];
      y[r + 3] = s3 + b[r + 3];
    }
    for (; r < rows; r++) {
      let sum = b[r];
      for (let j = 0; j < columns; j++) sum += W[r * columns + j] * x[j];
      y[r] = sum;
    }
  }

  /** y = LayerNorm(x); y may be x. */
  function norm(y, x, { weight, bias }) {
    let mean = 0, variance = 0;
    for (let j = 0; j < d; j++) mean += x[j];
    mean /= d;
    for (let j = 0; j < d; j++) variance += (x[j] - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / d + 1e-12);
    for (let j = 0; j < d; j++) y[j] = (x[j] - mean) * scale * weight[j] + bias[j];
  }

  const layer = (name) => ({ weight: tensors[`${name}.weight`], bias: tensors[`${name}.bias`] });
  const embedding = tensors["embedding.weight"], decoderBias = tensors["decoder.bias"];
  const blocks = Array.from({ length: config.n_layers }, (_, l) => {
    const at = `blocks.${l}`, lstm = (name) => tensors[`${at}.lstm.${name}_l0`];
    // The LSTM's two matrices side by side, (4D, 2D), for [input, h]
    const both = new Float32Array(8 * d * d);
    for (let r = 0; r < 4 * d; r++) {
      both.set(lstm("weight_ih").subarray(r * d, (r + 1) * d), 2 * r * d);
      both.set(lstm("weight_hh").subarray(r * d, (r + 1) * d), (2 * r + 1) * d);
    }
    const block = {
      start: layer(`${at}.norm_start`), ff: layer(`${at}.norm_ff`), boomNorm: layer(`${at}.norm_boom`),
      widen: layer(`${at}.boom.widen`), lstm: both, lstmBias: lstm("bias_ih").map((b, i) => b + lstm("bias_hh")[i]),
    };
    if (config.attention_layers.includes(l)) {
      const head = `${at}.attention`, part = (name) => tensors[`${head}.${name}`];
      const keyGate = part("key_gate"), scale = 1 / Math.sqrt(d / nHeads);
      block.head = {
        mid: layer(`${at}.norm_mid`), memory: layer(`${at}.norm_memory`), query: layer(`${head}.query`),
        queryNorm: layer(`${head}.norm_query`), value: part("value_gate.vector"),
        // The keys' gate may as well multiply the query
        gate: part("query_gate").map((gate, j) => sigmoid(gate) * sigmoid(keyGate[j]) * scale),
      };
    }
    return block;
  });

  // Room for one byte's numbers
  const x = new Float32Array(2 * d), gates = new Float32Array(4 * d), h = new Float32Array(d), own = new Float32Array(d);
  const query = new Float32Array(d), read = new Float32Array(d), wide = new Float32Array(config.d_boom);
  const input = x.subarray(0, d), scores = new Float32Array(capacity), logits = new Float32Array(config.vocab_size);

  function start() {
    const n = blocks.filter(({ head }) => head).length;
    return {
      n: 0, // bytes read
      hidden: blocks.map(() => ({ h: new Float32Array(d), c: new Float32Array(d) })),
      memory: Array.from({ length: n }, () => new Float32Array(0)), // rows of the last bytes: byte n is row n % capacity
      attention: [],
    };
  }

  const copy = (state) => ({
    n: state.n,
    hidden: state.hidden.map((pair) => ({ h: pair.h.slice(), c: pair.c.slice() })),
    memory: state.memory.map((rows) => rows.slice()),
    attention: state.attention.map(({ layer, weights }) => ({ layer, weights: weights.slice() })),
  });

  /** The row of the byte that is read now, where the oldest was when the memory is full. */
  function remember(state, m, row) {
    const at = (state.n % capacity) * d;
    if (at >= state.memory[m].length) {
      const larger = new Float32Array(Math.min(capacity, Math.max(64, 2 * (at / d))) * d);
      larger.set(state.memory[m]);
      state.memory[m] = larger;
    }
    state.memory[m].set(row, at);
  }

  /** read = softmax(query rows^T) rows, head by head; fills weights (by age) with the mean over the heads. */
  function attend(rows, newest, count, weights) {
    const width = d / nHeads;
    weights.fill(0);
    read.fill(0);
    for (let begin = 0; begin < d; begin += width) {
      let most = -Infinity, total = 0;
      for (let age = 0; age < count; age++) {
        const row = ((newest - age + capacity) % capacity) * d;
        let s0 = 0, s1 = 0, j = begin;
        for (; j + 1 < begin + width; j += 2) {
          s0 += rows[row + j] * query[j];
          s1 += rows[row + j + 1] * query[j + 1];
        }
        if (j < begin + width) s0 += rows[row + j] * query[j];
        scores[age] = s0 + s1;
        if (scores[age] > most) most = scores[age];
      }
      for (let age = 0; age < count; age++) total += scores[age] = Math.exp(scores[age] - most);
      for (let age = 0; age < count; age++) {
        const weight = scores[age] / total, row = ((newest - age + capacity) % capacity) * d;
        weights[age] += weight / nHeads;
        for (let j = begin; j < begin + width; j++) read[j] += weight * rows[row + j];
      }
    }
  }

  function step(state, byte, { memory = true } = {}) {
    h.set(embedding.subarray(byte * d, (byte + 1) * d));
    state.attention.length = 0;
    blocks.forEach((block, l) => {
      const { h: hidden, c: cell } = state.hidden[l];
      norm(input, h, block.start);
      x.set(hidden, d);
      multiply(gates, block.lstm, x, block.lstmBias);
      for (let j = 0; j < d; j++) {
        cell[j] = sigmoid(gates[d + j]) * cell[j] + sigmoid(gates[j]) * Math.tanh(gates[2 * d + j]);
        h[j] = hidden[j] = sigmoid(gates[3 * d + j]) * Math.tanh(cell[j]);
      }
      if (block.head) {
        const { head } = block, m = state.attention.length;
        norm(own, h, head.memory);
        remember(state, m, own);
        norm(h, h, head.mid);
        multiply(query, head.query.weight, h, head.query.bias);
        norm(query, query, head.queryNorm);
        for (let j = 0; j < d; j++) query[j] *= head.gate[j];
        const count = memory ? Math.min(state.n + 1, capacity) : 1;
        const weights = new Float32Array(count);
        attend(memory ? state.memory[m] : own, memory ? state.n % capacity : 0, count, weights);
        state.attention.push({ layer: l, weights });
        for (let j = 0; j < d; j++) h[j] += head.value[j] * read[j];
      }
      norm(input, h, block.boomNorm);
      norm(h, h, block.ff);
      multiply(wide, block.widen.weight, input, block.widen.bias);
      for (let i = 0; i < wide.length; i++) h[i % d] += wide[i] * sigmoid(1.702 * wide[i]);
    });
    multiply(logits, embedding, h, decoderBias);
    state.n += 1;
    return logits;
  }

  return { config, start, copy, step };
}

/** Logits -> natural logarithms of the probabilities. */
function logSoftmax(logits) {
  let most = -Infinity, total = 0;
  for (const value of logits) if (value > most) most = value;
  for (const value of logits) total += Math.exp(value - most);
  const rest = most + Math.log(total);
  return logits.map((value) => value - rest);
}
