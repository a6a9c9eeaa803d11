export default {
  render({ model, el }) {
    el.classList.add("shalab");
    const values = model.get("values"), image = element("img");
    const show = (value) => {
      const place = values.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(values[best] - value) ? i : best), 0);
      image.src = `data:image/png;base64,${model.get("images")[place]}`;
      image.alt = model.get("sentences")[place];
      told.textContent = image.alt;
    };
    const told = element("p", { "aria-live": "polite" });
    const control = slider(model.get("name"), {
      min: values[0], max: values[values.length - 1], step: values[1] - values[0], value: values[0], oninput: show,
    });
    el.append(control.label, element("div", { class: "scroll" }, image), told);
    show(values[0]);
  },
};
