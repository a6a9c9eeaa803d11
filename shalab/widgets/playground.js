const FULL = 8; // bits of a byte that is coloured fully: what it costs without any model
const MOST_BYTES = 20000; // every character is a node of the page
const PACE_MS = 16; // between two bytes that are written

/**
 * Reads and writes texts with loaded networks. Works a moment at a time and listens in between, in a worker or beside
 * the page. Returns what takes the requests; post(answer) tells the page.
 *   {blobs}                                model's name -> weights; comes first
 *   {job, text, readers, write}            read the text with each of `readers`, [{name, weights, memory, known}], known
 *                                          the records that the page has, then let the first one write:
 *                                          {first, last, pace, temperature, topP, seed}, bytes first to last of what that
 *                                          seed draws. A newer job ends an older one.
 * Answers: {job, name, from, records, byte} and, at the end of reading and of writing, {job, name, done}. records[k] is
 * about place from + k of the text: {bits, rank, top, seen}, what its byte cost and how many bytes were as likely or
 * likelier, [byte, probability, …] of the likeliest, [place, weight, …] where the head looked, null without a head; byte: it
 * was written now.
 */
function engine(post) {
  const KEPT = 256; // bytes between two states that are kept, to go back to after an edit
  const pasts = new Map(); // name -> how far that reader is
  let networks = {}, newest = 0;
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));

  /** The indices of the k largest, largest first. */
  function largest(values, k) {
    const found = [];
    for (let i = 0; i < values.length; i++) {
      if (found.length === k && values[i] <= values[found[k - 1]]) continue;
      let at = Math.min(found.length, k - 1);
      while (at > 0 && values[found[at - 1]] < values[i]) found[at] = found[--at];
      found[at] = i;
    }
    return found;
  }

  /** What was predicted for place n, against the byte that came, if one did. */
  function record({ n, logp, state }, byte) {
    const layers = n ? state.attention.map(({ weights }) => weights) : [];
    const mean = layers[1] ? layers[0].map((_, age) => layers.reduce((sum, row) => sum + row[age], 0) / layers.length) : layers[0] ?? [];
    return {
      bits: byte === undefined ? null : Math.max(0, -logp[byte] / Math.LN2),
      rank: byte === undefined ? null : logp.reduce((rank, value) => rank + (value >= logp[byte]), 0),
      top: n ? largest(logp, 6).flatMap((other) => [other, Math.exp(logp[other])]) : [],
      seen: layers.length === 0 ? null : largest(mean, 8).filter((age) => mean[age] >= 0.02).flatMap((age) => [n - 1 - age, mean[age]]),
    };
  }

  /** How far `reader` is, taken back to where its text and this one part. */
  function upTo(reader, text) {
    const network = networks[reader.weights];
    const fresh = () => ({ n: 0, state: network.start(), logp: new Float32Array(256).fill(-Math.log(256)) });
    let past = pasts.get(reader.name);
    if (!past) pasts.set(reader.name, past = { ...fresh(), bytes: [], marks: [] });
    let common = 0;
    while (common < Math.min(past.n, reader.known) && past.bytes[common] === text[common]) common++;
    if (common < past.n) {
      past.marks = past.marks.filter(({ n }) => n <= common);
      const mark = past.marks.at(-1);
      Object.assign(past, mark ? { ...mark, state: network.copy(mark.state) } : fresh());
    }
    past.bytes.length = past.n;
    return past;
  }

  function read(reader, past, byte) {
    const network = networks[reader.weights];
    past.logp = logSoftmax(network.step(past.state, byte, { memory: reader.memory }));
    past.bytes.push(byte);
    past.n++;
    if (past.n % KEPT === 0) past.marks.push({ n: past.n, logp: past.logp, state: network.copy(past.state) });
  }

  async function work({ job, text, readers, write }) {
    for (const reader of readers) {
      const past = upTo(reader, text), { name } = reader;
      let from = past.n, records = [], began = performance.now();
      while (past.n < text.length) {
        records.push(record(past, text[past.n]));
        read(reader, past, text[past.n]);
        if (performance.now() - began < 60) continue;
        post({ job, name, from, records });
        await pause(0);
        if (job !== newest) return;
        [from, records, began] = [past.n, [], performance.now()];
      }
      post({ job, name, from, records: [...records, record(past)] });
      post({ job, name, done: true });
    }
    if (!write) return;
    const past = pasts.get(readers[0].name), { name } = readers[0];
    for (let k = write.first; k < write.last; k++) {
      await pause(write.pace);
      if (job !== newest) return;
      // Each byte has numbers of its own: what was drawn and did not reach a page that paused is drawn again.
      const random = uniform(write.seed ^ Math.imul(k, 0x9e3779b9));
      const byte = drawByte(past.logp, write, random), from = past.n, came = record(past, byte);
      read(readers[0], past, byte);
      post({ job, name, from, records: [came, record(past)], byte });
    }
    post({ job, name, done: true });
  }

  return (request) => {
    if (request.blobs) {
      networks = Object.fromEntries(Object.entries(request.blobs).map(([name, bytes]) => [name, loadNetwork(bytes)]));
    } else {
      newest = request.job;
      work(request);
    }
  };
}

