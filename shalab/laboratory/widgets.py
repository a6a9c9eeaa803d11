"""How fast the widgets answer and what they cost: a part of `make bench`.

A widget's own script draws in a bare page, with a stand-in for the kernel that holds the state a kernel would send;
the dashboard's messages leave a real kernel, and the page of a notebook is opened from its file.
"""

import base64
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np
from jupyter_client.manager import start_new_kernel

from shalab.corpus import load_corpus
from shalab.course import notebooks, notebooks_dir, trained_model
from shalab.device import Precision
from shalab.laboratory.timing import median_ratio
from shalab.model import SHARNN, ModelConfig
from shalab.pages.course import Page, executed, rendered
from shalab.pages.weights import packed
from shalab.presets import PRESETS
from shalab.train import Trainer
from shalab.widgets import dashboard as live
from shalab.widgets.base import Widget, source
from shalab.widgets.explorer import AttentionExplorer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()

# In the page: show(state) draws the widget and returns milliseconds to its first paint; timed(act) those of an
# action's script, style and layout, and those until the frame that shows it has been drawn.
HARNESS = """
async ([script, css]) => {
  document.body.innerHTML = '<style></style><div id="root" style="width: 1000px"></div>';
  document.querySelector('style').textContent = css;
  const module = await import(URL.createObjectURL(new Blob([script], { type: 'text/javascript' })));
  const widget = typeof module.default === 'function' ? module.default() : module.default;
  const frame = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  }));
  window.timed = async (act) => {
    const began = performance.now();
    act();
    document.body.offsetHeight;
    const worked = performance.now() - began;
    await frame();
    return [worked, performance.now() - began];
  };
  window.show = async (state) => {
    const decode = (value) => {
      if (value?.base64) return new DataView(Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0)).buffer);
      if (value?.constructor !== Object) return value;
      return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, decode(part)]));
    };
    const values = decode(state), events = new EventTarget();
    const model = {
      get: (name) => values[name],
      set: (name, value) => { values[name] = value; events.dispatchEvent(new Event(`change:${name}`)); },
      on: (name, act) => events.addEventListener(name, act),
      off: (name, act) => events.removeEventListener(name, act),
      save_changes: () => {},
      send: () => {},
    };
    await frame();
    widget.initialize?.({ model });
    return (await timed(() => widget.render({ model, el: document.querySelector('#root') })))[1];
  };
}
"""

POINT_AT_ROWS = """
async () => {
  const canvas = document.querySelector('canvas'), box = canvas.getBoundingClientRect(), taken = [];
  for (let i = 0; i < 200; i++) {
    const place = { clientX: box.left + 300, clientY: box.top + ((i * 89) % 320), bubbles: true };
    taken.push(await timed(() => canvas.dispatchEvent(new PointerEvent('pointermove', place))));
  }
  return taken;
}
"""

SCROLL = """
async () => {
  const map = document.querySelector('.shalab-map'), taken = [];
  document.querySelector('[aria-label="Zoom in"]').click();
  for (let i = 0; i < 50; i++) taken.push((await timed(() => { map.scrollTop = 5 * i; map.scrollLeft = 9 * i; }))[1]);
  return taken;
}
"""


