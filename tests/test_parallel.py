"""Several processes do what one does. They meet over gloo, as on any machine without GPUs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import free_port
from waiting import WAIT_S, until

from shalab import InputError
from shalab.checkpoint import load_checkpoint
from shalab.cli import main
from shalab.follow import Follower
from shalab.parallel import Team

# Four streams of 450 bytes, windows near 13: a memory of 23 is full after 2 updates, an epoch ends after about 35.
CURVE = """
import json, sys, torch
from dataclasses import replace
from shalab import SHARNN, ModelConfig
from shalab.corpus import load_corpus
from shalab.device import Precision
from shalab.follow import Follower
from shalab.parallel import Team
from shalab.train import TrainConfig, Trainer
def main():
    torch.set_num_threads(1)
    dropout, dtype, steps = float(sys.argv[2]), getattr(torch, sys.argv[3]), int(sys.argv[4])
    torch.manual_seed(1)
    model = SHARNN(ModelConfig(256, 11, 33, 3, 1, (1,), 23, dropout, dropout, dropout)).to(dtype)
    config = TrainConfig(batch_size=4, bptt=13, lr=1e-2, warmup_steps=3, sample_bytes=0, accumulate=2)
    precision = Precision.pick("cpu", "float32", Team.join())
    trainer = Trainer(model, load_corpus(sys.argv[1]), config, precision, 1000, seed=2)
    losses = [trainer.update().loss_nats for _ in range(steps)]
    scores = [trainer.evaluate().valid_bpc]
    trainer.corpus.bounds["valid"] = 0, 101  # begins where nothing is before it; four pieces, the last one shorter
    scores.append(trainer.evaluate().valid_bpc)
    if precision.team.first:
        print(json.dumps({"losses": losses, "scores": scores, "n_bytes": trainer.n_bytes}))
    precision.team.leave()

