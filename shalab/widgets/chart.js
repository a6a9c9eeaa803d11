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

const short = (value) => {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e3) return `${+(value / 1e3).toPrecision(3)}k`;
  return size && size < 1e-3 ? value.toExponential(0) : String(+value.toPrecision(3));
};

/** Up to about `n` round numbers from low to high. */
function ticks(low, high, n) {
  const raw = (high - low) / n || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9); i++) found.push(i * step);
  return found;
}

/** Powers of ten from low to high, with 2 and 5 between them where there is room. */
function logTicks(low, high) {
  const found = [], steps = high / low < 100 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) found.push(...steps.map((m) => m * 10 ** power));
  return found.filter((value) => value >= low && value <= high);
}

/**
 * Curves over common axes.
 *   curves  {x, y, ink, name, dots, low, high}: low to high is a shaded range around y; ink a CSS variable
 *   levels  {name, y}: dashed lines across
 *   range   [low, high] of y; else that of the curves
 *   now     an x to mark
 */
function plot(context, width, height, { curves, levels = [], title, xName, log = false, range, now }) {
  const shade = (name) => themed(context.canvas, name);
  const font = (size) => `${size}px ${themed(context.canvas, "font-family") || "sans-serif"}`;
  const left = 46, right = width - 8, top = 22, bottom = height - (xName ? 34 : 20);
  const good = (value) => Number.isFinite(value) && (!log || value > 0);
  const ys = curves.flatMap(({ y, low = [], high = [] }) => [...y, ...low, ...high]).filter(good);
  const xs = curves.flatMap(({ x }) => x);
  let least = range ? range[0] : Math.min(...ys), most = range ? range[1] : Math.max(...ys);
  context.font = font(12);
  context.fillStyle = shade("--shalab-ink");
  context.textAlign = "left";
  context.fillText(title, 4, 13);
  if (!ys.length) {
    context.fillStyle = shade("--shalab-quiet");
    context.textAlign = "center";
    context.fillText("nothing yet", (left + right) / 2, (top + bottom) / 2);
    return;
  }
  if (least === most) [least, most] = log ? [least / 2, most * 2] : [least - (Math.abs(least) || 1) / 2, most + (Math.abs(most) || 1) / 2];
  const end = Math.max(...xs) || 1, scale = log ? Math.log : (value) => value;
  const px = (x) => left + (x / end) * (right - left);
  const py = (y) => bottom - ((scale(y) - scale(least)) / (scale(most) - scale(least))) * (bottom - top);

  context.lineWidth = 1;
  context.font = font(11);
  for (const y of log ? logTicks(least, most) : ticks(least, most, (bottom - top) / 32)) {
    context.strokeStyle = shade("--shalab-line");
    context.globalAlpha = 0.5;
    stroke(context, [[left, py(y)], [right, py(y)]]);
    context.globalAlpha = 1;
    context.fillStyle = shade("--shalab-quiet");
    context.textAlign = "right";
    context.fillText(short(y), left - 5, py(y) + 4);
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
  for (const { name, y } of levels) {
    context.strokeStyle = context.fillStyle = shade("--shalab-quiet");
    context.setLineDash([6, 4]);
    stroke(context, [[left, py(y)], [right, py(y)]]);
    context.setLineDash([]);
    context.textAlign = "right";
    context.fillText(`${name} ${y.toFixed(2)}`, right - 4, py(y) - 4);
  }
  for (const { x, y, ink, dots, low, high } of curves) {
    const points = x.map((v, i) => [px(v), y[i]]).filter((point) => good(point[1])).map(([a, b]) => [a, py(b)]);
    context.strokeStyle = context.fillStyle = shade(ink);
    if (low) {
      context.globalAlpha = 0.25;
      context.beginPath();
      x.forEach((v, i) => context.lineTo(px(v), py(Math.max(low[i], least))));
      for (let i = x.length - 1; i >= 0; i--) context.lineTo(px(x[i]), py(Math.max(high[i], least)));
      context.fill();
      context.globalAlpha = 1;
    }
    context.lineWidth = 1.6;
    stroke(context, points);
    for (const [a, b] of dots ? points : points.slice(0, points.length === 1)) {
      context.beginPath();
      context.arc(a, b, 3, 0, 7);
      context.fill();
    }
  }
  if (now != null) {
    context.strokeStyle = shade("--shalab-ink");
    context.lineWidth = 1;
    stroke(context, [[px(now), top], [px(now), bottom]]);
  }
  context.restore();

  let at = right;
  context.font = font(12);
  context.textAlign = "right";
  for (const { name, ink } of curves.filter((curve) => curve.name).reverse()) {
    context.fillStyle = shade("--shalab-ink");
    context.fillText(name, at, 13);
    at -= context.measureText(name).width + 5;
    context.fillStyle = shade(ink);
    context.fillRect(at - 14, 8, 14, 3);
    at -= 24;
  }
}

function stroke(context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
}
