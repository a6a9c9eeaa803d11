const FULL = 16; // bits of a piece that is coloured fully

export default {
  render({ model, el }) {
    el.classList.add("shalab");
    const bytes = uint8(model.get("text"));
    const names = model.get("names"), most = model.get("longest_piece");
    const set = (name) => (value) => { model.set(name, Number(value)); model.save_changes(); };
    const chosen = select("tokenization", names.map((name, i) => [i, name]), {
      value: model.get("shown"), onchange: set("shown"),
    });
    const cut = slider("cut into parts of at most, bytes", { min: 1, max: most, value: model.get("longest"), oninput: set("longest") });
    const page = element("div", {
      class: "shalab-text shalab-page", tabindex: "0", role: "slider", "aria-label": "piece of the text", "aria-valuemin": 0,
    });
    const told = element("p", { class: "shalab-told" });
    const body = element("tbody");
    const legend = element("span", {}, "bits:");
    for (const bits of [0, 2, 4, 8, 12, 16]) {
      const swatch = element("span", { class: "shalab-byte shalab-swatch" }, bits === FULL ? "16 or more" : String(bits));
      swatch.style.setProperty("--level", bits / FULL);
      legend.append(" ", swatch);
    }
    const columns = ["tokenization", "pieces", "perplexity per piece", "bits per byte"];
    el.append(element("div", { class: "shalab-row" }, chosen.label, cut.label, legend), page, told,
      element("table", {}, element("thead", {}, element("tr", {},
        ...columns.map((name) => element("th", { scope: "col" }, name)))), body));

    let spans = [];
    function show() {
      chosen.box.value = model.get("shown");
      cut.set(model.get("longest"));
      let place = 0;
      spans = model.get("pieces").map(([length, bits], index) => {
        const sign = glyphs(bytes.subarray(place, place += length)).join("").replaceAll(" ", "␣");
        const span = element("span", { class: "shalab-byte shalab-piece" }, sign, element("small", {}, bits.toFixed(1)));
        span.style.setProperty("--level", Math.min(1, Math.max(0, bits) / FULL).toFixed(3));
        Object.assign(span, { index, sign });
        return span;
      });
      page.replaceChildren(...spans);
      page.setAttribute("aria-valuemax", spans.length - 1);
      const number = (value, digits) => element("td", {}, value.toLocaleString("en",
        { minimumFractionDigits: digits, maximumFractionDigits: digits }));
      body.replaceChildren(...model.get("totals").map(([n, perplexity, bpb], i) => {
        const current = i === model.get("shown");
        return element("tr", { "aria-current": current && "true" },
          element("th", { scope: "row" }, (current ? "▸ " : "") + names[i]),
          number(n, 0), perplexity == null ? element("td", {}, "above 10^308") : number(perplexity, 2), number(bpb, 3));
      }));
      tell();
    }

    let marked = null;
    function tell() {
      const i = Math.min(model.get("cursor"), spans.length - 1), [length, bits] = model.get("pieces")[i];
      marked?.classList.remove("shalab-cursor");
      marked = spans[i];
      marked.classList.add("shalab-cursor");
      const text = `piece ${i.toLocaleString("en")}, ${marked.sign}: ${bits.toFixed(2)} bits for ${length} ` +
        `byte${length === 1 ? "" : "s"}, ${(bits / length).toFixed(2)} bits per byte`;
      told.textContent = text;
      page.setAttribute("aria-valuenow", i);
      page.setAttribute("aria-valuetext", text);
    }

    function move(i) {
      model.set("cursor", Math.max(0, Math.min(spans.length - 1, i)));
      model.save_changes();
      const box = page.getBoundingClientRect(), piece = marked.getBoundingClientRect();
      if (piece.top < box.top) page.scrollTop -= box.top - piece.top + 4;
      if (piece.bottom > box.bottom) page.scrollTop += piece.bottom - box.bottom + 4;
    }

    const KEYS = {
      ArrowLeft: (i) => i - 1, ArrowRight: (i) => i + 1, ArrowUp: (i) => i - 10, ArrowDown: (i) => i + 10,
      PageUp: (i) => i - 100, PageDown: (i) => i + 100, Home: () => 0, End: () => spans.length - 1,
    };
    page.addEventListener("keydown", (event) => {
      if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      move(KEYS[event.key](model.get("cursor")));
    });
    page.addEventListener("click", ({ target }) => {
      const piece = target.closest(".shalab-piece");
      if (piece) move(piece.index);
    });

    const changes = "change:pieces change:totals"; // single bytes stay whole, but the other rows change
    model.on(changes, show);
    model.on("change:cursor", tell);
    show();
    return () => {
      model.off(changes, show);
      model.off("change:cursor", tell);
    };
  },
};
