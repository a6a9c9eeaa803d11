const HEIGHT = 360, LEFT = 52, BOTTOM = 34;
const LEAST = 1e-6; // as in explorer.py: the weight that a level of 1 stands for

const weightOf = (level) => (level ? LEAST ** ((255 - level) / 254) : 0);

/** level -> packed colour; the logarithmic scale shows what is small, the linear one only what is large. */
function colours(scale, most) {
  const table = new Uint32Array(256);
  for (let level = 0; level < 256; level++) {
    const weight = weightOf(level);
    const share = scale === "linear" ? weight / most : level ? Math.max(0, 1 + Math.log10(weight / most) / 4) : 0;
    const [r, g, b] = CIVIDIS[Math.round(255 * Math.min(1, share))];
    table[level] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return table;
}

const ages = (n) => n.toLocaleString("en-US");
const percent = (weight) => (weight >= 0.0005 ? weight.toFixed(3) : weight.toExponential(1));

export default {
  render({ model, el }) {
    let view, glyphText, from = 0, zoom = 1, table, saving = null;

    const status = element("div", { class: "shalab-status", role: "status" });
    const boards = element("div", { style: "position: relative" });
    const map = element("canvas", { role: "img" });
    const marks = element("canvas", {
      role: "slider", tabindex: 0, "aria-label": "query byte", style: "position: absolute; inset: 0; cursor: crosshair",
    });
    boards.append(map, marks);

    const block = select("block", [], { onchange: (value) => set("block", Number(value)) });
    const head = select("head", [], { onchange: (value) => set("head", Number(value)) });
    const colour = select("colour", [["log", "logarithmic"], ["linear", "linear"]], {
      value: model.get("colour"), onchange: (value) => set("colour", value),
    });
    const zooming = slider("zoom", { min: 0, max: 8, step: 0.25, value: 0, oninput: (v) => { zoom = 2 ** v; moveTo(from); } });
    const moving = slider("from age", { min: 0, max: 1, value: 0, oninput: moveTo });
    const pin = element("button", { onclick: togglePin }, "Pin row");
    const tools = element("div", { class: "shalab-row" },
      block.label, head.label, colour.label, zooming.label, moving.label, pin,
      element("button", { onclick: savePNG }, "PNG"), element("button", { onclick: saveSVG }, "SVG"));
    const context = element("div", {
      class: "shalab-text shalab-context", tabindex: 0, role: "group", "aria-label": "text around the query byte",
    });
    const list = element("table", {});
    const bars = element("canvas", { role: "img" });
    const panels = element("div", { class: "shalab-beside" },
      element("div", {}, element("b", {}, "most attended"), list),
      element("div", {}, element("b", {}, "weight by distance"), bars));
    el.classList.add("shalab");
    el.append(tools, boards, status, context, panels);

    const ink = (name) => themed(el, name);
    const row = () => model.get("pinned") ?? model.get("query");
    const visible = () => Math.max(1, Math.ceil(view.bins / zoom));

    /** Sets a canvas to a size in CSS pixels and returns its context. */
    function sized(node, width, height) {
      const ratio = window.devicePixelRatio || 1;
      const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (node.width !== w || node.height !== h) {
        Object.assign(node, { width: w, height: h });
        Object.assign(node.style, { width: `${width}px`, height: `${height}px` });
      }
      const context = node.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      context.font = `11px ${ink("font-family") || "sans-serif"}`;
      return context;
    }

    function load() {
      const raw = model.get("view");
      view = { ...raw };
      for (const name of ["text", "cells"]) view[name] = uint8(raw[name]);
      for (const name of ["weights", "distances"]) view[name] = float32(raw[name]);
      view.positions = new Uint32Array(raw.positions.buffer.slice(raw.positions.byteOffset, raw.positions.byteOffset + raw.positions.byteLength));
      glyphText = glyphs(view.text);
      const choices = model.get("blocks");
      fill(block.box, choices.map(([b]) => b), model.get("block"));
      const heads = choices.find(([b]) => b === model.get("block"))[1];
      fill(head.box, Array.from({ length: heads }, (_, i) => i), model.get("head"));
      moving.range.max = view.keys - 1;
      marks.setAttribute("aria-valuemin", 0);
      marks.setAttribute("aria-valuemax", view.queries - 1);
      recolour();
    }

    function fill(box, values, value) {
      box.replaceChildren(...values.map((v) => element("option", { value: v, selected: v === value }, String(v))));
      box.value = value;
      box.disabled = values.length < 2;
    }

    function recolour() {
      table = colours(model.get("colour"), view.most);
      colour.box.value = model.get("colour");
      drawMap();
      drawRow();
    }

    /** Each pixel shows the largest of the cells that it covers, so that no single sharp weight is lost. */
    function drawMap() {
      const width = Math.max(200, Math.floor(el.clientWidth) - 4);
      const wide = width - LEFT - 4, high = HEIGHT - BOTTOM - 6;
      const context = sized(map, width, HEIGHT);
      const n = visible(), first = Math.min(from, view.bins - n);
      const image = new ImageData(wide, high), pixels = new Uint32Array(image.data.buffer);
      const edge = (i, size, count) => Math.floor((i * count) / size);
      for (let y = 0; y < high; y++) {
        const top = edge(y, high, view.queries), bottom = Math.max(top + 1, edge(y + 1, high, view.queries));
        for (let x = 0; x < wide; x++) {
          const left = first + edge(x, wide, n), right = Math.max(left + 1, first + edge(x + 1, wide, n));
          let level = 0;
          for (let t = top; t < bottom; t++) {
            for (let a = t * view.bins + left; a < t * view.bins + right; a++) if (view.cells[a] > level) level = view.cells[a];
          }
          pixels[y * wide + x] = table[level];
        }
      }
      const sheet = element("canvas", { width: wide, height: high });
      sheet.getContext("2d").putImageData(image, 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(sheet, LEFT, 6);
      context.fillStyle = ink("--shalab-quiet");
      context.textAlign = "right";
      for (const t of spread(view.queries)) context.fillText(ages(t), LEFT - 6, 6 + ((t + 0.5) / view.queries) * high + 4);
      for (const a of spread(n)) {
        context.textAlign = a === 0 ? "left" : a > 0.95 * n ? "right" : "center";
        context.fillText(ages((first + a) * view.width), LEFT + (a / n) * wide, HEIGHT - BOTTOM + 14);
      }
      context.textAlign = "right";
      context.fillText("bytes back from the query (age)", width - 6, HEIGHT - 4);
      context.save();
      context.translate(11, 6 + high / 2);
      context.rotate(-Math.PI / 2);
      context.textAlign = "center";
      context.fillText("query byte of the window", 0, 0);
      context.restore();
      map.setAttribute("aria-label",
        `attention of block ${model.get("block")}, head ${model.get("head")}: ${view.queries} queries by ${view.keys} ages, `
        + `largest weight ${percent(view.most)}`);
    }

    function spread(n) {
      const step = [1, 2, 5].flatMap((m) => [1, 10, 100, 1000, 10000].map((p) => m * p)).sort((a, b) => a - b).find((s) => n / s <= 7);
      return Array.from({ length: Math.floor((n - 1) / step) + 1 }, (_, i) => i * step);
    }

    function drawRow() {
      const t = row(), pinned = model.get("pinned") != null;
      const width = Math.max(200, Math.floor(el.clientWidth) - 4);
      const wide = width - LEFT - 4, high = HEIGHT - BOTTOM - 6;
      const over = sized(marks, width, HEIGHT);
      const y = 6 + ((t + 0.5) / view.queries) * high;
      for (const [color, thick] of [["#000", 3], [pinned ? "#ffb000" : "#fff", 1.5]]) {
        over.strokeStyle = color;
        over.lineWidth = thick;
        over.beginPath();
        over.moveTo(LEFT, y);
        over.lineTo(LEFT + wide, y);
        over.stroke();
      }
      pin.textContent = pinned ? "Unpin row" : "Pin row";
      const memory = view.keys - view.queries, own = memory + t, top = [];
      for (let i = t * view.top; i < (t + 1) * view.top; i++) {
        if (view.weights[i] > 0) top.push([view.weights[i], view.positions[i]]);
      }
      const says = `byte ${t} ${glyphText[own] || "·"}: ` + top.slice(0, 3)
        .map(([w, p]) => `${percent(w)} on ${glyphText[p] || "·"}, ${ages(own - p)} back`).join("; ");
      marks.setAttribute("aria-valuenow", t);
      marks.setAttribute("aria-valuetext", says);
      status.textContent = `${ages(view.queries)} queries, ${ages(memory)} bytes in memory`
        + (view.dropped ? `, ${ages(view.dropped)} older bytes dropped` : "")
        + (view.width > 1 ? `, ${view.width} ages per cell` : "")
        + ` · row ${t}${pinned ? ", pinned" : ""}`;
      drawContext(t, own, top);
      drawBars(t);
    }

    const shade = (p, t, own, top) => {
      const exact = top.find(([, position]) => position === p);
      const weight = exact ? exact[0] : weightOf(view.cells[t * view.bins + Math.floor((own - p) / view.width)]) / view.width;
      return Math.max(0, 1 + Math.log10(Math.max(weight, 1e-9)) / 3); // nothing below a thousandth
    };

    /** Sixty bytes to the left of everything that is attended, and the query in its own place. */
    function drawContext(t, own, top) {
      const begin = Math.max(0, own - 300), end = Math.min(view.keys, own + 40);
      const parts = [];
      for (let p = begin; p < end; p++) {
        const glass = p <= own ? shade(p, t, own, top) : 0;
        const text = glyphText[p] + (view.text[p] === 10 ? "\n" : "");
        if (p === own) parts.push(element("mark", { class: "shalab-query" }, text || "·"));
        else if (glass > 0.02) {
          const heavy = top.findIndex(([, position]) => position === p) >= 0;
          parts.push(element("span", { class: heavy ? "shalab-heavy" : "", style: `--glass: ${glass.toFixed(2)}` }, text));
        } else parts.push(p > own ? element("span", { class: "shalab-after" }, text) : text);
      }
      context.replaceChildren(...parts);
      const rows = top.map(([weight, p]) => {
        const snippet = element("span", { class: "shalab-text" }, glyphText.slice(Math.max(0, p - 14), p).join(""),
          element("mark", {}, glyphText[p] || "·"), glyphText.slice(p + 1, p + 8).join(""));
        return element("tr", {}, element("td", {}, percent(weight)), element("td", {}, ages(own - p)), element("td", {}, snippet));
      });
      list.replaceChildren(element("tr", {}, ...["weight", "bytes back", "in its place"].map((name) => element("th", { scope: "col" }, name))), ...rows);
    }

    function drawBars(t) {
      const n = view.edges.length, width = Math.max(180, Math.min(420, Math.floor(bars.parentElement.clientWidth))), height = 206;
      const context = sized(bars, width, height);
      const values = view.distances.subarray(t * n, (t + 1) * n), most = Math.max(...values), each = (width - 44) / n;
      values.forEach((value, i) => {
        context.fillStyle = ink("--shalab-blue");
        context.fillRect(40 + i * each, 150 - (value / most) * 130, each - 2, (value / most) * 130);
        context.fillStyle = ink("--shalab-quiet");
        context.save();
        context.translate(40 + (i + 0.5) * each + 4, 156);
        context.rotate(-Math.PI / 3);
        context.textAlign = "right";
        context.fillText(ages(view.edges[i]), 0, 0);
        context.restore();
      });
      context.textAlign = "right";
      context.fillStyle = ink("--shalab-quiet");
      context.fillText(percent(most), 36, 26);
      context.fillText("0", 36, 152);
      context.fillText("bytes back, at least", width - 4, height - 3);
      bars.setAttribute("aria-label", "weight by distance: "
        + view.edges.map((edge, i) => `from ${edge} ${percent(values[i])}`).join(", "));
    }

    function set(name, value) {
      model.set(name, value);
      model.save_changes();
    }

    /** The view follows at once; the kernel hears of it ten times a second at most. */
    function choose(t) {
      const query = Math.max(0, Math.min(view.queries - 1, t));
      if (query === model.get("query")) return;
      model.set("query", query);
      saving ??= setTimeout(() => { saving = null; model.save_changes(); }, 100);
    }

    function togglePin() {
      set("pinned", model.get("pinned") == null ? model.get("query") : null);
    }

    function moveTo(age) {
      const most = view.bins - visible();
      from = Math.max(0, Math.min(most, Math.floor(age / view.width)));
      moving.range.max = Math.max(1, most * view.width);
      moving.set(from * view.width);
      drawMap();
    }

    marks.addEventListener("pointermove", (event) => {
      // Scrolling under a pointer that rests is no choice: it must not undo what the keyboard selects.
      if (model.get("pinned") != null || !(event.movementX || event.movementY)) return;
      const y = event.offsetY - 6, high = HEIGHT - BOTTOM - 6;
      if (y >= 0 && y < high) choose(Math.floor((y / high) * view.queries));
    });
    marks.addEventListener("click", togglePin);
    marks.addEventListener("wheel", (event) => {
      if (!event.deltaX && !event.shiftKey) return; // an upright wheel scrolls the page
      event.preventDefault();
      moveTo((from + Math.sign(event.deltaX || event.deltaY) * Math.ceil(visible() / 20)) * view.width);
    }, { passive: false });
    const keys = {
      ArrowUp: () => choose(row() - 1), ArrowDown: () => choose(row() + 1),
      PageUp: () => choose(row() - 32), PageDown: () => choose(row() + 32),
      Home: () => choose(0), End: () => choose(view.queries - 1), Enter: togglePin,
      ArrowLeft: () => moveTo((from - Math.ceil(visible() / 10)) * view.width),
      ArrowRight: () => moveTo((from + Math.ceil(visible() / 10)) * view.width),
    };
    marks.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
      event.preventDefault();
      event.stopPropagation();
      keys[event.key]();
    });
    keepKeys(context);

    function whole() {
      const sheet = element("canvas", { width: map.width, height: map.height });
      const context = sheet.getContext("2d");
      context.fillStyle = ink("--shalab-paper");
      context.fillRect(0, 0, sheet.width, sheet.height);
      context.drawImage(map, 0, 0);
      context.drawImage(marks, 0, 0);
      return sheet;
    }
    const name = (end) => `attention-block-${model.get("block")}-head-${model.get("head")}.${end}`;
    function savePNG() {
      whole().toBlob((blob) => download(name("png"), blob));
    }
    function saveSVG() {
      const width = parseFloat(map.style.width), lines = [...list.rows].map((line) => [...line.cells].map((cell) => cell.textContent).join("   "));
      const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
      const high = HEIGHT + 20 * (lines.length + 2);
      const texts = [map.getAttribute("aria-label"), ...lines]
        .map((text, i) => `<text x="10" y="${HEIGHT + 24 + 20 * i}" xml:space="preserve">${escaped(text)}</text>`).join("");
      const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${high}" font-family="monospace" font-size="13" fill="${ink("--shalab-ink")}">`
        + `<rect width="100%" height="100%" fill="${ink("--shalab-paper")}"/>`
        + `<image href="${whole().toDataURL()}" width="${width}" height="${HEIGHT}"/>${texts}</svg>`;
      download(name("svg"), new Blob([svg], { type: "image/svg+xml" }));
    }

    const redraw = () => { drawMap(); drawRow(); };
    const observer = new ResizeObserver(redraw);
    load();
    observer.observe(el);
    model.on("change:view", load);
    model.on("change:colour", recolour);
    model.on("change:query", drawRow);
    model.on("change:pinned", drawRow);
    const endTheme = onTheme(redraw);
    return () => {
      observer.disconnect();
      endTheme();
      clearTimeout(saving);
      for (const [event, listener] of [["view", load], ["colour", recolour], ["query", drawRow], ["pinned", drawRow]]) {
        model.off(`change:${event}`, listener);
      }
    };
  },
};