/** An engine in a worker, so that typing stays smooth; where a page may have none, beside it. Returns {send, end}. */
function begin(blobs, take) {
  const parts = [loadNetwork, linear, logSoftmax, uniform, drawByte, engine];
  const code = `${parts.join("\n")}\nconst receive = engine(postMessage);\nonmessage = ({ data }) => receive(data);`;
  const asked = []; // what a worker that never began has not done
  let worker = null, receive = null;
  const beside = () => {
    worker = null;
    receive = engine((answer) => setTimeout(() => take(answer)));
    asked.splice(0).forEach(receive);
  };
  const send = (request) => {
    if (receive) return receive(request);
    if (asked.length < 2) asked.push(request);
    else asked[1] = request;
    worker?.postMessage(request);
  };
  try {
    const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    worker = new Worker(url);
    worker.onmessage = ({ data }) => take(data);
    worker.onerror = beside;
  } catch {
    beside();
  }
  send({ blobs });
  return { send, end: () => worker?.terminate() };
}

/** Bytes as a text for a field. What no field keeps, or is no whole character, is a lone surrogate: U+DC00 + byte. */
function toText(bytes) {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }), escaped = (b) => String.fromCharCode(0xdc00 + b);
  let text = "";
  for (let i = 0; i < bytes.length; i++) {
    const b = bytes[i], length = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : b >= 0xc2 ? 2 : 1;
    if (length === 1) {
      text += b < 127 && (b >= 32 || b === 9 || b === 10) ? String.fromCharCode(b) : escaped(b);
      continue;
    }
    try {
      text += decoder.decode(Uint8Array.from(bytes.slice(i, i + length)));
      i += length - 1;
    } catch {
      text += escaped(b);
    }
  }
  return text;
}

function toBytes(text) {
  const encoder = new TextEncoder();
  return text.split(/([\udc00-\udcff])/u).flatMap((part, i) => (i % 2 ? [part.charCodeAt(0) & 0xff] : [...encoder.encode(part)]));
}

/** What a reader sees as one sign each. */
function clusters(text) {
  return Intl.Segmenter ? Array.from(new Intl.Segmenter().segment(text), ({ segment }) => segment) : [...text];
}

async function gzipped(bytes) {
  const stream = new Blob([Uint8Array.from(bytes)]).stream().pipeThrough(new CompressionStream("gzip"));
  return (await new Response(stream).arrayBuffer()).byteLength;
}

