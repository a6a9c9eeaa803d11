const MOST = Math.log2(96); // of the guesses of a byte that is coloured fully

export default {
  render({ model, el }) {
    el.classList.add("shalab");
    const page = element("div", {
      class: "shalab-text shalab-page shalab-game", tabindex: 0, role: "group", "aria-label": "the text so far",
    });
    const told = element("strong", { role: "status" });
    const tried = element("span", { class: "shalab-text" });
    const field = element("input", {
      type: "text", size: 3, autocomplete: "off", autocapitalize: "off", autocorrect: "off", spellcheck: "false",
    });
    const send = (what) => model.send(what);
    const typed = (event) => {
      if (event.isComposing || !field.value) return;
      send({ guess: [...field.value][0] });
      field.value = "";
    };
    field.addEventListener("input", typed);
    field.addEventListener("compositionend", typed); // of accents that are made with two keys
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      send({ guess: "\n" });
    });
    const button = (text, onclick) => element("button", { onclick }, text);
    const giveUp = button("give up: show it", () => { send({ give_up: true }); field.focus(); });
    const compare = button("compare with the machines", () => { waiting.textContent = "computing …"; send({ compare: true }); });
    const waiting = element("span", { role: "status" });
    const counted = element("p", { class: "shalab-told" });
    const table = element("table", { class: "shalab-costs shalab-scores" });
    el.append(page, element("div", { class: "shalab-row" }, labelled("your guess (a key; Enter for a line break)", field), giveUp, told),
      element("p", { class: "shalab-told" }, "wrong so far: ", tried), counted,
      element("div", { class: "shalab-row" }, compare, waiting), table);

    const signs = (text) => glyphs(new TextEncoder().encode(text)).join("").replaceAll("↵", "↵\n");

    function show() {
      const guesses = model.get("guesses"), n = model.get("n_bytes"), over = guesses.length === n;
      page.replaceChildren(element("span", { class: "shalab-quiet" }, signs(model.get("before"))),
        ...[...model.get("known")].map((sign, i) => {
          const span = element("span", { class: "shalab-byte" }, signs(sign));
          span.style.setProperty("--level", guesses[i] < 1 ? 1 : (Math.log2(guesses[i]) / MOST).toFixed(3));
          return span;
        }), over ? "" : element("span", { class: "shalab-cursor" }, "?"));
      page.scrollTop = page.scrollHeight;
      field.disabled = giveUp.disabled = over;
      compare.disabled = !model.get("scored");
      told.textContent = model.get("told");
      tried.textContent = [...signs(model.get("tried")).replaceAll("\n", "").replaceAll(" ", "␣")].join(" ") || "nothing";
      counted.textContent = model.get("standing");
    }

    function showScores() {
      waiting.textContent = "";
      const scores = Object.entries(model.get("scores"));
      if (!scores.length) return;
      const most = Math.max(...scores.map(([, bits]) => bits)) || 1;
      table.replaceChildren(
        element("caption", {}, `on the first ${model.get("n_scored").toLocaleString("en")} bytes, each given all that precedes`),
        element("thead", {}, element("tr", {}, ...["who guesses", "bits per byte"].map((name) => element("th", { scope: "col" }, name)))),
        element("tbody", {}, ...scores.map(([name, bits]) => element("tr", {}, element("th", { scope: "row" }, name),
          element("td", {}, element("span", {}, bits.toFixed(2)),
            element("span", { class: "shalab-bar", style: `width: calc(${bits / most} * min(200px, 12vw)); background: var(--shalab-${name.startsWith("you,") ? "blue" : "grey"})`, "aria-hidden": "true" }))))));
    }

    const changes = "change:told change:tried change:guesses";
    model.on(changes, show);
    model.on("change:n_scored change:scores", showScores);
    show();
    showScores();
    return () => {
      model.off(changes, show);
      model.off("change:n_scored change:scores", showScores);
    };
  },
};
