"""Long training leaves nothing behind: no growth of memory, open files, threads or of what the notebook holds."""

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TORTURE

from shalab.presets import PRESETS, Budget
from shalab.run import Run
from shalab.train import EvalEvent
from shalab.widgets import Dashboard

MINUTES = 60 if TORTURE else 0.15


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_training_grows_by_nothing(tmp_path, text, precision):
    (tmp_path / "own.txt").write_bytes(text.tobytes())
    tiny = PRESETS["tiny"]
    preset = replace(tiny, train=replace(tiny.train, evaluations=50, checkpoint_every=20))
    run = Run.create(tmp_path / "run", "tiny", preset, str(tmp_path / "own.txt"), 0, Budget(minutes=MINUTES), precision)
    dashboard = Dashboard(run)
    held = []

    def listener(event):
        dashboard(event)
        if isinstance(event, EvalEvent):
            held.append(footprint(dashboard))

    run.start(listener)
    run.wait()
    early, late = held[len(held) // 5], held[-1]
    print(f"{run.trainer.step:,} updates: {early} -> {late}")
    assert late["files"] <= early["files"] and late["threads"] <= early["threads"]
    assert late["rss_mb"] < early["rss_mb"] + 20
    assert late["message_mb"] < 0.5


def footprint(dashboard):
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "rss_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "message_mb": len(json.dumps(dashboard.get_state("history"))) / 1e6,
    }