main()
"""


def start(size, *command, **options):
    """`command` of python in `size` processes that know of each other."""
    common = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": 1}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | {name: str(n) for name, n in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )
        for rank in range(size)
    ]  # fmt: skip


def curve(path, size, dropout, dtype, steps):
    processes = start(size, "-c", CURVE, path, str(dropout), dtype, str(steps))
    outputs = [process.communicate(timeout=WAIT_S) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    assert not any(output for output, _ in outputs[1:])
    return json.loads(outputs[0][0])


@pytest.fixture
def path(tmp_path, text):
    (tmp_path / "own.txt").write_bytes(text.tobytes())
    return str(tmp_path / "own.txt")


def test_one_two_and_four_processes_learn_the_same(path):
    """float64, no dropout: through a full memory, accumulated windows and the beginning of a new epoch."""
    one, two, four = (curve(path, size, 0.0, "float64", 53) for size in (1, 2, 4))
    assert one["losses"][-1] < one["losses"][0] - 1
    for other in (two, four):
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-6)
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-6)
        assert other["n_bytes"] == one["n_bytes"]


def test_with_dropout_they_learn_alike(path):
    one, two = (curve(path, size, 0.1, "float32", 20) for size in (1, 2))
    assert two["losses"] != one["losses"]  # every process draws masks of its own
    assert two["losses"] == pytest.approx(one["losses"], abs=0.25)


@pytest.mark.parametrize(
    "values",
    [
        {"RANK": "first"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "2", "RANK": "0"}, {"WORLD_SIZE": "-1"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999999"},
    ],
)  # fmt: skip
def test_an_environment_in_which_nobody_can_meet_is_one_sentence(path, monkeypatch, capsys, values):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--preset", "tiny", "--steps", "1", "--data", str(path), "--out", "a"]) == 2
    assert "cannot join the other processes that WORLD_SIZE promises" in capsys.readouterr().err
    assert not Path("a").exists()


def test_streams_are_divided_evenly():
    assert [Team(rank, 3).own_streams(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(InputError, match="7 streams cannot be divided among 3 processes"):
        Team(0, 3).own_streams(7)


def shalab(path, out, *options):
    return "-m", "shalab", "train", "--preset", "tiny", "--data", path, "--out", str(out), "--device", "cpu", *options


def torchrun(path, out, *options, size=2, restarts=0):
    run = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "--max-restarts", str(restarts)
    return subprocess.Popen(
        [sys.executable, *run, *shalab(path, out, *options)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines(out, kind="step"):
    try:
        found = [
            json.loads(line)
            for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:-1]
        ]
    except FileNotFoundError:
        return []
    return [line for line in found if line["event"] == kind]


def workers(launcher):
    """Process ids of a launcher's children."""
    return [
        int(pid)
        for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text(encoding="utf-8").split()
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("killed, size", [("worker", 1), ("launcher", 2), ("both", 4)])
def test_kill_minus_9_loses_only_what_came_after_the_last_checkpoint(path, tmp_path, killed, size):
    out = tmp_path / "run"
    launcher = torchrun(path, out, "--steps", "450")
    until(lambda: len(lines(out)) > 230, "update")  # past the checkpoint of step 200
    children = workers(launcher)
    if killed != "launcher":
        os.kill(children[1], signal.SIGKILL)
    if killed != "worker":
        launcher.kill()
    launcher.communicate(timeout=WAIT_S)
    until(lambda: not any(os.path.exists(f"/proc/{pid}") and _alive(pid) for pid in children), "end of them all")
    reached = load_checkpoint(out)["step"]
    assert reached >= 200 and (killed != "launcher" or reached > 230)  # told to end, they write where they are
    if reached < 450:
        assert not (out / "result.json").exists()
    resumed = torchrun(path, out, "--resume", size=size)
    _, errors = resumed.communicate(timeout=WAIT_S)
    assert resumed.returncode == 0, errors
    assert [line["step"] for line in lines(out)] == list(range(1, 451))
    assert load_checkpoint(out)["step"] == 450 and (out / "result.json").exists()


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_torchrun_restarts_from_the_last_checkpoint(path, tmp_path):
    out = tmp_path / "run"
    launcher = torchrun(path, out, "--steps", "450", restarts=1)
    until(lambda: len(lines(out)) > 230, "update")
    os.kill(workers(launcher)[0], signal.SIGKILL)  # the one that writes
    output, errors = launcher.communicate(timeout=WAIT_S)
    assert launcher.returncode == 0, errors
    assert [line["step"] for line in lines(out)] == list(range(1, 451))
    assert output.count("\nbits per byte") == 1 and (out / "result.json").exists()


def test_two_processes_agree_on_the_length_of_a_run_of_minutes(path, tmp_path):
    out = tmp_path / "run"
    launcher = torchrun(path, out, "--minutes", "0.05")
    output, errors = launcher.communicate(timeout=WAIT_S)
    assert launcher.returncode == 0, errors
    *_, last = lines(out)
    assert last["step"] == last["total_steps"] == load_checkpoint(out)["step"] and last["elapsed_s"] > 2
    assert "tiny on own.txt (2,003 bytes)" in output and "0.05 minutes -> " in output


# Two machines: network namespaces, joined by a cable that can be pulled


ADDRESSES = ("10.231.7.1", "10.231.7.2")


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture
def machines():
    """The names of two network namespaces with an address each."""
    names = [f"shalab-{os.getpid()}-{side}" for side in "ab"]
    cables = [f"shalab{os.getpid() % 100_000}{side}" for side in "ab"]
    if sys.platform != "linux" or os.geteuid() or not shutil.which("ip") or ip("netns", "add", names[0]).returncode:
        pytest.skip("network namespaces need Linux, root and ip")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            for device in (cable, "lo"):
                assert ip("-n", name, "link", "set", device, "up").returncode == 0
        yield list(zip(names, cables, strict=True))
    finally:
        for name in names:
            for process in ip("netns", "pids", name).stdout.split():  # whatever a failed test left running
                os.kill(int(process), signal.SIGKILL)
            ip("netns", "del", name)


def on_two(machines, path, out, *options, port=29500):
    """README's line for two machines, on each of them."""
    run = "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", ADDRESSES[0], "--master-port", str(port)
    return [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *run, "--node-rank", str(rank),
             *shalab(path, out, "--dtype", "float32", *options)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": cable},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank, (name, cable) in enumerate(machines)
    ]  # fmt: skip


NO_MASKS = "--dropout", "0", "--dropout-input", "0", "--dropout-hidden", "0"


def test_two_machines_learn_what_one_process_learns_though_the_cable_is_pulled(machines, path, tmp_path):
    alone, out = tmp_path / "alone", tmp_path / "two"
    steps = "--steps", "600", *NO_MASKS
    assert subprocess.run(
        [sys.executable, *shalab(path, alone, "--dtype", "float32", *steps)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    ).returncode == 0  # fmt: skip
    both = on_two(machines, path, out, *steps)
    until(lambda: len(lines(out)) > 50, "update")
    follower = Follower(out)  # from a third place
    assert follower.process[1] == socket.gethostname()
    name, cable = machines[1]
    ip("-n", name, "link", "set", cable, "down")
    held = -1
    while held < len(lines(out)):  # what was under way comes to its end
        held = len(lines(out))
        time.sleep(3)
    assert held < 600
    ip("-n", name, "link", "set", cable, "up")
    for process in both:
        _, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, errors
    expected, found = ([line["loss_nats"] for line in lines(folder)] for folder in (alone, out))
    assert found[:100] == pytest.approx(expected[:100], abs=1e-4) and len(found) == 600
    assert found[-1] == pytest.approx(expected[-1], abs=0.05)
    assert sum(1 for _ in follower.backlog()) > 600 and follower.finished


def test_what_two_machines_began_one_process_ends(machines, path, tmp_path):
    out = tmp_path / "two"
    both = on_two(machines, path, out, "--steps", "450", port=29501)
    until(lambda: len(lines(out)) > 30, "update")
    Follower(out).end()
    for process in both:
        _, errors = process.communicate(timeout=WAIT_S)
    reached = load_checkpoint(out)["step"]
    assert 30 < reached < 450
    resumed = subprocess.run([sys.executable, *shalab(path, out, "--resume")], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert [line["step"] for line in lines(out)] == list(range(1, 451))
