"""What the widgets cost: `python -m shalab.laboratory.widgets`.

Machines differ and one machine's speed varies, so read the ratios: each compares timings taken one after the other.
"""

import json
import statistics
import time
from dataclasses import replace

import torch
from jupyter_client.manager import start_new_kernel

from shalab.corpus import load_corpus
from shalab.device import Precision
from shalab.laboratory.bench import ratio
from shalab.model import SHARNN, ModelConfig
from shalab.presets import PRESETS
from shalab.train import StepEvent, Trainer
from shalab.widgets import dashboard as live


def training_with_a_dashboard(rounds: int = 15, updates: int = 20) -> dict:
    """To be run in a kernel: blocks of updates with a dashboard listening and without take turns.

    The model is so small that nearly each of its updates is a message. Processor time is counted, that of the
    kernel's threads included.
    """
    recipe = replace(PRESETS["laptop"].train, batch_size=4, bptt=32)
    config = ModelConfig(d_model=96, d_boom=192, n_layers=2, attention_layers=(0,), max_context=256)
    trainer = Trainer(SHARNN(config), load_corpus("enwik6"), recipe, Precision.pick("cpu", "float32"), 100_000)
    dashboard, sent = live.Dashboard(), []
    send = dashboard.send
    dashboard.send = lambda news: (sent.append(len(json.dumps(news))), send(news))
    listening, alone, in_call_s, wall_s = [], [], 0.0, 0.0
    for turn in range(rounds + 1):
        for taken, listener in ((listening, dashboard), (alone, lambda event: None)):
            began, began_wall = time.process_time(), time.perf_counter()
            for _ in range(updates):
                event: StepEvent = trainer.update()
                called = time.perf_counter()
                listener(event)
                in_call_s += (time.perf_counter() - called) if listener is dashboard else 0.0
            if listener is dashboard:
                wall_s += time.perf_counter() - began_wall
            if turn:
                taken.append(time.process_time() - began)
    return {
        "messages_per_s": len(sent) / wall_s,
        "largest_message_bytes": max(sent),
        "slowdown": ratio(listening, alone),
        "share_of_time_in_the_listener": in_call_s / wall_s,
        "updates_per_s": updates / statistics.median(alone),
        "threads": torch.get_num_threads(),
    }


def bench_dashboard() -> dict:
    """`training_with_a_dashboard` in a kernel of its own, and the size of the whole messages that leave it."""
    manager, client = start_new_kernel()
    try:
        sizes, told = [], []

        def hear(message):
            if message["msg_type"] == "comm_msg":
                parts = ("header", "parent_header", "metadata", "content")
                sizes.append(sum(len(json.dumps(message[part], default=str)) for part in parts))
            elif message["msg_type"] == "stream":
                told.append(message["content"]["text"])

        code = f"import json; from {__spec__.name} import *; print(json.dumps(training_with_a_dashboard()))"
        reply = client.execute_interactive(code, timeout=600, output_hook=hear)
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))
        return {**json.loads("".join(told)), "median_bytes_with_envelope": statistics.median(sizes)}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    print(json.dumps({"dashboard": bench_dashboard()}, indent=2))
