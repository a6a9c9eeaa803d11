// One head's weights: rows are query bytes, columns are ages. Everything of a head is here; no row is asked for.

const HEIGHT = 320, LEFT = 58, TOP = 24, RIGHT = 12, BOTTOM = 36;  // CSS pixels of the map and what stands around it
const ROW = 20, COLUMN = 12;  // CSS pixels of a query byte and of an age when zoomed in as far as it goes
const BEFORE = 280, AFTER = 40;  // bytes of text shown around the query byte
const DARK = "#111", LIGHT = "#fff";

const escaped = (text) => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const { format: counted } = new Intl.NumberFormat("en");
const percent = (share) => share === 0 ? "" : share < 0.005 ? "<1%" : `${Math.round(100 * share)}%`;

function shortly(weight) {
  if (weight >= 0.0995) return weight.toFixed(3);
  return weight >= 1e-4 ? weight.toPrecision(2) : weight.toExponential(0);
}

/** About one round number per `gap` pixels between low and high: 1, 2 or 5 times a power of ten apart, at least 1. */
function ticks(low, high, pixels, gap) {
  const wanted = Math.max(1, ((high - low) * gap) / pixels), power = 10 ** Math.floor(Math.log10(wanted));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= wanted);
  const values = [];
  for (let v = Math.ceil(low / step) * step; v < high; v += step) values.push(v);
  return { step, values };
}

/** What the kernel sent of one head, with the few things that follow from it. */
function decode(model) {
  const sent = model.get("_view"), text = uint8(model.get("_text"));
  const nOctaves = sent.octaves.length, shares = float32(sent.shares), nQueries = shares.length / nOctaves;
  const map = uint8(sent.map), nMemory = text.length - nQueries;
  const weights = float32(sent.top_weights), ages = new Uint32Array(float32(sent.top_ages).buffer);
  return {
    map, text, nQueries, nMemory, nAges: text.length, nCells: map.length / nQueries, bin: sent.bin,
    largest: weights.reduce((a, b) => Math.max(a, b)), levels: float32(sent.levels),
    range: sent.range, octaves: sent.octaves,
    place: (row, age) => nMemory + row - age,
    code: (row, age) => map[row * (map.length / nQueries) + Math.floor(age / sent.bin)],
    shares: (row) => shares.subarray(row * nOctaves, (row + 1) * nOctaves),
    top: (row) => Array.from({ length: sent.n_top }, (_, i) => row * sent.n_top + i)
      .map((i) => ({ age: ages[i], weight: weights[i] })).filter(({ age }) => age <= nMemory + row),
  };
}

/** 0 to 1 for each of the levels: how bright it is. */
function brightness({ levels, range: [low, high] }, scale) {
  const share = scale === "linear" ? (w) => w / high : (w) => Math.log(w / low) / Math.log(high / low);
  return Array.from(levels, (weight) => Math.min(1, Math.max(0, share(weight))));
}