def launch(playwright):
    """The Chromium or Chrome of this machine, else playwright's own."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return playwright.chromium.launch(executable_path=found, args=QUIET)


def show(page, widget: Widget) -> tuple[float, int]:
    """Draws the widget: milliseconds to its first paint, and the bytes that its state holds."""
    sizes = []

    def encode(part: bytes) -> dict:
        sizes.append(len(part))
        return {"base64": base64.b64encode(part).decode()}

    names = [name for name in widget.keys if name not in Widget.class_trait_names()]
    state = json.loads(json.dumps(widget.get_state(names), default=encode))
    page.evaluate(HARNESS, [widget._esm, widget._css])
    return page.evaluate("(state) => show(state)", state), sum(sizes)


def attention(n_queries: int, n_keys: int) -> np.ndarray:
    """(T, K) weights of a head that both points and spreads."""
    scores = np.random.default_rng(0).standard_normal((n_queries, n_keys), np.float32) * 3
    scores[np.triu_indices(n_queries, n_keys - n_queries + 1, n_keys)] = -np.inf
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True)


def bench_explorer(page, n_keys: int) -> dict[str, tuple[float, float]]:
    """1,024 query bytes: figure -> what it was, and its limit."""
    text = np.random.default_rng(1).integers(32, 127, n_keys).astype(np.uint8)
    first, size = show(page, AttentionExplorer(attention(1024, n_keys), text))
    worked, drawn = np.array(page.evaluate(POINT_AT_ROWS)).T
    scrolled = page.evaluate(SCROLL)
    return {
        "payload, MB": (size / 1e6, 8),
        "first paint, ms": (first, 300),
        "pointing at a row, median ms": (float(np.median(worked)), 16),
        "pointing at a row, 95 % below ms": (float(np.quantile(worked, 0.95)), 50),
        "until that is on the screen, 95 % below ms": (float(np.quantile(drawn, 0.95)), 50),
        "scrolling, 95 % below ms": (float(np.quantile(scrolled, 0.95)), 50),
    }


def cost_of_a_dashboard(messages: int = 500, rounds: int = 60, updates: int = 20) -> dict:
    """To be run in a kernel. All times are processor time of the whole process: the sending thread's is in it.

    share_at_20_per_s  of one processor, when each of 20 updates per second is a message of its own
    slowdown           of training a model so small that many of its updates are: blocks of updates with a dashboard
                       and without one take turns
    """
    dashboard, sizes = live.Dashboard(), []
    send = dashboard.send
    dashboard.send = lambda news: (sizes.append(len(json.dumps(news))), send(news))
    line = {"event": "step", "total_steps": 10**6, "bpc": 3.0123456, "lr": 1.23456e-3, "grad_norm": 0.71234567}
    with mock.patch.object(live, "MESSAGE_GAP_S", 0):
        began = time.process_time()
        for step in range(1, messages + 1):
            dashboard({**line, "step": step, "n_bytes": 1000 * step, "elapsed_s": 0.0512345 * step})
            time.sleep(0.001)
        each_s = (time.process_time() - began) / messages

    recipe = replace(PRESETS["laptop"].train, batch_size=4, bptt=32)
    config = ModelConfig(d_model=96, d_boom=192, n_layers=2, attention_layers=(0,), max_context=256)
    trainer = Trainer(SHARNN(config), load_corpus("enwik6"), recipe, Precision.pick("cpu", "float32"), 100_000)
    dashboard = live.Dashboard()

    def block(listener: Callable) -> float:
        began = time.process_time()
        for _ in range(updates):
            listener(trainer.update())
        return time.process_time() - began

    contestants = {"watched": dashboard, "alone": lambda event: None}
    taken = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, listener in contestants.items():
            taken[name].append(block(listener))
    return {
        "ms_per_message": 1000 * each_s,
        "share_at_20_per_s": 20 * each_s,
        "largest_message_bytes": max(sizes),
        "slowdown": median_ratio(taken["watched"], taken["alone"]),
    }


def bench_dashboard() -> dict[str, tuple[float, float]]:
    """`cost_of_a_dashboard` in a kernel of its own: figure -> what it was, and its limit."""
    manager, client = start_new_kernel()
    try:
        sizes, told = [], []

        def hear(message):
            if message["msg_type"] == "comm_msg":
                parts = ("header", "parent_header", "metadata", "content")
                sizes.append(sum(len(json.dumps(message[part], default=str)) for part in parts))
            elif message["msg_type"] == "stream":
                told.append(message["content"]["text"])

        code = f"import json; from {__name__} import *; print(json.dumps(cost_of_a_dashboard()))"
        reply = client.execute_interactive(code, timeout=600, output_hook=hear)
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))
        cost = json.loads("".join(told))
        return {
            "largest message, bytes": (cost["largest_message_bytes"], 1000),
            "share of a processor at 20 messages per second": (cost["share_at_20_per_s"], 0.02),
            "training beside training alone": (cost["slowdown"], 1.02),
            "message with its envelope, median bytes": (statistics.median(sizes), 2000),
        }
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def bench_page(page) -> dict[str, tuple[float, float]]:
    """The page of notebook 03, from its file: figure -> what it was, and its limit."""
    path = notebooks()[3]
    notebook = nbformat.read(path, as_version=4)
    of_03 = Page(path.relative_to(notebooks_dir()), notebook, executed(notebook))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "page.html"
        place.write_text(rendered(of_03), encoding="utf-8")
        page.goto(place.as_uri())
        page.wait_for_selector("body[data-drawn]")
        first, drawn = page.evaluate(
            "[performance.getEntriesByName('first-contentful-paint')[0].startTime, Number(document.body.dataset.drawn)]"
        )
        size = place.stat().st_size
    return {"size, MB": (size / 1e6, 15), "first paint, ms": (first, 1000), "all widgets drawn, ms": (drawn, 3000)}


def bench_network(page) -> dict[str, tuple[float, float]]:
    """The trained model in a page, its memory full: figure -> what it was, and its limit, here the least."""
    page.add_script_tag(content=source("network"))
    page.evaluate(
        "text => { window.network = loadNetwork(Uint8Array.from(atob(text), (c) => c.charCodeAt(0))); }",
        base64.b64encode(packed(trained_model())).decode(),
    )
    took_ms = page.evaluate(
        "n => { const state = network.start(); let began;"
        "for (let i = 0; i < 2 * n; i++) {"
        "if (i === n) began = performance.now(); network.step(state, (7 * i) % 256); }"
        "return (performance.now() - began) / n; }",
        trained_model().max_context,
    )
    return {"bytes per second, at least": (1000 / took_ms, 500)}


BENCHES: dict[str, Callable] = {
    "explorer, 1,024 x 5,000": lambda page: bench_explorer(page, 5000),
    "explorer, 1,024 x 16,000": lambda page: bench_explorer(page, 16_000),
    "dashboard": lambda page: bench_dashboard(),
    "page of notebook 03": bench_page,
    "the trained model in a page": bench_network,
}


def bench_widgets() -> list[dict]:
    """A row per figure: what it was, and its limit."""
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for name, bench in BENCHES.items():
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            for figure, (value, limit) in bench(page).items():
                rows.append({"widget": name, "figure": figure, "measured": value, "limit": limit})
                print(rows[-1], flush=True)
            page.close()
        browser.close()
    return rows
