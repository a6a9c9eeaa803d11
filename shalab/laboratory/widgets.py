"""What the widgets cost: `python -m shalab.laboratory.widgets`.

One machine's speed varies, so read the ratios: each compares timings taken one after the other.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

from jupyter_client.manager import start_new_kernel

from shalab.corpus import load_corpus
from shalab.device import Precision
from shalab.laboratory.bench import ratio
from shalab.model import SHARNN, ModelConfig
from shalab.presets import PRESETS
from shalab.train import Trainer
from shalab.widgets import dashboard as live


def cost_of_a_dashboard(messages: int = 500, rounds: int = 15, updates: int = 20) -> dict:
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
        "slowdown": ratio(taken["watched"], taken["alone"]),
    }


def bench_dashboard() -> dict:
    """`cost_of_a_dashboard` in a kernel of its own, and the size of the whole messages that leave it."""
    manager, client = start_new_kernel()
    try:
        sizes, told = [], []

        def hear(message):
            if message["msg_type"] == "comm_msg":
                parts = ("header", "parent_header", "metadata", "content")
                sizes.append(sum(len(json.dumps(message[part], default=str)) for part in parts))
            elif message["msg_type"] == "stream":
                told.append(message["content"]["text"])

        code = f"import json; from {__spec__.name} import *; print(json.dumps(cost_of_a_dashboard()))"
        reply = client.execute_interactive(code, timeout=600, output_hook=hear)
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))
        return {**json.loads("".join(told)), "median_bytes_with_envelope": statistics.median(sizes)}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    print(json.dumps({"dashboard": bench_dashboard()}, indent=2))
