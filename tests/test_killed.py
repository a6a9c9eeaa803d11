"""A run that is killed and resumed, wherever it stands, ends with the bits of one that nobody disturbed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TORTURE

from shalab.checkpoint import load_checkpoint

KILLS = 200 if TORTURE else 6


@pytest.mark.skipif(sys.platform == "win32", reason="the attempts are forks")
def test_kills_at_random_moments_cost_nothing(tmp_path, text):
    (tmp_path / "own.txt").write_bytes(text.tobytes())
    command = [sys.executable, Path(__file__).with_name("killed.py"), tmp_path, tmp_path / "own.txt", str(KILLS), "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    logs = "\n".join(log.read_text(encoding="utf-8")[-2000:] for log in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    said = json.loads(done.stdout.splitlines()[-1])
    print(said)
    assert set(said["ends"]) <= {"0", "-9", "-15", "-2", "130", "143"}, f"{said}\n{logs}"
    straight = outcome(tmp_path / "straight")
    for n in range(said["runs"]):
        assert outcome(tmp_path / f"run-{n}") == straight, n
    assert not list(tmp_path.rglob("*.part"))


def outcome(run):
    """Every tensor's bytes of the checkpoint, the record but for times and the stops themselves, and the scores."""
    content = load_checkpoint(run)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    lines = [
        {key: value for key, value in line.items() if key != "elapsed_s"}
        for line in metrics if line["event"] not in ("checkpoint", "end")
    ]  # fmt: skip
    return (
        _bytes({key: value for key, value in content.items() if key not in ("config", "elapsed_s")}),
        lines,
        [result[key] for key in ("valid_bpc", "test_bpc", "n_bytes", "n_steps")],
    )


def _bytes(x):
    if isinstance(x, torch.Tensor):
        return x.dtype, tuple(x.shape), x.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(x, dict):
        return {key: _bytes(value) for key, value in x.items()}
    return [_bytes(part) for part in x] if isinstance(x, list | tuple) else x
