const FULL = 8; // bits of a byte that is coloured fully: what it costs without any model

export default {
  render({ model, el }) {
    el.classList.add("shalab");
    const bytes = uint8(model.get("text")), n = bytes.length;
    const names = model.get("names"), nModels = model.get("n_models"), all = float32(model.get("bits"));
    const values = names.map((_, v) => all.subarray(v * n, (v + 1) * n));
    const means = values.map((row) => {
      let total = 0;
      return Float64Array.from(row, (bits, i) => (total += bits) / (i + 1));
    });
    const isDifference = () => model.get("shown") >= nModels;
    const signed = (value, digits) => (isDifference() && value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "−");

    // A byte inside a character gets a place of its own: it has a price of its own.
    const signs = glyphs(bytes).map((sign) => sign || "·");
    const spans = signs.map((sign, i) => {
      const span = element("span", { class: "shalab-byte" }, bytes[i] === 10 ? `${sign}\n` : sign);
      span.index = i;
      return span;
    });
    const page = element("div", {
      class: "shalab-text shalab-page", tabindex: "0", role: "slider", "aria-label": "byte of the text",
      "aria-valuemin": 0, "aria-valuemax": n - 1,
    }, ...spans);
    const chosen = select("show", names.map((name, v) => [v, name]), {
      value: model.get("shown"), onchange: (v) => { model.set("shown", Number(v)); model.save_changes(); },
    });
    const legend = element("div", { class: "shalab-row" });
    const told = element("p", { class: "shalab-told" });
    const table = element("table", {},
      element("thead", {}, element("tr", {}, ...["", "bits per byte", "bits in all"].map((name) =>
        element(name ? "th" : "td", name ? { scope: "col" } : {}, name)))),
      element("tbody", {}, ...names.map((name, v) => {
        const sign = v >= nModels && means[v][n - 1] > 0 ? "+" : "";
        const shown = (value, digits) => element("td", {}, sign +
          value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
        return element("tr", {}, element("th", { scope: "row" }, name),
          shown(means[v][n - 1], 3), shown(means[v][n - 1] * n, 1));
      })));
    const heading = element("strong");
    const costly = element("ol", { class: "shalab-costly" });
    el.append(element("div", { class: "shalab-row" }, names.length > 1 ? chosen.label : null, legend), page, told,
      element("div", { class: "shalab-side" }, table,
        element("div", {}, heading, costly)));

    function paint(span, bits) {
      span.style.setProperty("--level", Math.min(1, Math.abs(bits) / FULL).toFixed(3));
      span.classList.toggle("shalab-cheaper", bits < 0);
    }

    function show() {
      const v = model.get("shown"), row = values[v];
      chosen.box.value = v;
      spans.forEach((span, i) => paint(span, row[i]));
      const ticks = isDifference() ? [-8, -4, -2, -1, 0, 1, 2, 4, 8] : [0, 1, 2, 3, 4, 5, 6, 7, 8];
      legend.replaceChildren("bits:", ...ticks.map((bits) => {
        const swatch = element("span", { class: "shalab-byte shalab-swatch" },
          signed(bits, 0) + (Math.abs(bits) === FULL ? (bits < 0 ? " or less" : " or more") : ""));
        paint(swatch, bits);
        return swatch;
      }));
      heading.textContent = isDifference() ? "largest differences" : "most expensive bytes";
      costly.replaceChildren(...model.get("costly")[v].map((i) => element("li", {}, element("button", {
        onclick: () => { move(i); page.focus(); },
        "aria-label": `go to byte ${i.toLocaleString("en")}, ${signs[i]}, ${signed(row[i], 2)} bits`,
      }, around(i), ` ${signed(row[i], 2)}`))));
      tell();
    }

    /** A byte among its neighbours; line breaks as signs. */
    function around(i) {
      const part = (from, to) => signs.slice(Math.max(0, from), to).join("");
      return element("span", { class: "shalab-text" }, part(i - 8, i), element("b", {}, signs[i]), part(i + 1, i + 4));
    }

    let marked = null;
    function tell() {
      const i = model.get("cursor"), v = model.get("shown"), bits = values[v][i];
      marked?.classList.remove("shalab-cursor");
      marked = spans[i];
      marked.classList.add("shalab-cursor");
      const price = isDifference()
        ? `${signed(bits, 2)} bits (${values[v - nModels + 1][i].toFixed(2)} against ${values[0][i].toFixed(2)})`
        : `${bits.toFixed(2)} bits, probability ${probability(2 ** -bits)}`;
      const text = `byte ${i.toLocaleString("en")}, ${signs[i]} (${bytes[i]}): ${price}; mean up to here ${signed(means[v][i], 3)}`;
      told.textContent = text;
      page.setAttribute("aria-valuenow", i);
      page.setAttribute("aria-valuetext", text);
    }
    const probability = (p) => (p >= 0.001 ? p.toFixed(3) : p.toExponential(1).replace("e-", " · 10^−"));

    function move(i) {
      model.set("cursor", Math.max(0, Math.min(n - 1, i)));
      model.save_changes();
      const box = page.getBoundingClientRect(), byte = marked.getBoundingClientRect();
      if (byte.top < box.top) page.scrollTop -= box.top - byte.top + 4;
      if (byte.bottom > box.bottom) page.scrollTop += byte.bottom - box.bottom + 4;
    }

    /** The byte above or below, as the lines are broken on the page. */
    function vertical(direction) {
      const here = marked.getBoundingClientRect();
      let best = model.get("cursor"), line = null;
      for (let i = best + direction; i >= 0 && i < n; i += direction) {
        const there = spans[i].getClientRects()[0];
        if (Math.abs(there.top - here.top) < 4) continue;
        line ??= there.top;
        if (Math.abs(there.top - line) >= 4) break;
        const better = Math.abs(there.left - here.left) <= Math.abs(spans[best].getClientRects()[0].left - here.left);
        if (better || Math.abs(spans[best].getClientRects()[0].top - line) >= 4) best = i;
      }
      return best;
    }

    const KEYS = {
      ArrowLeft: () => model.get("cursor") - 1, ArrowRight: () => model.get("cursor") + 1,
      ArrowUp: () => vertical(-1), ArrowDown: () => vertical(1),
      PageUp: () => model.get("cursor") - 100, PageDown: () => model.get("cursor") + 100,
      Home: () => 0, End: () => n - 1,
    };
    page.addEventListener("keydown", (event) => {
      if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      move(KEYS[event.key]());
    });
    // not pointerover: text that scrolls under a pointer at rest leaves the cursor where the keyboard put it
    page.addEventListener("pointermove", ({ target }) => {
      if (target.index !== undefined) model.set("cursor", target.index);
    });
    page.addEventListener("click", ({ target }) => { // a finger taps, and moves no pointer
      if (target.index !== undefined) move(target.index);
    });
    page.addEventListener("pointerleave", () => model.save_changes()); // one message for the whole way

    model.on("change:shown", show);
    model.on("change:cursor", tell);
    show();
    return () => {
      model.off("change:shown", show);
      model.off("change:cursor", tell);
    };
  },
};
