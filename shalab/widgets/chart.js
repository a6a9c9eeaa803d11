// Curves on a canvas, for the widgets that show a run.

/** A canvas as wide as its place. draw(context, width, height) is called at each size and theme, and by redraw(). */
function chart(height, name, draw) {
  const node = element("div", { class: "shalab-chart" });
  let board = null;
  function redraw() {
    const width = Math.floor(node.clientWidth);
    if (width < 1) return;
    if (!board || board.width !== width) {
      const [sheet, context] = canvas(width, height, name());
      node.replaceChildren(sheet);
      board = { width, sheet, context };
    }
    board.sheet.setAttribute("aria-label", name());
    board.context.clearRect(0, 0, width, height);
    draw(board.context, width, height);
  }
  const observer = new ResizeObserver(redraw);
  observer.observe(node);
  return { node, redraw, end: () => observer.disconnect() };
}

const short = (value, digits = 3) => {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(digits)}M`;
  if (size >= 1e3) return `${+(value / 1e3).toPrecision(digits)}k`;
  return size && size < 1e-3 ? value.toExponential(digits - 3) : String(+value.toPrecision(digits));
};

/** Up to about `n` round numbers from low to high. */
function ticks(low, high, n) {
  const raw = (high - low) / n || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9); i++) found.push(i * step);
  return found;
}

/** Powers of ten from low to high, with 2 and 5 between them where there is room; round numbers if that is none or one. */
function logTicks(low, high) {
  const found = [], steps = high / low < 100 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) found.push(...steps.map((m) => m * 10 ** power));
  const inside = found.filter((value) => value >= low && value <= high);
  return inside.length > 1 ? inside : ticks(low, high, 5); // at least two
}

/**
 * Curves over common axes.
 *   curves  {x, y, ink, name, dots, low, high}: low to high is a shaded range around y; ink a CSS variable; a curve
 *           has a gap where its y is no number
 *   levels  {name, y}: dashed lines across
 *   now     an x to mark
 *   ceiling what is above it may run out at the top
 *   range   [low, high] of the y axis, whatever the curves are
 * Returns where the axes lie: {left, right, top, bottom, px(x), py(y)}.
 */
function plot(context, width, height, { curves, levels = [], title, xName, log = false, now, ceiling = Infinity, range }) {
  const shade = (name) => themed(context.canvas, name);
  const font = (size) => `${size}px ${themed(context.canvas, "font-family") || "sans-serif"}`;
  context.font = font(11);
  const names = levels.map(({ name, y }) => `${name} ${y.toFixed(2)}`); // right of the curves, which end there
  const beside = Math.min(width / 4, Math.max(0, ...names.map((name) => context.measureText(name).width + 6)));
  const good = (value) => Number.isFinite(value) && (!log || value > 0);
  const left = 46, right = width - 8 - beside, bottom = height - (xName ? 34 : 20);
  context.font = font(12);
  const legend = curves.filter((curve) => curve.name && curve.y.some(good)).reverse();
  const wide = (text) => context.measureText(text).width;
  const long = legend.reduce((sum, { name }) => sum + wide(name) + 43, wide(title));
  const down = long > right ? 14 : 0; // below the title, where there is no room beside it
  const top = 22 + down;
  const ys = curves.flatMap(({ y, low = [], high = [] }) => [...y, ...low, ...high]).filter(good);
  const xs = curves.flatMap(({ x }) => x);
  context.fillStyle = shade("--shalab-ink");
  context.textAlign = "left";
  context.fillText(title, 4, 13);
  if (!ys.length && !range) {
    context.fillStyle = shade("--shalab-quiet");
    context.textAlign = "center";
    context.fillText("nothing yet", (left + right) / 2, (top + bottom) / 2);
    return;
  }
  ys.push(...levels.map(({ y }) => y));
  let least = Math.min(...ys), most = Math.min(ceiling, Math.max(...ys));
  const margin = most - least > 1e-6 * Math.abs(most) ? (most - least) / 20 : Math.abs(most) / 2 || 0.5;
  [least, most] = log ? [least * 0.9, most * 1.1] : [least - margin, most + margin];
  if (range) [least, most] = range;
  const end = Math.max(...xs) || 1, scale = log ? Math.log : (value) => value;
  const px = (x) => left + (x / end) * (right - left);
  const py = (y) => bottom - ((scale(y) - scale(least)) / (scale(most) - scale(least))) * (bottom - top);

  context.lineWidth = 1;
  context.font = font(11);
  const marks = log ? logTicks(least, most) : ticks(least, most, (bottom - top) / 32);
  const finest = Math.min(...marks.slice(1).map((y, i) => y - marks[i]));
  const digits = Math.max(3, 1 + Math.ceil(Math.log10(Math.abs(most) / finest)) || 0); // enough to tell neighbours apart
  for (const y of marks) {
    context.strokeStyle = shade("--shalab-line");
    context.globalAlpha = 0.5;
    stroke(context, [[left, py(y)], [right, py(y)]]);
    context.globalAlpha = 1;
    context.fillStyle = shade("--shalab-quiet");
    context.textAlign = "right";
    context.fillText(short(y, log ? 3 : digits), left - 5, py(y) + 4);
  }
  const places = ticks(0, end, Math.max(2, width / 110));
  for (const x of places) {
    context.textAlign = x === 0 ? "left" : px(x) > right - 14 ? "right" : "center";
    context.fillText(short(x), px(x), bottom + 14);
  }
  context.textAlign = "right";
  if (xName) context.fillText(xName, right, height - 4);

  context.save();
  context.beginPath();
  context.rect(left, top - 4, right - left + 8, bottom - top + 8);
  context.clip();
  for (const { y } of levels) {
    context.strokeStyle = shade("--shalab-quiet");
    context.setLineDash([6, 4]);
    stroke(context, [[left, py(y)], [right, py(y)]]);
    context.setLineDash([]);
  }
  for (const { x, y, ink, dots, low, high } of curves) {
    const points = x.map((v, i) => good(y[i]) ? [px(v), py(y[i])] : null);
    context.strokeStyle = context.fillStyle = shade(ink);
    if (low) {
      context.globalAlpha = 0.25;
      context.beginPath();
      const known = [...x.keys()].filter((i) => good(low[i]) && good(high[i]));
      for (const i of known) context.lineTo(px(x[i]), py(low[i]));
      for (const i of known.reverse()) context.lineTo(px(x[i]), py(high[i]));
      context.fill();
      context.globalAlpha = 1;
    }
    context.lineWidth = 1.6;
    stroke(context, points);
    points.forEach((point, i) => {
      if (!point || !(dots || !points[i - 1] && !points[i + 1])) return; // a line shows no point that stands alone
      context.beginPath();
      context.arc(...point, 3, 0, 7);
      context.fill();
    });
  }
  if (now != null) {
    context.strokeStyle = shade("--shalab-ink");
    context.lineWidth = 1;
    stroke(context, [[px(now), top], [px(now), bottom]]);
  }
  context.restore();

  context.fillStyle = shade("--shalab-quiet");
  context.textAlign = "left";
  levels.forEach(({ y }, i) => context.fillText(names[i], right + 6, py(y) + 4, beside - 6));

  let at = right;
  context.font = font(12);
  context.textAlign = "right";
  for (const { name, ink } of legend) {
    context.fillStyle = shade("--shalab-ink");
    context.fillText(name, at, 13 + down);
    at -= context.measureText(name).width + 5;
    context.fillStyle = shade(ink);
    context.fillRect(at - 14, 8 + down, 14, 3);
    at -= 24;
  }
  return { left, right, top, bottom, px, py };
}

/** A line through the points; null is a gap. */
function stroke(context, points) {
  context.beginPath();
  points.forEach((point, i) => point && context[points[i - 1] ? "lineTo" : "moveTo"](...point));
  context.stroke();
}
