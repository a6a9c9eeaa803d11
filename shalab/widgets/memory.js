const KINDS = ["dropped", "memory", "window", "future"];
const NAMES = { dropped: "dropped", memory: "memory, visible", window: "window, visible", future: "window, masked future" };

/** Fills the path with a kind's colour and a pattern of its own, so that neither is needed to tell kinds apart. */
function fillKind(c, el, kind) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const t = tile.getContext("2d");
  const color = { dropped: "--shalab-paper", memory: "--shalab-blue", window: "--shalab-orange", future: "--shalab-paper" };
  t.fillStyle = themed(el, color[kind]);
  t.fillRect(0, 0, 8, 8);
  t.fillStyle = t.strokeStyle = themed(el, "--shalab-grey");
  if (kind === "dropped") t.fillRect(3, 3, 2, 2); // dots
  if (kind === "future") for (const shift of [-8, 0, 8]) { // diagonals
    t.beginPath();
    t.moveTo(shift, 8);
    t.lineTo(shift + 8, 0);
    t.stroke();
  }
  if (kind === "window") { // horizontal lines
    t.globalAlpha = 0.25;
    t.fillStyle = themed(el, "--shalab-paper");
    t.fillRect(0, 3, 8, 2);
  }
  c.fillStyle = c.createPattern(tile, "repeat");
  c.fill();
}

