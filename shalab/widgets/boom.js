const COLORS = ["--shalab-blue", "--shalab-orange", "--shalab-green", "--shalab-purple"];
const SECONDS_PER_CHUNK = 1.2;

export default {
  render({ model, el }) {
    el.classList.add("shalab");
    const set = (name) => (value) => { model.set(name, value); model.save_changes(); };
    const width = slider("width D", {
      // a grid of 16 on which the width that was given lies
      min: model.get("d_model") % 16 || 16, max: Math.max(2048, model.get("d_model")), step: 16,
      value: model.get("d_model"), oninput: set("d_model"),
    });
    const chunks = slider("chunks H / D", {
      min: 1, max: Math.max(8, model.get("chunks")), value: model.get("chunks"), oninput: set("chunks"),
    });
    const inner = element("span");
    const table = element("table", { class: "shalab-costs" });

    const play = element("button", { onclick: () => (timer === null ? start() : stop()) }, "Play");
    let folds = 0, timer = null; // folds: chunks that lie on the first, a fraction while one slides
    const scrubber = slider("chunks folded", {
      min: 0, max: 1, step: 0.05, value: 0, oninput: (value) => { stop(); folds = value; draw(); },
    });
    const stage = element("div");
    const sums = element("p", { class: "shalab-text", "aria-live": "polite" });
    el.append(element("div", { class: "shalab-row" }, width.label, chunks.label, inner), table,
      element("div", { class: "shalab-row" }, play, scrubber.label), stage, sums);

    function showCosts() {
      const costs = model.get("costs"), limit = costs["feed-forward"];
      inner.textContent = `H = ${(model.get("d_model") * model.get("chunks")).toLocaleString("en")}`;
      width.set(model.get("d_model"));
      chunks.set(model.get("chunks"));
      const cell = (value, most) => element("td", {}, element("span", {}, value.toLocaleString("en")),
        element("span", { class: "shalab-bar", style: `width: ${(7.7 * value) / most}em`, "aria-hidden": "true" }));
      table.replaceChildren(
        element("thead", {}, element("tr", {}, ...["layer", "parameters", "FLOPs per byte"].map((name) =>
          element("th", { scope: "col" }, name)))),
        element("tbody", {}, ...Object.entries(costs).map(([name, cost]) => element("tr", {},
          element("th", { scope: "row" }, name),
          cell(cost.parameters, limit.parameters), cell(cost.flops, limit.flops)))));
    }

    function restart() {
      stop();
      folds = 0;
      scrubber.range.max = Math.max(1, model.get("chunks") - 1);
      scrubber.range.disabled = play.disabled = model.get("chunks") === 1;
      draw();
    }

    function start() {
      if (folds >= model.get("chunks") - 1) folds = 0;
      play.textContent = "Pause";
      // Without motion a chunk is at one place and then at the other.
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      const frame = still ? SECONDS_PER_CHUNK : 1 / 30;
      timer = setInterval(() => {
        folds = Math.min(still ? Math.floor(folds) + 1 : folds + frame / SECONDS_PER_CHUNK, model.get("chunks") - 1);
        draw();
        if (folds === model.get("chunks") - 1) stop();
      }, 1000 * frame);
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    }

    function draw() {
      scrubber.set(Math.round(folds * 20) / 20);
      const rows = model.get("example"), bottoms = model.get("bottoms");
      const whole = Math.floor(folds + 1e-9), d = rows[0].length;
      const sum = rows[0].map((_, i) => rows.slice(0, whole + 1).reduce((total, row) => total + row[i], 0));
      const text = `${whole + 1} of ${rows.length} chunks summed: ${sum.map((s) => s.toFixed(2)).join(", ")}`;
      if (sums.textContent !== text) sums.textContent = text;

      const W = Math.max(240, stage.clientWidth || 600), H = 200, gap = 14, foot = 20;
      const [node, c] = canvas(W, H, `Bars of a small example. ${text}`);
      const step = (W - gap * rows.length) / (rows.length * d);
      const tops = rows.flatMap((row, r) => row.map((value, i) => bottoms[r][i] + value));
      const high = Math.max(...tops, 0.1), low = Math.min(...tops, 0);
      const y = (value) => 6 + ((high - value) / (high - low)) * (H - foot - 12);
      const x = (chunk, i) => gap / 2 + chunk * (d * step + gap) + i * step;
      c.font = "12px sans-serif";
      c.textAlign = "center";
      rows.forEach((row, r) => {
        const moved = Math.max(0, Math.min(1, r === 0 ? 0 : folds - (r - 1)));
        const eased = moved * moved * (3 - 2 * moved);
        c.fillStyle = themed(el, COLORS[r % COLORS.length]);
        row.forEach((value, i) => {
          const base = bottoms[r][i] * eased;
          const [from, to] = [y(base + Math.max(value, 0)), y(base + Math.min(value, 0))];
          c.fillRect(x(r * (1 - eased), i) + 1, from, Math.max(1, step - 2), Math.max(1, to - from - (eased && 1)));
        });
        c.fillStyle = themed(el, "--shalab-ink");
        if (moved === 0) {
          const name = d * step > 56 ? (r ? `chunk ${r + 1}` : whole ? `chunks 1–${whole + 1}` : "chunk 1") : `${r + 1}`;
          c.fillText(name, x(r, d / 2), H - 5);
        }
      });
      c.fillRect(0, y(0), W, 1);
      if (whole > 0) sum.forEach((value, i) => c.fillRect(x(0, i), y(value) - 1.5, step, 3));
      stage.replaceChildren(node);
    }

    model.on("change:costs", showCosts);
    model.on("change:example", restart);
    showCosts();
    restart();
    const resized = new ResizeObserver(draw);
    resized.observe(stage);
    const ended = onTheme(draw);
    return () => {
      stop();
      ended();
      resized.disconnect();
      model.off("change:costs", showCosts);
      model.off("change:example", restart);
    };
  },
};
