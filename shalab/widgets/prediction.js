const DIGITS = 4;

export default {
  render({ model, el }) {
    el.classList.add("shalab");
    const question = element("p", { class: "shalab-title" }, model.get("question"));
    const told = element("p", { class: "shalab-told", role: "status" });
    const reveal = element("button", {
      onclick: () => { model.set("revealed", true); model.save_changes(); },
    }, "reveal");
    const { nodes, show, end } = (model.get("places") ? curve : number)(model, reveal);
    el.append(question, ...nodes, told);

    function draw() {
      reveal.disabled = model.get("revealed");
      told.textContent = model.get("told");
      show(model.get("revealed"));
    }
    const changes = "change:guess change:revealed change:told";
    model.on(changes, draw);
    draw();
    return () => {
      model.off(changes, draw);
      end();
    };
  },
};

function number(model, reveal) {
  const low = model.get("low"), high = model.get("high");
  const set = (value) => {
    if (!Number.isFinite(value)) return;
    model.set("guess", Math.max(low, Math.min(high, value)));
    model.save_changes();
  };
  const settings = { min: low, max: high, step: "any" };
  const field = element("input", { type: "number", ...settings, onchange: () => set(field.valueAsNumber) });
  const rail = element("input", {
    type: "range", ...settings, step: 10 ** Math.floor(Math.log10((high - low) / 50)),
    "aria-label": model.get("question"), oninput: () => set(rail.valueAsNumber),
  });
  rail.value = (low + high) / 2; // setting one limit after the other has moved it
  const unit = model.get("unit");
  const bar = element("div", { class: "shalab-scale", role: "img" });
  const picture = element("div");
  let address = null;
  function mark(kind, text, value) {
    const node = element("span", { class: `shalab-mark shalab-${kind}` }, `${text} ${short(value, DIGITS)}`.trim());
    node.style.setProperty("--place", `${(100 * (value - low)) / (high - low)}%`);
    return node;
  }
  return {
    nodes: [
      element("div", { class: "shalab-row" }, labelled("your guess", field), unit, rail, reveal), bar, picture,
    ],
    show(revealed) {
      const guess = model.get("guess");
      field.disabled = rail.disabled = revealed;
      if (guess != null) {
        field.value = +guess.toPrecision(DIGITS);
        rail.value = guess;
      }
      bar.hidden = !revealed;
      if (!revealed) return;
      bar.setAttribute("aria-label", model.get("told"));
      bar.replaceChildren(...[guess != null && mark("yours", "you said", guess), mark("true", "it is", model.get("answer")),
        mark("end", "", low), mark("end", "", high)].filter(Boolean));
      if (model.get("image").byteLength && !address) {
        address = URL.createObjectURL(new Blob([model.get("image")], { type: "image/png" }));
        picture.append(element("img", { src: address, alt: model.get("alt") }));
      }
    },
    end() { URL.revokeObjectURL(address); },
  };
}

function curve(model, reveal) {
  const x = model.get("x"), places = model.get("places"), range = model.get("limits"), [low, high] = range;
  let here = 0, axes = null; // here: index of places, where the keys are
  const at = (place) => x[places[place]];
  const name = () => {
    const guess = model.get("guess").filter((value) => value != null).length;
    return `${model.get("question")}: ${model.get("ylabel")} over ${model.get("xlabel")}, ${guess} of ${places.length} places drawn`;
  };
  const board = chart(260, name, (context, width, height) => {
    const curves = [{ x: places.map((i) => x[i]), y: model.get("guess"), ink: "--shalab-orange", name: "your guess", dots: true }];
    if (model.get("revealed")) curves.push({ x, y: model.get("y"), ink: "--shalab-blue", name: model.get("how") });
    axes = plot(context, width, height, {
      curves, title: model.get("ylabel"), xName: model.get("xlabel"), range, now: model.get("revealed") ? null : at(here),
    });
  });
  const value = element("span", { class: "shalab-told" });
  const pad = element("div", {
    class: "shalab-pad", tabindex: 0, role: "slider", "aria-label": "your curve: left and right move, up and down set",
    "aria-valuemin": low, "aria-valuemax": high,
  }, board.node);
  const clear = element("button", { onclick: () => put(places.map(() => null)) }, "clear");

  function put(guess) {
    model.set("guess", guess);
    model.save_changes();
  }

  /** Sets the places from one to the other along a straight line. */
  function draw(from, to) {
    const guess = [...model.get("guess")], n = Math.abs(to[0] - from[0]);
    for (let k = 0; k <= n; k++) {
      const part = n ? k / n : 1;
      const y = from[1] + (to[1] - from[1]) * part;
      guess[from[0] + Math.sign(to[0] - from[0]) * k] = Math.max(low, Math.min(high, y));
    }
    here = to[0];
    model.set("guess", guess);
  }

  let last = null;
  function point(event) {
    const box = board.node.getBoundingClientRect();
    const away = places.map((_, i) => Math.abs(axes.px(at(i)) - (event.clientX - box.left)));
    const part = (event.clientY - box.top - axes.top) / (axes.bottom - axes.top);
    return [away.indexOf(Math.min(...away)), high - part * (high - low)];
  }
  pad.addEventListener("pointerdown", (event) => {
    if (model.get("revealed") || event.button) return;
    pad.setPointerCapture(event.pointerId);
    last = point(event);
    draw(last, last);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = point(event);
    draw(last, next);
    last = next;
  });
  for (const type of ["pointerup", "pointercancel"]) {
    pad.addEventListener(type, () => {
      if (last) model.save_changes(); // one message for the whole stroke
      last = null;
    });
  }

  const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  const lifts = { ArrowUp: 0.02, ArrowDown: -0.02, PageUp: 0.1, PageDown: -0.1 };
  pad.addEventListener("keydown", (event) => {
    const { key } = event;
    if (!(key in moves || key in lifts) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (model.get("revealed")) return;
    if (key in moves) {
      here = Math.max(0, Math.min(places.length - 1, here + moves[key]));
      show();
      return;
    }
    const guess = model.get("guess");
    const start = guess[here] ?? guess.slice(0, here).findLast((y) => y != null) ?? (low + high) / 2;
    draw([here, start + lifts[key] * (high - low)], [here, start + lifts[key] * (high - low)]);
    model.save_changes();
  });

  function show() {
    const y = model.get("guess")[here], text = `at ${short(at(here))}: ${y == null ? "nothing yet" : short(y)}`;
    value.textContent = model.get("revealed") ? "" : text;
    pad.setAttribute("aria-valuenow", y ?? low);
    pad.setAttribute("aria-valuetext", text);
    clear.disabled = model.get("revealed");
    board.redraw();
  }
  const endTheme = onTheme(show);
  return {
    nodes: [pad, element("div", { class: "shalab-row" }, reveal, clear, value)],
    show,
    end() { board.end(); endTheme(); },
  };
}