export default {
  render({ model, el }) {
    el.classList.add("shalab");
    const readers = model.get("readers"), first = readers[0].name;
    const blobs = Object.fromEntries(Object.entries(model.get("weights")).map(([name, view]) => [name, uint8(view)]));
    const count = (n, noun = "byte") => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
    const sign = (byte) => (byte === 32 ? "␣" : glyph(byte));
    const percent = (p) => (p < 0.0005 ? "<0.1 %" : `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`);
    const signed = (value, digits) => (value > 0 && view()[1] ? "+" : "") + value.toFixed(digits).replace("-", "−");

    let bytes = [], cells = [], cellOf = []; // cells: {text, begin, size, at, node}; cellOf[byte]
    let cursor = 0, written = Infinity, job = 0, phase = "still"; // or reading, writing, paused
    const results = new Map(readers.map(({ name }) => [name, []])); // records by place
    let edit = null; // {old, tail}: the costs before an edit, and how many bytes at the end have not been touched
    let left = 0; // bytes still to write after a pause

    // What is shown: a reader, or another one's difference to the first
    const views = [...readers.map(({ name }) => [name]), ...readers.slice(1).map(({ name }) => [name, first])];
    const viewName = ([name, other]) => (other ? `${name} − ${first}` : name);
    const view = () => views[model.get("shown")];
    const needed = () => [...new Set([first, ...view()])];
    const chosen = select("colours show", views.map((v, i) => [i, viewName(v)]), {
      value: model.get("shown"), onchange: (i) => { model.set("shown", Number(i)); model.save_changes(); },
    });
    const legend = element("div", { class: "shalab-row" });

    const mirror = element("div", { class: "shalab-mirror", "aria-hidden": "true" });
    const field = element("textarea", {
      class: "shalab-field", "aria-label": "the text; the line below tells what the byte after the caret cost",
      spellcheck: "false", autocomplete: "off", autocapitalize: "off", autocorrect: "off", rows: 1,
    });
    const lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    lines.setAttribute("aria-hidden", "true");
    const sheet = element("div", { class: "shalab-sheet" }, mirror, lines, field);
    const page = element("div", { class: "shalab-text shalab-page shalab-playground" }, sheet);
    const told = element("p", { class: "shalab-told", "aria-live": "polite" });
    const panel = element("div", { class: "shalab-side shalab-guesses" });
    const changed = element("p", { class: "shalab-told" });
    const scores = element("table", { class: "shalab-scores" });
    const megabytes = (Object.values(blobs).reduce((sum, { length }) => Math.max(sum, length), 0) / 1e6).toPrecision(2);
    const note = element("p", { class: "shalab-quiet" }, `A file of the text alone: who unpacks it needs the network, too, ${megabytes} MB.`);
    const state = element("span", { class: "shalab-quiet", role: "status" });

    const knob = (text, name, max) => slider(text, {
      min: name === "top_p" ? 0.05 : 0, max, step: 0.05, value: model.get(name),
      oninput: (value) => { model.set(name, value); model.save_changes(); },
    });
    const number = (text, name, min, max) => {
      const box = element("input", { type: "number", min, max, step: 1, value: model.get(name) });
      box.addEventListener("change", () => {
        const value = Math.round(Number(box.value));
        if (Number.isFinite(value) && value >= min && value <= max) model.set(name, value);
        box.value = model.get(name);
        model.save_changes();
      });
      return { label: labelled(text, box), set: (value) => { box.value = value; } };
    };
    const knobs = {
      temperature: knob("temperature", "temperature", 2), top_p: knob("top-p", "top_p", 1),
      seed: number("seed", "seed", 0, 2 ** 31 - 1), n_bytes: number("bytes", "n_bytes", 1, MOST_BYTES),
    };
    const button = (text, onclick) => element("button", { onclick }, text);
    const writes = button("write on", () => {
      if (phase === "writing") stopWriting("paused");
      else write(phase === "paused");
    });
    const stops = button("stop", () => { stopWriting("still"); });
    const takes = button("take back", () => {
      setText(bytes.slice(0, written));
      written = Infinity;
      read(); // after a pause nothing goes on
      move(Math.min(cursor, bytes.length));
    });
    // The buttons come before what grows: none moves away from the pointer while the network writes.
    el.append(element("div", { class: "shalab-row" }, writes, stops, takes, ...Object.values(knobs).map(({ label }) => label)),
      element("div", { class: "shalab-row" }, views.length > 1 ? chosen.label : null, legend), page, told, panel,
      scores, note, changed, element("p", {}, state));

    const worker = begin(blobs, take);

    // ---- the text

    /** Takes a new text: its characters become nodes, as far as they are not there yet. */
    function setText(newBytes, { keepField = false } = {}) {
      const text = toText(newBytes), parts = clusters(text);
      let head = 0, tail = 0;
      while (head < Math.min(cells.length, parts.length) && cells[head].text === parts[head]) head++;
      const most = Math.min(cells.length, parts.length) - head;
      while (tail < most && cells[cells.length - 1 - tail].text === parts[parts.length - 1 - tail]) tail++;
      const old = cells.slice(head, cells.length - tail);
      const fresh = parts.slice(head, parts.length - tail).map((part) => ({
        text: part, size: toBytes(part).length,
        node: element("span", { class: part === "\n" ? "shalab-byte shalab-break" : "shalab-byte" }, part),
      }));
      old.forEach(({ node }) => node.remove());
      const before = cells[cells.length - tail]?.node ?? mark;
      fresh.forEach(({ node }) => mirror.insertBefore(node, before));
      cells.splice(head, old.length, ...fresh);
      const unchanged = head ? cells[head - 1].begin + cells[head - 1].size : 0, oldLength = bytes.length;
      bytes = newBytes;
      cellOf = [];
      let at = 0;
      for (const [i, cell] of cells.entries()) {
        Object.assign(cell, { begin: cellOf.length, at });
        at += cell.text.length;
        for (let k = 0; k < cell.size; k++) cellOf.push(i);
      }
      const end = cells.slice(cells.length - tail).reduce((sum, { size }) => sum + size, 0);
      if (!edit) { // a reader that was not through yet has nothing to compare with
        const old = [...results].map(([name, rows]) => [name, rows.length > oldLength ? rows.slice(0, oldLength) : []]);
        edit = { old: new Map(old), tail: end };
      }
      edit.tail = Math.min(edit.tail, end);
      for (const rows of results.values()) rows.length = Math.min(rows.length, unchanged);
      if (bytes.length < written || unchanged < written) written = Infinity;
      if (!keepField && field.value !== text) field.value = text;
      paint(unchanged, bytes.length + 1);
    }
    const mark = element("span", { class: "shalab-next" }, "\u200b"); // after the last character
    mirror.append(mark);

    field.addEventListener("input", () => {
      let fresh = toBytes(field.value);
      const long = fresh.length > MOST_BYTES;
      while (fresh.length > MOST_BYTES) fresh = toBytes(toText(fresh.slice(0, MOST_BYTES)));
      setText(fresh, { keepField: !long });
      read();
      if (long) state.textContent = `at most ${count(MOST_BYTES)}: the rest was cut off`;
      follow();
    });

    /** The byte after the caret. */
    function follow() {
      const at = field.selectionStart, cell = cells.find((c) => c.at + c.text.length > at);
      move(cell ? cell.begin : bytes.length);
    }
    for (const event of ["keyup", "click", "select", "focus"]) field.addEventListener(event, follow);
    field.addEventListener("pointermove", ({ clientX, clientY }) => {
      const node = el.getRootNode().elementsFromPoint(clientX, clientY).find((one) => one.parentNode === mirror && one !== mark);
      if (!node) return;
      const cell = cells.find((c) => c.node === node), box = node.getBoundingClientRect();
      const part = Math.floor(((clientX - box.left) / Math.max(1, box.width)) * cell.size);
      move(cell.begin + Math.max(0, Math.min(cell.size - 1, part)));
    });

    // ---- reading and writing

    let timer = null, started = 0, startedAt = 0;
    function request(extra = {}) {
      const asked = needed().map((name) => ({ ...readers.find((reader) => reader.name === name), known: results.get(name).length }));
      job += 1;
      started = performance.now();
      startedAt = results.get(first).length;
      worker.send({ job, text: bytes.slice(), readers: asked, ...extra });
      clearTimeout(timer);
      timer = setTimeout(save, 300);
    }

    function read() {
      phase = "reading";
      request();
      buttons();
    }

    function write(goOn) {
      const [temperature, topP, seed, n] = Object.keys(knobs).map((name) => model.get(name));
      const drawn = goOn ? bytes.length - written : 0;
      left = Math.min(goOn ? left : n, MOST_BYTES - bytes.length);
      if (left < 1) {
        state.textContent = `the text has ${count(bytes.length)}: no room for more`;
        return;
      }
      if (!goOn) written = bytes.length;
      phase = "writing";
      move(bytes.length);
      request({ write: { first: drawn, last: drawn + left, pace: PACE_MS, temperature, topP, seed } });
      buttons();
    }

    function stopWriting(next) {
      read();
      phase = next;
      buttons();
    }

    function buttons() {
      writes.textContent = { writing: "pause", paused: "go on" }[phase] ?? "write on";
      stops.disabled = !["writing", "paused"].includes(phase);
      takes.disabled = written >= bytes.length;
      told.setAttribute("aria-live", phase === "writing" ? "off" : "polite");
    }

    function take({ job: of, name, from, records, byte, done }) {
      if (of !== job) return;
      const rows = results.get(name);
      if (byte !== undefined) {
        left -= 1;
        const all = [...bytes, byte], begin = written, atEnd = cursor === bytes.length;
        setText(all);
        written = begin;
        if (atEnd) cursor = bytes.length;
        page.scrollTop = page.scrollHeight;
      }
      if (records) {
        records.forEach((record, k) => { rows[from + k] = record; });
        paint(from, from + records.length);
        if (cursor >= from && cursor < from + records.length) tell();
        const all = count(bytes.length), upTo = rows.length - 1;
        if (phase === "reading") state.textContent = `${name} has read ${upTo.toLocaleString("en")} of ${all}`;
        if (phase === "writing") state.textContent = `${first} writes: ${count(left)} to go`;
      }
      if (done) finish(name);
    }

    function finish(name) {
      const complete = needed().every((one) => results.get(one).length > bytes.length);
      if (phase === "writing" && !left) {
        phase = "still";
        state.textContent = `${first} has written ${count(bytes.length - written)}`;
        buttons();
        save();
        if (!complete) return read();
      }
      if (!complete) return;
      if (phase === "reading") {
        const took = (performance.now() - started) / 1000, n = bytes.length - startedAt;
        state.textContent = n > 500 ? `read at ${count(Math.round(n / took))} a second by each, in this browser` : "";
        phase = "still";
      }
      buttons();
      compare();
      showScores();
      tell();
    }

    /** What an edit did to the price of all that follows it. */
    function compare() {
      if (!edit) return;
      const { old, tail } = edit, name = view()[0], before = old.get(name);
      edit = null;
      changed.textContent = "";
      if (!tail || before.length < tail || before.length === tail && tail === bytes.length) return;
      const total = (rows) => rows.slice(-tail).reduce((sum, row) => sum + row.bits, 0); // complete, both of them
      const change = total(results.get(name).slice(0, bytes.length)) - total(before);
      const size = Math.abs(change).toFixed(1);
      changed.textContent = `After your last edit the ${count(tail)} that follow cost ${name} ` +
        (size === "0.0" ? "as much as before." : `${size} bits ${change > 0 ? "more" : "less"}.`);
    }

    let zipped = null;
    function save() {
      const now = bytes;
      model.set("text", new DataView(Uint8Array.from(bytes).buffer));
      model.save_changes();
      gzipped(bytes).then((size) => {
        zipped = now === bytes ? size : null;
        showScores();
      });
    }

    // ---- what is shown

    const value = (i) => {
      const [name, other] = view(), bits = results.get(name)[i]?.bits, others = other && results.get(other)[i]?.bits;
      return bits == null || (other && others == null) ? null : bits - (other ? others : 0);
    };
    const level = (bits) => Math.min(1, Math.abs(bits) / FULL);

    function shade(node, bits) {
      const most = bits.reduce((a, b) => (Math.abs(b ?? 0) > Math.abs(a) ? b : a), 0);
      node.style.setProperty("--level", level(most).toFixed(3));
      node.classList.toggle("shalab-cheaper", most < 0);
      const stripes = bits.map((b, k) => {
        const ink = `color-mix(in srgb, var(--${b < 0 ? "cheap" : "dear"}) ${(100 * level(b ?? 0)).toFixed(1)}%, var(--shalab-paper))`;
        return `${ink} ${(100 * k) / bits.length}% ${(100 * (k + 1)) / bits.length}%`;
      });
      node.style.backgroundImage = bits.length > 1 ? `linear-gradient(90deg, ${stripes})` : ""; // a byte, a stripe
    }

    function paint(from, to) {
      const begin = cellOf[from] ?? cells.length, end = cellOf[to - 1] ?? cells.length - 1;
      for (let i = begin; i <= end; i++) {
        const cell = cells[i];
        shade(cell.node, Array.from({ length: cell.size }, (_, k) => value(cell.begin + k)));
        cell.node.classList.toggle("shalab-written", cell.begin >= written);
      }
    }

    let marked = null;
    function move(i) {
      cursor = Math.max(0, Math.min(bytes.length, i));
      tell();
    }

    /** The text around a byte, the byte in bold. */
    function around(i) {
      const here = cellOf[i];
      const part = (from, to) =>
        cells.slice(Math.max(0, from), to).map(({ text }) => text.replace("\n", "↵").replace("\t", "⇥")).join("");
      return element("span", { class: "shalab-text" },
        part(here - 12, here), element("mark", {}, part(here, here + 1)), part(here + 1, here + 5));
    }

    function tell() {
      marked?.classList.remove("shalab-cursor");
      marked = cursor < bytes.length ? cells[cellOf[cursor]].node : mark;
      marked.classList.add("shalab-cursor");
      const byte = bytes[cursor], names = needed(), rows = names.map((name) => results.get(name)[cursor]);
      const prices = names.flatMap((name, i) => rows[i]?.bits == null ? [] : [(names.length > 1 ? `${name} ` : "") +
        `${rows[i].bits.toFixed(2)} bits, probability ${percent(2 ** -rows[i].bits)}` + (cursor ? `, guess no. ${rows[i].rank}` : "")]);
      told.textContent = byte === undefined
        ? `byte ${cursor.toLocaleString("en")}: what comes next`
        : `byte ${cursor.toLocaleString("en")}, ${sign(byte)} (${byte}): ${prices.join("; ") || "not read yet"}`;
      const looking = rows[names.indexOf(view()[1] ?? view()[0])];
      panel.replaceChildren(inside(), ...names.map((name, i) => guesses(name, rows[i], byte)), looks(looking));
      draw(looking);
    }

    /** A character of several bytes: each of them has a price. */
    function inside() {
      const cell = cells[cellOf[cursor]];
      if (!cell || cell.size < 2) return "";
      return element("div", { class: "shalab-row", role: "group", "aria-label": `the bytes of ${cell.text}` },
        ...Array.from({ length: cell.size }, (_, k) => {
          const i = cell.begin + k, bits = value(i);
          const node = button(`${glyph(bytes[i])} ${bits == null ? "" : signed(bits, 1)}`, () => {
            move(i);
            panel.querySelectorAll(".shalab-row button")[k]?.focus();
          });
          node.setAttribute("aria-pressed", String(i === cursor));
          return node;
        }));
    }

    function guesses(name, row, byte) {
      if (!row || !cursor) return "";
      const pairs = Array.from({ length: row.top.length / 2 }, (_, k) => row.top.slice(2 * k, 2 * k + 2));
      if (byte !== undefined && row.rank > pairs.length) pairs.push([byte, 2 ** -row.bits]);
      return element("table", { class: "shalab-next-bytes" }, element("caption", {}, `${name} expects`),
        element("tbody", {}, ...pairs.map(([other, p], k) => element("tr", { class: other === byte ? "shalab-came" : null },
          element("th", { scope: "row", class: "shalab-text" }, sign(other)), element("td", {}, percent(p)),
          element("td", {}, element("span", { class: "shalab-bar", "aria-hidden": "true", style: `width: ${Math.max(1, 90 * p)}px` }),
            other === byte ? ` came${k === 6 ? `, no. ${row.rank}` : ""}` : "")))));
    }

    function looks(row) {
      const quiet = (text) => element("div", { class: "shalab-quiet" }, text);
      if (!cursor) return quiet("Nothing precedes the first byte: all 256 are equally likely.");
      if (!row?.seen) return "";
      if (!row.seen.length) return quiet("The head looks at nothing in particular.");
      const pairs = Array.from({ length: Math.min(5, row.seen.length / 2) }, (_, k) => row.seen.slice(2 * k, 2 * k + 2));
      return element("table", { class: "shalab-looks" }, element("caption", {}, "the head looks at"),
        element("tbody", {}, ...pairs.map(([place, weight]) => element("tr", {}, element("td", {}, percent(weight)),
          element("td", {}, around(place)), element("td", { class: "shalab-quiet" }, `${count(cursor - place)} back`)))));
    }

    /** Lines from the byte to where the head looked while it was predicted. */
    function draw(row) {
      lines.replaceChildren();
      if (!row?.seen) return;
      const origin = sheet.getBoundingClientRect(), svg = (tag, attributes) => {
        const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
        for (const [name, v] of Object.entries(attributes)) node.setAttribute(name, v);
        lines.append(node);
      };
      const place = (node) => {
        const box = node.getClientRects()[0];
        return box && { left: box.left - origin.left, top: box.top - origin.top, width: box.width, height: box.height };
      };
      const from = place(marked);
      for (let k = 0; k < row.seen.length; k += 2) {
        const to = place(cells[cellOf[row.seen[k]]].node), weight = row.seen[k + 1];
        if (!to || !from) continue;
        const oneLine = Math.abs(to.top - from.top) < 4, opacity = Math.min(1, 0.3 + weight);
        const [x0, y0, x1, y1] = [from.left + from.width / 2, from.top, to.left + to.width / 2, to.top + (oneLine ? 0 : to.height + 1)];
        const bend = oneLine ? y0 - Math.min(40, 8 + Math.abs(x1 - x0) / 8) : y1 + (y0 - y1) / 2; // a bow, or down to the left
        svg("path", { d: `M${x0} ${y0} Q${oneLine ? (x0 + x1) / 2 : x1} ${Math.max(2, bend)} ${x1} ${y1}`, opacity, "stroke-width": 1 + 1.5 * weight });
        svg("rect", { x: to.left - 1, y: to.top - 1, width: to.width + 2, height: to.height + 2, rx: 2, opacity, "stroke-width": 1 + weight });
      }
    }

    function showScores() {
      const n = bytes.length, rows = needed().map((name) => {
        const done = results.get(name).slice(0, n), complete = done.length === n && done.every(({ bits }) => bits !== null);
        return [name, complete ? done.reduce((sum, { bits }) => sum + bits, 0) : null];
      });
      const shown = (bits) => (bits === null || !n ? ["…", "…"] : [(bits / n).toFixed(3), count(Math.ceil(bits / 8))]);
      const all = [...rows.map(([name, bits]) => [name, ...shown(bits)]),
        ["gzip, this browser's", ...(zipped === null || !n ? ["…", "…"] : [(8 * zipped / n).toFixed(3), count(zipped)])],
        ["as it is", "8.000", count(n)]];
      scores.replaceChildren(
        element("caption", {}, "what the text costs"),
        element("thead", {}, element("tr", {}, element("td"), ...["bits per byte", "as a file"].map((name) => element("th", { scope: "col" }, name)))),
        element("tbody", {}, ...all.map(([name, ...cellsOfRow]) => element("tr", {}, element("th", { scope: "row" }, name), ...cellsOfRow.map((cell) => element("td", {}, cell))))));
      const known = Object.fromEntries(rows.filter(([, bits]) => bits !== null && n).map(([name, bits]) => [name, bits / n]));
      model.set("scores", known);
      model.save_changes();
    }

    function showView() {
      const [, other] = view();
      chosen.box.value = model.get("shown");
      const ticks = other ? [-8, -4, -2, -1, 0, 1, 2, 4, 8] : [0, 1, 2, 3, 4, 5, 6, 7, 8];
      legend.replaceChildren("bits:", ...ticks.map((bits) => {
        const swatch = element("span", { class: "shalab-byte shalab-swatch" },
          signed(bits, 0) + (Math.abs(bits) === FULL ? (bits < 0 ? " or less" : " or more") : ""));
        shade(swatch, [bits]);
        return swatch;
      }));
      paint(0, bytes.length + 1);
      tell();
      read();
    }

    const textFromPython = () => {
      const own = uint8(model.get("text"));
      if (own.length === bytes.length && own.every((byte, i) => byte === bytes[i])) return;
      setText(Array.from(own));
      cursor = Math.min(cursor, bytes.length);
      read();
      tell();
    };
    const setKnobs = () => Object.entries(knobs).forEach(([name, knob]) => knob.set(model.get(name)));
    const knobNames = Object.keys(knobs).map((name) => `change:${name}`).join(" ");
    const resized = new ResizeObserver(() => tell());
    model.on("change:text", textFromPython);
    model.on("change:shown", showView);
    model.on(knobNames, setKnobs);
    setText(Array.from(uint8(model.get("text"))));
    edit = null;
    cursor = bytes.length;
    showView();
    resized.observe(page);
    return () => {
      worker.end();
      resized.disconnect();
      clearTimeout(timer);
      model.off("change:text", textFromPython);
      model.off("change:shown", showView);
      model.off(knobNames, setKnobs);
    };
  },
};
