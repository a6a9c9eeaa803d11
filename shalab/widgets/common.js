// Shared by all widgets; base.py puts this in front of each widget's own file.

/** element("button", {class: "x", onclick: f}, "text", child) */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** A labelled native control. */
function labelled(text, control) {
  return element("label", { class: "shalab-control" }, element("span", {}, text), control);
}

function slider(text, { min, max, step = 1, value, oninput }) {
  const shown = element("output", {}, String(value));
  const range = element("input", {
    type: "range", min, max, step, value,
    oninput: () => { shown.textContent = range.value; oninput(Number(range.value)); },
  });
  const label = labelled(text, range);
  label.append(shown);
  return { label, range, set(v) { range.value = v; shown.textContent = String(range.value); } };
}

function select(text, options, { value, onchange }) {
  const box = element("select", { onchange: () => onchange(box.value) },
    ...options.map(([v, name]) => element("option", { value: v, selected: String(v) === String(value) }, name)));
  return { label: labelled(text, box), box };
}

/**
 * A key that is pressed in a widget is the widget's, and no shortcut: an arrow chooses no other cell, and Enter edits none.
 * But Escape, Tab, and a key with Ctrl, Meta or Alt do what they do everywhere. JupyterLab and nbclassic look for shortcuts
 * where a key has bubbled up to the document; Notebook 7 does before it reaches its node, and asks that for the attribute.
 */
function keepKeys(event) {
  const root = event.target.closest?.(".shalab");
  if (!root) return;
  const own = !["Escape", "Tab"].includes(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey;
  event.target.toggleAttribute("data-lm-suppress-shortcuts", own);
  root.onkeydown = own ? (bubbled) => bubbled.stopPropagation() : null;
}
if (!window.shalabKeys) window.addEventListener("keydown", window.shalabKeys = keepKeys, true); // one for all widgets

/** A canvas in device pixels, with a name for screen readers. Returns [canvas, context in CSS pixels]. */
function canvas(width, height, name, attributes = {}) {
  const ratio = window.devicePixelRatio || 1;
  const node = element("canvas", { role: "img", "aria-label": name, ...attributes });
  Object.assign(node, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  Object.assign(node.style, { width: `${width}px`, height: `${height}px` });
  const context = node.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return [node, context];
}

/** The theme's value of a CSS variable, such as "--shalab-ink"; canvases cannot inherit colours. */
function themed(node, name) {
  return getComputedStyle(node).getPropertyValue(name).trim();
}

/** Calls `draw` when JupyterLab changes its theme; returns the function that ends it. */
function onTheme(draw) {
  const observer = new MutationObserver(draw);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
  return () => observer.disconnect();
}

/** Bytes that have no glyph, or are no whole character, as something that can be seen. */
function glyph(byte) {
  if (byte === 10) return "↵";
  if (byte === 9) return "⇥";
  if (byte === 13) return "␍";
  if (byte < 32) return String.fromCharCode(0x2400 + byte);
  if (byte < 127) return String.fromCharCode(byte);
  if (byte === 127) return "␡";
  return `⟨${byte.toString(16).toUpperCase().padStart(2, "0")}⟩`;
}

/**
 * One glyph per byte; the bytes of a whole UTF-8 character share it: it stands at its first byte, "" at the rest.
 * Characters that nobody sees, such as those that turn the direction of writing, are shown as their bytes.
 */
function glyphs(bytes) {
  const shown = Array.from(bytes, glyph);
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (let i = 0; i < bytes.length; i++) {
    const length = bytes[i] >= 0xf0 ? 4 : bytes[i] >= 0xe0 ? 3 : bytes[i] >= 0xc2 ? 2 : 1;
    if (length === 1) continue;
    try {
      const character = decoder.decode(bytes.slice(i, i + length));
      if (!/[\p{C}\p{Zl}\p{Zp}]/u.test(character)) {
        shown[i] = character;
        shown.fill("", i + 1, i + length);
      }
      i += length - 1;
    } catch { /* no whole character: each byte keeps its own sign */ }
  }
  return shown;
}

/** A traitlet of raw bytes arrives as a DataView. */
function uint8(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function float32(view) {
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** Linear interpolation in a list of [r, g, b]; 256 entries of cividis' anchors are told apart in any colour vision. */
function palette(anchors) {
  return Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (anchors.length - 1), low = Math.min(Math.floor(place), anchors.length - 2);
    return anchors[low].map((c, k) => Math.round(c + (anchors[low + 1][k] - c) * (place - low)));
  });
}

const CIVIDIS = palette([
  [0, 32, 77], [0, 51, 107], [51, 68, 106], [85, 91, 109], [112, 113, 115],
  [142, 138, 121], [171, 163, 118], [202, 188, 105], [236, 215, 86], [255, 233, 69],
]);

function download(name, blob) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