/** Fills the canvas with the rows and ages of `area`; a pixel is as bright as the largest weight under it. */
function paint(node, head, area, bright) {
  const { width, height } = node, { map, nCells, nQueries, nMemory, bin } = head;
  const colours = Uint32Array.from(bright, (share) => {
    const [r, g, b] = CIVIDIS[Math.round(255 * share)];
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
  const edge = (start, size, n, most) => Math.min(most - 1, Math.floor(start + size * n));
  const column = (_, x) => edge(area.age / bin, area.nAges / bin / width, x, nCells);
  const columns = Int32Array.from({ length: width + 1 }, column);
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  for (let y = 0; y < height; y++) {
    const first = edge(area.row, area.nRows / height, y, nQueries);
    const end = Math.max(first + 1, edge(area.row, area.nRows / height, y + 1, nQueries));
    for (let x = 0; x < width; x++) {
      const begin = columns[x], stop = Math.max(begin + 1, columns[x + 1]);
      if (begin * bin > nMemory + end - 1) break;  // the text had not begun: nothing was there to be seen
      let largest = 0;
      for (let row = first; row < end; row++) {
        const line = row * nCells;
        for (let cell = line + begin; cell < line + stop; cell++) if (map[cell] > largest) largest = map[cell];
      }
      pixels[y * width + x] = colours[largest];
    }
  }
  node.getContext("2d").putImageData(image, 0, 0);
}

// What follows is SVG: drawn around the canvas, and written into the exports.

const label = (x, y, anchor, content, size = 11) =>
  `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="${size}" font-family="sans-serif" fill="currentColor">` +
  `${escaped(String(content))}</text>`;
const line = (x1, y1, x2, y2, colour, thickness) =>
  `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${colour}" stroke-width="${thickness}"/>`;
const middleOf = (row, area) => TOP + ((row + 0.5 - area.row) / area.nRows) * HEIGHT;
const inside = (y) => y >= TOP && y <= TOP + HEIGHT;

/** Axes and colour scale of what the map shows. */
function frame(head, area, width, signs, scale) {
  const parts = [];
  const x = (age) => LEFT + ((age - area.age) / area.nAges) * width;
  const across = ticks(area.age, area.age + area.nAges, width, 70);
  const down = ticks(area.row, area.row + area.nRows, HEIGHT, 14);
  const half = across.step === 1 ? 0.5 : 0;
  for (const age of across.values) {
    parts.push(line(x(age + half), TOP + HEIGHT, x(age + half), TOP + HEIGHT + 4, "currentColor", 1));
    parts.push(label(x(age + half), TOP + HEIGHT + 15, "middle", counted(age)));
  }
  // Where there is room for every row, its byte stands beside it.
  const sparse = down.step === 1 ? down.values : ticks(area.row, area.row + area.nRows, HEIGHT, 45).values;
  for (const row of sparse) {
    const y = middleOf(row, area), sign = down.step === 1 ? ` ${signs[head.nMemory + row]}` : "";
    if (!inside(y)) continue;
    parts.push(line(LEFT - 4, y, LEFT, y, "currentColor", 1), label(LEFT - 6, y + 4, "end", counted(row) + sign));
  }
  parts.push(label(LEFT + width / 2, TOP + HEIGHT + 31, "middle", "age: bytes back from the query byte", 12));
  parts.push(label(4, 15, "start", "query byte", 12));
  const [low, high] = scale === "linear" ? [0, head.range[1]] : head.range, start = LEFT + width - 146;
  parts.push(label(start - 6, 15, "end", `${width < 300 ? "" : "weight "}${low ? `≤ ${shortly(low)}` : "0"}`));
  for (let i = 0; i < 24; i++) {
    const colour = CIVIDIS[Math.round((255 * i) / 23)];
    parts.push(`<rect x="${start + i * 4}" y="6" width="4.5" height="11" fill="rgb(${colour})"/>`);
  }
  parts.push(label(start + 101, 15, "start", `≥ ${shortly(high)}`));
  return parts.join("");
}

/** The row looked at, at height y: thin, or thick if it is pinned. */
function mark(y, width, isPinned) {
  const size = isPinned ? 8 : 5;
  const [outer, inner] = [[DARK, size / 2], [LIGHT, size / 4]].map((pen) => line(LEFT, y, LEFT + width, y, ...pen));
  return `${outer}${inner}<path d="M${LEFT + width + 1} ${y}l${size} ${-size}v${2 * size}z" fill="#d55e00"/>`;
}

/** The share of each octave of distance as bars, `width` x 150; narrow ones are labelled sparingly. */
function bars(head, row, width) {
  const shares = head.shares(row), step = width / shares.length, most = Math.max(...shares), every = step < 26 ? 2 : 1;
  const parts = Array.from(shares, (share, i) => {
    const middle = (i + 0.5) * step, tall = (100 * share) / most, first = head.octaves[i];
    const [left, wide] = [middle - step * 0.4, step * 0.8];
    return `<rect x="${left}" y="${116 - tall}" width="${wide}" height="${tall}" fill="#0072b2"/>` +
      (every > 1 && share < 0.005 ? "" : label(middle, 112 - tall, "middle", percent(share), 10)) +
      (i % every ? "" : label(middle, 129, "middle", first, 10));
  });
  return parts.join("") + label(width / 2, 146, "middle", "from this age to below the next");
}

export default {
  render({ model, el }) {
    let head, bright, zoom = 1, width = 0, saving;
    const signs = glyphs(uint8(model.get("_text")));
    const name = (place) => signs[place] || glyph(uint8(model.get("_text"))[place]);
    // The row, and whether the pointer may move it; runs ahead of the model.
    const told = () => ({ query: model.get("query"), isPinned: model.get("pinned") != null });
    let chosen = told();

    // What a reader sees
    const picture = element("canvas", { role: "img" });
    const spacer = element("div", {}, picture);
    const group = (name, about, ...children) =>
      element("div", { class: name, tabindex: 0, role: "group", "aria-label": about }, ...children);
    const map = group("shalab-map", "Map of weights; arrow keys choose the query byte, Enter pins it", spacer);
    const around = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    around.setAttribute("aria-hidden", "true");
    const pointer = document.createElementNS("http://www.w3.org/2000/svg", "svg"); // a layer of its own, which moves
    pointer.setAttribute("aria-hidden", "true");
    pointer.style.willChange = "transform";
    const figure = element("div", { class: "shalab-figure" }, map, around, pointer);
    Object.assign(map.style, { left: `${LEFT}px`, top: `${TOP}px`, height: `${HEIGHT}px` });
    figure.style.height = `${TOP + HEIGHT + BOTTOM}px`;
    const title = element("div", { class: "shalab-title", role: "status" });
    const context = group("shalab-text", "Text around the query byte");
    const rows = Array.from({ length: model.get("_view").n_top }, () => {
      const cells = Array.from({ length: 5 }, () => new Text());
      const [weight, age, before, byte, after] = cells;
      const line = element("tr", {}, element("td", {}, weight), element("td", {}, age),
        element("td", { class: "shalab-text" }, before, element("mark", {}, byte), after));
      return { line, cells };
    });
    const table = element("tbody", {}, ...rows.map(({ line }) => line));
    const distances = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    distances.setAttribute("role", "img");

    // What a reader touches
    const row = slider("Query byte", { min: 0, max: 1, value: 0, oninput: (value) => choose(value) });
    const chooser = (text, trait, values) => values.length === 1 // nothing to choose
      ? { label: element("span", {}, `${text} ${values[0]}`), box: {} }
      : select(text, values.map((value) => [value, value]), {
        value: model.get(trait), onchange: (value) => send(trait, Number(value)),
      });
    const blocks = chooser("Block", "block", model.get("_blocks"));
    const heads = chooser("Head", "head", Array.from({ length: model.get("_n_heads") }, (_, i) => i));
    const scales = [["log", "logarithmic"], ["linear", "linear"]];
    const scale = select("Colour", scales, { value: "log", onchange: () => recolour() });
    const button = (text, label, onclick) => element("button", { "aria-label": label, title: label, onclick }, text);
    const zooms = [
      button("−", "Zoom out", () => zoomTo(zoom / 2)),
      button("+", "Zoom in", () => zoomTo(zoom * 2)),
      button("Whole", "Show the whole map", () => zoomTo(1)),
    ];
    const pin = element("button", { onclick: () => toggle() });
    const saves = [button("PNG", "Save as PNG", () => savePNG()), button("SVG", "Save as SVG", () => saveSVG())];

    const div = (name, ...children) => element("div", { class: name }, ...children);
    const columns = ["weight", "age", "the byte in its text"].map((name) => element("th", { scope: "col" }, name));
    const root = div("shalab shalab-explorer",
      div("shalab-row", blocks.label, heads.label, scale.label, div("", ...zooms), div("", ...saves)),
      figure,
      div("shalab-row", row.label, pin, model.get("_reach")),
      div("shalab-quiet",
        "Point at a row or use the arrow keys; click or Enter pins it. Ctrl and the wheel zoom; drag or scroll to move."),
      title,
      div("shalab-panel",
        div("shalab-column", context, div("shalab-title", "How far back the weight lies"), distances),
        element("table", {}, element("caption", {}, "Largest weights"),
          element("thead", {}, element("tr", {}, ...columns)), table)));
    el.append(root);

    let area; // of the map that is to be seen; kept, for asking the page where it is scrolled to lays it out

    function drawMap() {
      if (!width) return;
      area = {
        age: (map.scrollLeft / (width * zoom)) * head.nAges, nAges: head.nAges / zoom,
        row: (map.scrollTop / (HEIGHT * zoom)) * head.nQueries, nRows: head.nQueries / zoom,
      };
      paint(picture, head, area, bright);
      around.innerHTML = frame(head, area, width, signs, scale.box.value);
      drawMark();
    }

    function drawMark() {
      const y = middleOf(chosen.query, area), drawn = mark(10, width, chosen.isPinned);
      pointer.style.visibility = inside(y) ? "visible" : "hidden";
      pointer.style.transform = `translateY(${y - 10}px)`;
      if (drawn !== pointer.drawn) pointer.innerHTML = pointer.drawn = drawn;
    }

    function recolour() {
      bright = brightness(head, scale.box.value);
      drawMap();
      drawRow();
    }

    const excerpt = (place) => [
      signs.slice(Math.max(0, place - 16), place).join(""), name(place), signs.slice(place + 1, place + 13).join(""),
    ];

    /** The text around byte `at`, the bluer the more of row t's weight a byte has; equal neighbours share a span. */
    function runs(t, at, strongest) {
      const spans = [];
      let last;
      for (let place = Math.max(0, at - BEFORE); place < Math.min(signs.length, at + AFTER); place++) {
        const share = place <= at ? Math.round(11 * bright[head.code(t, at - place)]) * 5 : 0;  // 0 to 55 %
        const kind = place === at ? "query" : strongest.has(place) ? "strong" : "plain";
        if (kind + share !== last) {
          const shade = `background: color-mix(in srgb, var(--shalab-blue) ${share}%, transparent)`;
          spans.push([{ class: `shalab-${kind}`, style: place === at || !share ? null : shade }, ""]);
          last = kind + share;
        }
        spans.at(-1)[1] += signs[place] + (head.text[place] === 10 ? "\n" : "");
      }
      return spans.map(([look, letters]) => element("span", look, letters));
    }

    /** The panel below the map: all about the row that is looked at. */
    function drawRow() {
      const t = chosen.query, at = head.place(t, 0), top = head.top(t);
      title.textContent = `Query byte ${counted(t)} of ${counted(head.nQueries)}: “${name(at)}”` +
        (chosen.isPinned ? " (pinned)" : "");
      pin.textContent = chosen.isPinned ? "Unpin" : "Pin";
      context.replaceChildren(...runs(t, at, new Set(top.map(({ age }) => head.place(t, age)))));
      rows.forEach(({ line, cells }, k) => {
        line.hidden = k >= top.length;
        if (line.hidden) return;
        const said = [shortly(top[k].weight), counted(top[k].age), ...excerpt(head.place(t, top[k].age))];
        cells.forEach((cell, i) => { cell.data = said[i]; });
      });
      distances.innerHTML = bars(head, t, distances.viewBox.baseVal.width);
      const shares = head.shares(t);
      distances.setAttribute("aria-label", "Share of the weight by age: " +
        head.octaves.map((age, i) => `from ${age} ${(100 * shares[i]).toFixed(1)} %`).join(", "));
      row.range.setAttribute("aria-valuetext", `${t}, ${name(at)}`);
    }

    function sizeBars() {
      const wide = Math.min(36 * head.octaves.length, distances.parentElement.clientWidth || Infinity);
      distances.setAttribute("viewBox", `0 0 ${wide} 150`);
      distances.style.width = `${wide}px`;
    }

    /** A new head, or the first. */
    function load() {
      head = decode(model);
      row.range.max = head.nQueries - 1;
      picture.setAttribute("aria-label", `Attention of block ${model.get("block")}, head ${model.get("head")}: ` +
        `${counted(head.nQueries)} query bytes by ${counted(head.nAges)} ages; ` +
        `the largest weight is ${shortly(head.largest)}`);
      sizeBars();
      blocks.box.value = model.get("block");
      heads.box.value = model.get("head");
      row.set(chosen.query);
      recolour();
    }

    function moved() {
      row.set(chosen.query);
      drawMark();
      drawRow();
    }

    function resize() {
      const now = Math.max(50, figure.clientWidth - LEFT - RIGHT);
      if (now === width) return;
      width = now;
      around.setAttribute("width", LEFT + width + RIGHT);
      around.setAttribute("height", TOP + HEIGHT + BOTTOM);
      pointer.setAttribute("width", LEFT + width + RIGHT);
      pointer.setAttribute("height", 20);
      sizeBars();
      drawRow();
      zoomTo(zoom);
    }

    /** Zooms so that what is under (x, y) of the map stays there; without a place, the left edge and the chosen row. */
    function zoomTo(wanted, x = 0, y = ((chosen.query + 0.5) / head.nQueries) * HEIGHT * zoom - map.scrollTop) {
      const finest = Math.min((head.nAges * COLUMN) / width, (head.nQueries * ROW) / HEIGHT);
      const most = 2 ** Math.max(0, Math.ceil(Math.log2(finest)));
      const next = Math.min(most, Math.max(1, wanted)), factor = next / zoom;
      const [left, up] = [(map.scrollLeft + x) * factor - x, (map.scrollTop + y) * factor - y];
      zoom = next;
      map.style.width = `${width}px`;
      Object.assign(spacer.style, { width: `${width * zoom}px`, height: `${HEIGHT * zoom}px` });
      const ratio = window.devicePixelRatio || 1;
      Object.assign(picture, { width: Math.round(width * ratio), height: Math.round(HEIGHT * ratio) });
      Object.assign(picture.style, { width: `${width}px`, height: `${HEIGHT}px` });
      map.scrollTo(left, up);
      zooms[0].disabled = zooms[2].disabled = zoom === 1;
      zooms[1].disabled = zoom === most;
      drawMap();
    }

    function send(trait, value) {
      model.set(trait, value);
      model.save_changes();
    }

    /** Shows a choice at once and tells the kernel a little later: a moving pointer must not fill its queue. */
    function choose(row, isPinned = chosen.isPinned) {
      const query = Math.min(head.nQueries - 1, Math.max(0, row));
      if (query === chosen.query && isPinned === chosen.isPinned) return;
      chosen = { query, isPinned };
      moved();
      clearTimeout(saving);
      saving = setTimeout(() => {
        const { query: row, isPinned: held } = chosen; // each set() is heard here as well
        model.set("query", row);
        model.set("pinned", held ? row : null);
        model.save_changes();
      }, 60);
    }

    const toggle = () => choose(chosen.query, !chosen.isPinned);

    function rowAt(event) {
      const y = event.clientY - picture.getBoundingClientRect().top;
      return Math.floor(area.row + (y / HEIGHT) * area.nRows);
    }

    function reveal() {
      const y = ((chosen.query + 0.5) / head.nQueries) * HEIGHT * zoom;
      if (y < map.scrollTop || y > map.scrollTop + HEIGHT) map.scrollTop = y - HEIGHT / 2;
    }

    // Rows grow downwards, where a slider's value grows upwards.
    const keys = {
      ArrowUp: () => choose(chosen.query - 1), ArrowDown: () => choose(chosen.query + 1),
      PageUp: () => choose(chosen.query - Math.ceil(head.nQueries / zoom / 10)),
      PageDown: () => choose(chosen.query + Math.ceil(head.nQueries / zoom / 10)),
      Home: () => choose(0), End: () => choose(head.nQueries - 1), Enter: toggle,
    };
    for (const node of [map, row.range]) {
      node.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || !keys[event.key]) return;
        event.preventDefault();
        keys[event.key]();
        reveal();
      });
    }
    let held = null;  // where the map is being dragged from
    map.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX + map.scrollLeft, y: event.clientY + map.scrollTop, moved: false };
    });
    map.addEventListener("pointermove", (event) => {
      if (!event.buttons && !chosen.isPinned) choose(rowAt(event));
      if (!event.buttons) return;
      if (!held) return;
      held.moved ||= Math.hypot(event.clientX + map.scrollLeft - held.x, event.clientY + map.scrollTop - held.y) > 4;
      if (held.moved) map.scrollTo(held.x - event.clientX, held.y - event.clientY);
    });
    map.addEventListener("click", (event) => {
      const row = rowAt(event); // a click on the pinned row unpins it, on any other pins that one
      if (!held?.moved) choose(row, !(chosen.isPinned && row === chosen.query));
      held = null;
    });
    map.addEventListener("scroll", drawMap);
    map.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const box = picture.getBoundingClientRect();
      zoomTo(event.deltaY < 0 ? zoom * 2 : zoom / 2, event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });

    /** What is on the screen as a document of its own: the map is an image in it, all else is text and lines. */
    function svg() {
      const t = chosen.query, y = TOP + HEIGHT + BOTTOM + 24, marked = middleOf(t, area), wide = distances.viewBox.baseVal.width;
      const lines = [title.textContent, ...head.top(t).map(({ age, weight }) => {
        const [before, byte, after] = excerpt(head.place(t, age));
        return `${shortly(weight)} at age ${counted(age)}: ${before}«${byte}»${after}`;
      })];
      const listed = lines.map((text, i) =>
        `<text x="${LEFT}" y="${y + 18 * i}" font-size="12" font-family="monospace" xml:space="preserve">` +
        `${escaped(text)}</text>`);
      const total = LEFT + RIGHT + Math.max(width, wide, 7.3 * Math.max(...lines.map((text) => text.length))); // 12 px letters
      const below = y + 18 * lines.length, size = `width="${total}" height="${below + 160}"`;
      return `<svg xmlns="http://www.w3.org/2000/svg" ${size} viewBox="0 0 ${total} ${below + 160}" color="${DARK}">` +
        `<rect width="100%" height="100%" fill="${LIGHT}"/>` +
        `<image x="${LEFT}" y="${TOP}" width="${width}" height="${HEIGHT}" href="${picture.toDataURL()}"/>` +
        frame(head, area, width, signs, scale.box.value) + (inside(marked) ? mark(marked, width, chosen.isPinned) : "") +
        listed.join("") +
        `<g transform="translate(${LEFT} ${below})">${bars(head, t, wide)}</g></svg>`;
    }

    const saveSVG = () => download("attention.svg", new Blob([svg()], { type: "image/svg+xml" }));

    async function savePNG() {
      const image = new Image();
      image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg())}`;
      await image.decode();
      const page = element("canvas", { width: 2 * image.width, height: 2 * image.height });
      page.getContext("2d").drawImage(image, 0, 0, page.width, page.height);
      page.toBlob((blob) => download("attention.png", blob));
    }

    const sizes = new ResizeObserver(resize);
    sizes.observe(root);
    load();
    resize();
    model.on("change:_view", load);
    function take() {
      chosen = told();
      moved();
    }
    for (const trait of ["query", "pinned"]) model.on(`change:${trait}`, take);
    return () => {
      clearTimeout(saving);
      sizes.disconnect();
      model.off("change:_view", load);
      for (const trait of ["query", "pinned"]) model.off(`change:${trait}`, take);
    };
  },
};
