export default {
  render({ model, el }) {
    el.classList.add("shalab");
    const rows = model.get("rows"), parts = Object.keys(rows[0].parts);
    const full = Math.max(...rows.flatMap((row) => [row.honest, row.claimed]));
    const number = (value, digits) => value.toLocaleString("en",
      { minimumFractionDigits: digits, maximumFractionDigits: digits });
    const dial = slider(model.get("setting"), {
      min: 0, max: rows.length - 1, value: model.get("shown"),
      oninput: (value) => { model.set("shown", value); model.save_changes(); },
    });
    const told = element("p", { class: "shalab-told", "aria-live": "polite" });
    const bars = {};
    const line = (name, note) => {
      const value = element("span"), bar = element("span", { class: "shalab-bar" });
      bars[name] = { value, bar };
      return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value, bar), element("td", {}, note));
    };
    const notes = {
      tokens: "what the model charged", dictionary: "made from the text itself", repair: "what the tokens left out",
      length: "how many tokens there are",
    };
    el.append(element("div", { class: "shalab-row" }, dial.label), told,
      element("table", { class: "shalab-costs shalab-claim" },
        element("thead", {}, element("tr", {}, ...["bits per byte", "", ""].map((name) =>
          element(name ? "th" : "td", name ? { scope: "col" } : {}, name)))),
        element("tbody", {}, ...parts.map((name) => line(name, notes[name])), line("honest total", "all that a receiver must get"))));

    function show() {
      const row = rows[model.get("shown")];
      dial.set(model.get("shown"));
      dial.label.querySelector("output").textContent = row.name;
      dial.range.setAttribute("aria-valuetext", row.name);
      told.textContent = `Published: perplexity ${row.perplexity == null ? "above 10^308" : number(row.perplexity, 2)} over ${number(row.tokens, 0)} tokens. ` +
        `Honest: ${number(row.honest, 3)} bits per byte.`;
      for (const [name, value] of [...Object.entries(row.parts), ["honest total", row.honest]]) {
        bars[name].value.textContent = number(value, 3);
        bars[name].bar.style.width = `${(14 * value) / full}em`;
      }
    }
    model.on("change:shown", show);
    show();
    return () => model.off("change:shown", show);
  },
};