export default {
  render({ model, el }) {
    el.classList.add("shalab");
    const set = (name) => (value) => { model.set(name, value); model.save_changes(); };
    const control = (text, name, min, max) => slider(text, {
      min, max: Math.max(max, model.get(name)), value: model.get(name), oninput: set(name),
    });
    const given = { bptt: model.get("bptt"), max_context: model.get("max_context") };
    const controls = {
      bptt: control("window T", "bptt", 1, Math.max(32, 2 * given.bptt)),
      max_context: control("max_context", "max_context", 0, Math.max(64, 2 * given.max_context)),
      step: control("window number", "step", 0, model.get("last_step")),
    };
    let row = 0; // the query that is explained
    const query = slider("query", { min: 0, max: 0, value: 0, oninput: (value) => { row = value; draw(); } });
    const stage = element("div", { class: "shalab-stage" });
    const legend = element("div", { class: "shalab-row" });
    const told = element("p", { "aria-live": "polite" });
    el.append(element("div", { class: "shalab-row" }, ...Object.values(controls).map((c) => c.label), query.label),
      stage, legend, told);

    const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
    function places([start, stop]) {
      if (stop === start) return "nothing";
      const ends = [...new Set([start, stop - 1])].map((p) => p.toLocaleString("en"));
      return `${count(stop - start, "byte")} (${ends.join("–")})`;
    }

    function update() {
      controls.step.range.max = Math.max(model.get("last_step"), model.get("step"));
      for (const [name, { set: show }] of Object.entries(controls)) show(model.get(name));
      query.range.max = model.get("bptt") - 1;
      row = Math.min(row, model.get("bptt") - 1);
      query.set(row);
      draw();
    }

    function draw() {
      const { memory, window: read, kept } = model.get("spans"), seen = model.get("seen");
      const total = read[1], T = model.get("bptt");
      const own = seen[row] - (memory[1] - memory[0]); // of the window
      told.textContent = `Query ${row.toLocaleString("en")} reads byte ${(read[0] + row).toLocaleString("en")} ` +
        `and sees ${count(seen[row], "byte")}: memory ${places(memory)}, window ${places([read[0], read[0] + own])}. ` +
        `After the window the memory holds ${places(kept)}.`;

      const left = 52, top = 4, foot = 34, right = 10;
      const W = Math.max(240, stage.clientWidth || 600), w = (W - left - right) / total;
      const H = Math.min(300, Math.max(60, T * 18)), h = H / T;
      const [node, c] = canvas(W, top + H + foot,
        `Queries of window ${model.get("step")} against ${count(total, "position")}: dropped ${places([0, memory[0]])}; ` +
        `memory ${places(memory)}; window ${places(read)}, causal`);
      const x = (position) => left + position * w, y = (t) => top + t * h;
      const box = (from, to) => { c.beginPath(); c.rect(x(from), top, (to - from) * w, H); };
      box(0, memory[0]);
      fillKind(c, el, "dropped");
      box(...memory);
      fillKind(c, el, "memory");
      box(...read);
      fillKind(c, el, "future");
      c.beginPath(); // the staircase of what each query sees of its window
      c.moveTo(x(read[0]), top);
      seen.forEach((n, t) => {
        const edge = x(memory[0] + n);
        c.lineTo(edge, y(t));
        c.lineTo(edge, y(t + 1));
      });
      c.lineTo(x(read[0]), top + H);
      c.closePath();
      fillKind(c, el, "window");

      c.strokeStyle = themed(el, "--shalab-line");
      c.lineWidth = 0.5;
      c.beginPath();
      if (w >= 5) for (let p = 0; p <= total; p++) { c.moveTo(x(p), top); c.lineTo(x(p), top + H); }
      if (h >= 5) for (let t = 0; t <= T; t++) { c.moveTo(left, y(t)); c.lineTo(x(total), y(t)); }
      c.stroke();
      c.strokeStyle = themed(el, "--shalab-ink");
      c.lineWidth = 1;
      c.strokeRect(left, top, total * w, H);
      c.lineWidth = 2;
      c.strokeRect(left + 1, y(row), Math.max(2, total * w - 2), Math.max(2, h));

      c.fillStyle = themed(el, "--shalab-ink");
      c.font = "12px sans-serif";
      c.textBaseline = "middle";
      c.textAlign = "right";
      c.fillText("query", left - 6, top + H + 10);
      if (T > 1 && H >= 30) c.fillText("0", left - 6, y(0) + Math.max(6, h / 2));
      c.fillText((T - 1).toLocaleString("en"), left - 6, y(T) - Math.max(6, h / 2));
      const text = glyphs(uint8(model.get("text")).subarray(0, total));
      if (w >= 9) {
        c.textAlign = "center";
        c.font = "12px monospace";
        text.forEach((sign, p) => c.fillText(sign, x(p + 0.5), top + H + 10, w * 1.4));
        c.font = "12px sans-serif";
      }
      // positions at the borders of the regions, the nearer ones to the window first, where there is room
      let free = Infinity;
      for (const p of [...new Set([total - 1, read[0], memory[0], 0])]) {
        const label = p.toLocaleString("en"), size = c.measureText(label).width;
        const middle = Math.min(W - size / 2 - 1, x(p + 0.5));
        if (middle + size / 2 + 6 > free) continue;
        c.textAlign = "center";
        c.fillText(label, middle, top + H + 25);
        free = middle - size / 2;
      }
      node.addEventListener("click", (event) => {
        row = Math.max(0, Math.min(T - 1, Math.floor((event.offsetY - top) / h)));
        query.set(row);
        draw();
      });
      stage.replaceChildren(node);

      const sizes = {
        dropped: places([0, memory[0]]), memory: places(memory),
        window: places([read[0], read[0] + own]), future: places([read[0] + own, read[1]]),
      };
      legend.replaceChildren(...KINDS.map((kind) => {
        const [swatch, s] = canvas(20, 14, NAMES[kind], { "aria-hidden": "true" });
        s.beginPath();
        s.rect(0, 0, 20, 14);
        fillKind(s, el, kind);
        s.strokeStyle = themed(el, "--shalab-ink");
        s.strokeRect(0.5, 0.5, 19, 13);
        return element("span", { class: "shalab-control" }, swatch, `${NAMES[kind]}: ${sizes[kind]}`);
      }));
    }

    const heard = ["change:spans", "change:last_step"];
    for (const event of heard) model.on(event, update);
    update();
    const resized = new ResizeObserver(draw);
    resized.observe(stage);
    const ended = onTheme(draw);
    return () => {
      ended();
      resized.disconnect();
      for (const event of heard) model.off(event, update);
    };
  },
};
