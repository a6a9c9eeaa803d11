const COLUMNS = ["tensor", "|w|", "|u|", "trust ratio", "made by"];

export default {
  render({ model, el }) {
    const [steps, names] = [model.get("steps"), model.get("names")];
    const root = element("div", { class: "shalab", role: "group", "aria-label": "trust ratio inspector" });
    el.append(root);
    if (!steps.length) {
      root.append("No trust ratios were recorded: a run writes about a hundred of them as it trains.");
      return;
    }
    const norms = float32(model.get("norms")), rules = uint8(model.get("rules"));
    const norm = (place, tensor, i) => norms[(place * names.length + tensor) * 3 + i];
    const rule = (place, tensor) => {
      const bits = rules[place * names.length + tensor];
      return model.get("rule_names").filter(([bit]) => bits & bit).map(([, name]) => name).join(", ") || "|w| / |u|";
    };
    const set = (name, value) => { model.set(name, value); model.save_changes(); };
    const chosen = () => names.indexOf(model.get("tensor"));

    const step = slider("recorded step", {
      min: 0, max: steps.length - 1, value: model.get("place"), oninput: (value) => set("place", value),
    });
    const tensor = select("tensor", names.map((name) => [name, name]), {
      value: model.get("tensor"), onchange: (value) => set("tensor", value),
    });
    const curves = (kinds) => kinds.map(([i, name, ink]) => ({
      x: steps, y: steps.map((_, place) => norm(place, chosen(), i)), name, ink,
    }));
    const values = () => COLUMNS.slice(1, 4).map((name, i) => `${name} ${short(norm(model.get("place"), chosen(), i))}`).join(", ");
    const panel = (title, kinds, xName) => chart(150,
      () => `${title} of ${model.get("tensor")} at step ${steps[model.get("place")]}: ${values()}`,
      (context, width, height) => plot(context, width, height, {
        title, log: true, curves: curves(kinds), now: steps[model.get("place")], xName,
      }));
    const charts = [
      panel("trust ratio", [[2, "", "--shalab-orange"]]),
      panel("norms", [[0, "|w|", "--shalab-blue"], [1, "|u|", "--shalab-green"]], "step"),
    ];
    const body = element("tbody");
    const scroller = element("div", { class: "shalab-scroll", tabindex: 0, role: "group", "aria-label": "all tensors" },
      element("table", {}, element("thead", {}, element("tr", {}, ...COLUMNS.map((name) => element("th", { scope: "col" }, name)))), body));
    root.append(
      element("div", { class: "shalab-row" }, step.label, tensor.label), ...charts.map(({ node }) => node), scroller);

    function draw() {
      const place = model.get("place");
      step.set(place);
      step.label.querySelector("output").textContent = steps[place].toLocaleString("en");
      step.range.setAttribute("aria-valuetext", `step ${steps[place]}`);
      tensor.box.value = model.get("tensor");
      body.replaceChildren(...names.map((name, i) => element("tr",
        { class: i === chosen() ? "shalab-chosen" : null, onclick: () => set("tensor", name) },
        element("th", { scope: "row" }, name), ...[0, 1, 2].map((k) => element("td", {}, short(norm(place, i, k)))),
        element("td", {}, rule(place, i)))));
      for (const { redraw } of charts) redraw();
    }

    model.on("change:place change:tensor", draw);
    const endTheme = onTheme(draw);
    draw();
    return () => {
      model.off("change:place change:tensor", draw);
      endTheme();
      for (const { end } of charts) end();
    };
  },
};
