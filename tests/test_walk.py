"""Notebook 06 from end to end, as a reader goes: another text stands in enwik8's place, on a server of this machine."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_download import Mirror, packed
from test_stopped import STEPS, TINY, run
from waiting import until

from shalab.cli import main
from shalab.corpus import load_corpus
from shalab.events import read_metrics
from shalab.follow import Follower

WORDS = TINY.replace("enwik6", "enwik8").replace("steps=400", "steps=2500")
NAME = "tiny-enwik8-2500-steps-seed-6"


@pytest.fixture
def enwik8(tmp_path, monkeypatch):
    """A server of an enwik8 of 100,003 bytes, the beginning of enwik6, in this process and those it starts."""
    content = load_corpus("enwik6").data[:100_003].tobytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.archive, server.budget, server.ranges, server.requests = packed(content), 9_000, True, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    there = {
        "url": f"http://127.0.0.1:{server.server_port}/good", "n_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    hook = Path(__file__).with_name("fetched")
    monkeypatch.setenv("SHALAB_TEST_ENWIK8", json.dumps(there))
    monkeypatch.setenv("SHALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def test_download_launch_lose_the_kernel_find_kill_resume_continue_score_enter(enwik8, tmp_path):
    folder = tmp_path / "runs" / NAME
    said = run("06", [WORDS, "cell-04", "print(DATA)"], tmp_path)  # the download breaks off
    assert said[1].startswith("enwik8 cannot be fetched just now") and said[2] == "enwik6\n"
    enwik8.budget = None
    run("06", [WORDS, "cell-04", "cell-10"], tmp_path)  # it goes on, the run begins, and the kernel ends
    assert any(enwik8.requests), "the download began anew"
    follower = Follower(folder)
    process, _ = follower.process
    before = len(read_metrics(folder))
    until(lambda: len(read_metrics(folder)) > before, "update")
    found = "print(run.process[0])"
    kill = """
import asyncio, os, signal
os.kill(run.process[0], signal.SIGKILL)
while run.alive:
    await asyncio.sleep(0.1)
"""
    resume = ["cell-10", "cell-12", "cell-18", "cell-20", "from shalab.run import read_metrics", STEPS]
    said = run("06", [WORDS, "cell-04", "cell-10", found, "cell-12", kill, "cell-18", *resume], tmp_path)
    assert said[3] == f"{process}\n" and said[6].startswith("its process is gone")
    assert said[9] == "finished and scored\n" and said[12] == "2500\n"
    first = follower.result()
    again = ["-m", "shalab", "train", "--resume", "--change", "--out", str(folder), "--steps", "2600"]
    assert subprocess.run([sys.executable, *again]).returncode == 0
    assert follower.result()["n_steps"] == 2600 and follower.result()["test_bpc"] != first["test_bpc"]
    ledger = "from shalab.ledger import ledger\nprint(ledger('runs'))"
    (book,) = run("06", [ledger], tmp_path)
    assert f"> {NAME}" in book and f"{follower.result()['test_bpc']:.3f}" in book
    assert main(["watch", str(folder)]) == 0
