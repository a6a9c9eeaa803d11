const [STEP, BYTES, SECONDS] = [0, 1, 2];
const LISTS = ["points", "scores", "trust"];

const clock = (seconds) => {
  const whole = Math.round(seconds), pad = (value) => String(value).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${pad(m)}:${pad(s)}` : `${m}:${pad(s)}`;
};

const STATES = {
  ready: "not started", running: "training", paused: "paused", finished: "finished", stopped: "stopped",
  over: "over", unfinished: "broken off", failed: "failed",
};

// One store for each widget, whatever number of views look at it.
export default () => {
  const views = new Set();
  let store = null, asked = false;

  function everything(model) {
    store = model.get("history");
    for (const draw of views) draw();
  }

  function append(news) {
    for (const name of LISTS) news[name] = store[name].concat(news[name]);
    store = { ...store, ...news };
    if (!asked) requestAnimationFrame(() => { asked = false; for (const draw of views) draw(); });
    asked = true;
  }

  return {
    initialize({ model }) {
      everything(model);
      model.on("change:history", () => everything(model));
      model.on("msg:custom", append);
      model.send({ ask: "everything" }); // what happened while this file was loading
    },

    render({ model, el }) {
      let against = BYTES;
      const ask = (what) => element("button", { onclick: () => model.send({ ask: what }) }, what);
      const [pause, proceed, stop] = [ask("pause"), ask("continue"), ask("stop")];
      const python = model.kernel !== false; // a page without Python shows what was
      const bar = element("progress", { max: 1, value: 0, "aria-label": "updates done" });
      const state = element("strong", { role: "status" });
      const figures = element("span");
      const fault = element("div", { class: "shalab-text shalab-fault", role: "alert" });
      const sample = element("div", { class: "shalab-text shalab-sample", tabindex: 0, role: "group", "aria-label": "latest sample" });
      const axis = select("against", [[BYTES, "bytes read"], [SECONDS, "training time"]], {
        value: against, onchange: (value) => { against = Number(value); draw(); },
      });

      const rows = () => (store.passing ? [...store.points, store.passing] : store.points);
      const column = (list, i) => list.map((row) => row[i]);
      const last = (list, i) => list.at(-1)?.[i];
      const xName = () => (against === BYTES ? "bytes" : "seconds");
      const curve = (list, i, rest) => ({ x: column(list, against), y: column(list, i), ...rest });
      const said = (value) => (value == null ? "none" : short(value));
      const bpc = (value) => (value == null ? "none" : value.toFixed(2));
      const panel = (height, name, settings) =>
        chart(height, name, (context, width, h) => plot(context, width, h, { xName: xName(), ...settings() }));

      const curves = panel(270,
        () => `bits per byte: train ${bpc(last(rows(), 3))} (smoothed), valid ${bpc(last(store.scores, 3))}`,
        () => {
          const levels = Object.entries(model.get("references")).map(([name, y]) => ({ name, y }));
          // A twentieth of the training may run out at the top: its fall would leave no room for what follows.
          const late = column(rows().slice(Math.floor(rows().length / 20)), 3);
          return {
            title: "bits per byte", levels, ceiling: Math.max(...late, ...column(store.scores, 3), ...levels.map(({ y }) => y)),
            curves: [
              curve(rows(), 3, { ink: "--shalab-blue", name: "train (smoothed)" }),
              curve(store.scores, 3, { ink: "--shalab-orange", name: "valid", dots: true }),
            ],
          };
        });
      const small = [
        panel(130, () => `learning rate ${said(last(rows(), 4))}`,
          () => ({ title: "learning rate", curves: [curve(rows(), 4, { ink: "--shalab-green" })] })),
        panel(130, () => `gradient norm ${said(last(rows(), 5))}`,
          () => ({ title: "gradient norm", log: true, curves: [curve(rows(), 5, { ink: "--shalab-grey" })] })),
        panel(130, () => `bytes per second ${said(last(rows(), 6))}`,
          () => ({ title: "bytes per second", curves: [curve(rows(), 6, { ink: "--shalab-blue" })] })),
        panel(130, () => `trust ratio: median ${said(last(store.trust, 4))}, from ${said(last(store.trust, 3))} to ${said(last(store.trust, 5))}`,
          () => ({
            title: "trust ratio and range", log: true,
            curves: [curve(store.trust, 4, { ink: "--shalab-orange", low: column(store.trust, 3), high: column(store.trust, 5) })],
          })),
      ];

      function draw() {
        const [step, nBytes, , , , , speed] = rows().at(-1) ?? [0, 0];
        const alive = python && model.get("controls") && ["running", "paused"].includes(store.state);
        pause.disabled = !alive || store.state === "paused";
        const gone = python && model.get("resumes") && ["stopped", "unfinished", "failed"].includes(store.state);
        proceed.disabled = !gone && (!alive || store.state === "running");
        stop.disabled = !alive;
        bar.value = store.total_steps ? step / store.total_steps : 0;
        state.textContent = STATES[store.state] ?? store.state;
        figures.textContent = [
          `step ${step.toLocaleString("en")}${store.total_steps ? ` of ${store.total_steps.toLocaleString("en")}` : ""}`,
          `${short(nBytes)} bytes`,
          speed ? `${short(speed)} bytes/s` : null,
          store.machine ? `on ${store.machine}` : null,
          alive && store.seconds_left != null ? `${clock(store.seconds_left)} left` : null,
        ].filter(Boolean).join(" · ");
        fault.textContent = store.error;
        sample.textContent = store.sample
          ? glyphs(Uint8Array.from(store.sample, (character) => character.charCodeAt(0))).join("").replaceAll("↵", "↵\n")
          : "No sample yet: one follows each evaluation.";
        for (const { redraw } of [curves, ...small]) redraw();
      }

      const controls = model.get("controls") ? [pause, proceed, stop] : [];
      if (controls.length && !python) controls.push("(these buttons need Python)");
      el.append(element("div", { class: "shalab", role: "group", "aria-label": "training dashboard" },
        element("div", { class: "shalab-row" }, ...controls, bar, state, figures), fault,
        element("div", { class: "shalab-row" }, axis.label),
        curves.node,
        element("div", { class: "shalab-panels" }, ...small.map(({ node }) => node)),
        element("div", {}, "Latest sample"), sample));
      const endTheme = onTheme(draw);
      views.add(draw);
      draw();
      return () => {
        views.delete(draw);
        endTheme();
        for (const { end } of [curves, ...small]) end();
      };
    },
  };
};
