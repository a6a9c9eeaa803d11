// What Python answers, where there is none: for each class of widgets that asks, from its traits and the facts that
// states.py kept of it. changed(names) follows save_changes, message(content) follows send.

const counted = (n) => n.toLocaleString("en");

/** Python's format(value, ".{digits}f"): of two neighbours that are equally near it takes the even one. */
function fixed(value, digits) {
  const text = value.toFixed(digits), last = Number(text.at(-1));
  const isTie = (value * 2 ** (digits + 1)) % 1 === 0 && (Math.abs(value) * 10 ** digits) % 1 === 0.5;
  return isTie && last % 2 ? text.slice(0, -1) + (last - 1) : text;
}

/** Python's format(value, ".{digits}g"). */
function general(value, digits) {
  if (value === 0) return Object.is(value, -0) ? "-0" : "0";
  const [head, power] = value.toExponential(digits - 1).split("e"), exponent = Number(power);
  const trimmed = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  if (exponent >= -4 && exponent < digits) return trimmed(fixed(value, Math.max(0, digits - 1 - exponent)));
  return `${trimmed(head)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

/** What a printable view of one byte that a keyboard types shows. */
const printable = (sign) => (sign === "\n" ? "\\n" : sign);

function tellsAfterwards(told) {
  return (model) => ({ changed() { model.take({ told: model.get("revealed") ? told(model) : "" }); } });
}

const SIGNS = 96, FEWEST = 20, FEW = 300; // of guessing.py

/** Shannon's bounds: shannon_bounds of guessing.py, which says why. */
function shannonBounds(guesses) {
  const n = guesses.length;
  const parts = (numbers) => {
    const counts = new Map();
    for (const number of numbers) counts.set(number, (counts.get(number) ?? 0) + 1);
    return [...counts.values()].map((count) => count / n);
  };
  const left = guesses.filter((g) => g < 1).reduce((sum, g) => sum + Math.log2(SIGNS + g), 0);
  const upper = left / n - parts(guesses).reduce((sum, q) => sum + q * Math.log2(q), 0);
  const q = parts(guesses.map((g) => (g > 0 ? g : 1 - g))).sort((a, b) => b - a);
  const lower = q.reduce((sum, part, k) => sum + (k + 1) * (part - (q[k + 1] ?? 0)) * Math.log2(k + 1), 0);
  return [lower, upper + 0];
}

const ANSWERS = {
  AttentionExplorer: (model, { views }) => ({
    changed(names) {
      if (names.includes("block") || names.includes("head")) {
        model.take({ _view: views[`${model.get("block")} ${model.get("head")}`] });
      }
    },
  }),

  BoomExplorer: (model, { examples, bottoms }) => ({
    changed() {
      const d = model.get("d_model"), chunks = model.get("chunks"), h = d * chunks;
      model.take({
        costs: {
          Boom: { parameters: h * d + h, flops: 2 * d * h + h - d },
          "feed-forward": { parameters: 2 * d * h + h + d, flops: 4 * d * h },
        },
        example: examples[chunks - 1], bottoms: bottoms[chunks - 1],
      });
    },
  }),

  MemoryView: (model) => ({
    changed() {
      const T = model.get("bptt"), most = model.get("max_context"), start = model.get("step") * T, stop = start + T;
      const held = Math.min(start, most), memory = start - Math.min(held, Math.max(0, most - T));
      model.take({
        spans: {
          memory: [memory, start], window: [start, stop], kept: [Math.max(memory, stop - most), stop],
        },
        seen: Array.from({ length: T }, (_, t) => start - memory + t + 1),
        last_step: Math.ceil(most / T) + 2,
      });
    },
  }),

  Prediction: tellsAfterwards((model) => {
    const guess = model.get("guess"), answer = model.get("answer");
    const said = `${general(answer, 4)} ${model.get("unit")}`.trim();
    if (guess == null) return `It is ${said}.`;
    const away = Number(general(guess - answer, 4));
    const verdict = away ? `${general(Math.abs(away), 6)} too ${away > 0 ? "high" : "low"}` : "exactly right";
    return `You said ${general(guess, 4)}; it is ${said}: ${verdict}.`;
  }),

  PredictedCurve: tellsAfterwards((model) => {
    const y = model.get("y"), places = model.get("places");
    const errors = model.get("guess").flatMap((value, k) => (value == null ? [] : [Math.abs(value - y[places[k]])]));
    if (!errors.length) return `You drew nothing; the blue curve is the ${model.get("how")} one.`;
    const mean = errors.reduce((sum, error) => sum + error) / errors.length;
    return `Your curve is ${general(mean, 3)} away on average, ${general(Math.max(...errors), 3)} at most ` +
      `(${model.get("ylabel")}).`;
  }),

  TokenExplorer: (model, { bits, lengths }) => ({
    changed(names) {
      if (!names.includes("shown") && !names.includes("longest")) return;
      const longest = model.get("longest"), all = bits.reduce((sum, b) => sum + b, 0);
      const cuts = lengths.map((pieces) => pieces.flatMap((n) =>
        Array.from({ length: Math.ceil(n / longest) }, (_, k) => Math.min(longest, n - k * longest))));
      let end = 0;
      const pieces = cuts[model.get("shown")].map((n) =>
        [n, bits.slice(end, (end += n)).reduce((sum, b) => sum + b, 0)]);
      const finite = (value) => (Number.isFinite(value) ? value : null);
      model.take({
        totals: cuts.map((cut) => [cut.length, finite(2 ** (all / cut.length)), all / bits.length]),
        pieces, cursor: Math.min(model.get("cursor"), pieces.length - 1),
      });
    },
  }),

  GuessingGame(model, { passage, prices, xz }) {
    const over = (guesses) => guesses.length === passage.length;
    const all = `All ${counted(passage.length)} bytes are known.`;

    function standing(guesses) {
      const n = guesses.length, known = `${counted(n)} of ${counted(passage.length)} bytes known`;
      if (n < FEWEST) return `${known}; a score from ${FEWEST} on.`;
      const [lower, upper] = shannonBounds(guesses);
      const told = `${known}: your bits per byte lie between ${fixed(lower, 2)} and ${fixed(upper, 2)}.`;
      if (n >= FEW) return told;
      const bias = (new Set(guesses).size - 1) / (2 * n * Math.LN2);
      return `${told} Of so few bytes the upper bound comes out too low, on average by about ${fixed(bias, 2)}.`;
    }

    function known(number, told) {
      const guesses = [...model.get("guesses"), number];
      model.take({
        guesses, known: passage.slice(0, guesses.length), tried: "", standing: standing(guesses),
        scored: guesses.length >= FEWEST, told: over(guesses) ? all : told,
      });
    }

    function guess(sign) {
      const guesses = model.get("guesses"), tried = model.get("tried"), named = printable(sign);
      if (!/^[\n -~]$/.test(sign)) model.take({ told: `a guess must be one ASCII sign or a line break, got '${sign}'` });
      else if (over(guesses)) model.take({ told: all });
      else if (tried.includes(sign)) model.take({ told: `'${named}' was tried before; it is not counted again.` });
      else if (sign !== passage[guesses.length]) {
        model.take({ tried: tried + sign, told: `'${named}' is wrong. Guess again.` });
      } else known(tried.length + 1, `'${named}' is right, at guess ${tried.length + 1}. What comes next?`);
    }

    function compare() {
      const n = model.get("guesses").length, [lower, upper] = shannonBounds(model.get("guesses"));
      const scores = { "you, upper bound": upper, "you, lower bound": lower };
      for (const [name, bits] of Object.entries(prices)) scores[name] = bits.slice(0, n).reduce((a, b) => a + b) / n;
      const sized = Math.max(...Object.keys(xz).map(Number).filter((m) => m <= n)); // each size takes Python a second
      if (sized > 0) scores[sized === n ? "xz" : `xz, first ${sized}`] = (8 * (xz[sized] - xz[0])) / sized;
      model.take({ scores, n_scored: n });
    }

    return {
      changed() {},
      message(content) {
        const guesses = model.get("guesses");
        if ("guess" in content) guess(content.guess);
        else if ("give_up" in content && !over(guesses)) {
          known(-model.get("tried").length, `It was '${printable(passage[guesses.length])}'. What comes next?`);
        } else if ("compare" in content && model.get("scored")) compare();
      },
    };
  },
};
