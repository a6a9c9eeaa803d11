"""The contestants compute what they claim to, and the search cannot see what it must not."""

import ast
import json
import subprocess
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from shalab import SHARNN, InputError, ModelConfig, course, plots
from shalab.bundled import stored_result
from shalab.corpus import Corpus, load_corpus
from shalab.door import plain
from shalab.dropout import Dropout
from shalab.laboratory import bench, experiments, scaling, search
from shalab.laboratory.bench import GPT_RECIPE, LAPTOP, as_markdown, multiply_adds
from shalab.laboratory.feedforward import FeedForward, with_feed_forward
from shalab.laboratory.gpt import GPT, GPTConfig, GPTTrainer

ROOT = Path(__file__).parents[1]


def laboratory_modules(source):
    """What Python source imports of the laboratory, wherever the import stands: names of its modules."""
    names = []
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT  # as notebooks have it
    for node in ast.walk(compile(source, "source", "exec", flags)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "an import by its full name says where it comes from"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {(name + "...").split(".")[2] for name in names if f"{name}.".startswith("shalab.laboratory.")}


def test_the_library_never_imports_the_laboratory():
    assert laboratory_modules("def f():\n    from shalab import laboratory") == {""}
    assert laboratory_modules("import shalab.laboratory.gpt") == {"gpt"}
    files = {path.relative_to(ROOT / "shalab"): path for path in (ROOT / "shalab").rglob("*.py")}
    imported = {name: laboratory_modules(path.read_text(encoding="utf-8")) for name, path in files.items()}
    assert imported[Path("laboratory/bench.py")] >= {"gpt", "timing", "widgets"}
    assert imported.pop(Path("commands/lab.py")) == {"lab"}, "by `shalab lab`, when it is asked for"
    assert not {name: found for name, found in imported.items() if found and name.parts[0] != "laboratory"}


def test_notebooks_run_experiments_and_no_development_tool():
    """Search, benchmarks, scaling, timing and the GPT are imported by one another and by tests, by nothing else."""
    for path in [*course.notebooks(), *(course.notebooks_dir() / "solutions").glob("*.ipynb")]:
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for source in cells:
            allowed = set("contestants distillation experiments feedforward heads lab race recurrences".split())
            assert laboratory_modules(source) <= allowed, f"{path.name}: {source}"


def test_plain_dropout_drops_where_the_papers_code_does():
    config = ModelConfig(251, 11, 33, 3, 1, (1,), 23, 0.3, 0.2, 0.25, init_scale=1.0)
    model = SHARNN(config).train()
    seen = []
    original = F.dropout
    with pytest.MonkeyPatch.context() as patch, plain():
        patch.setattr(F, "dropout", lambda x, p, training: seen.append((p, tuple(x.shape))) or original(x, p, training))
        model(torch.zeros(7, 5, dtype=torch.long))
    attention = [(0.25, (7, 5, 11)), (0.25, (7, 5, 11)), (0.25, (5, 7, 7)), (0.25, (7, 5, 11))]
    block = [(0.25, (7, 5, 11)), (0.25, (7, 5, 33)), (0.25, (7, 5, 11))]
    assert seen == [(0.2, (7, 5, 11)), *block, block[0], *attention, *block[1:], *block, (0.3, (7, 5, 11))]


def test_flops_are_those_that_pytorch_counts():
    """Everything but the LSTM, which its counter does not know, and the gate's matrix, which no byte passes through."""
    config = ModelConfig(256, 64, 192, 3, 1, (1,), 64, 0.0, 0.0, 0.0)
    model = SHARNN(config).train()
    x = torch.randint(256, (17, 5))
    with FlopCounterMode(display=False) as counter:
        logits, state = model(x)  # no memory yet: K = T
        logits.sum().backward()
    gate = 2 * 3 * 2 * 64**2
    lstm = 3 * 3 * 8 * 64**2
    expected = 2 * (sum(multiply_adds(config, 17, 17)) - lstm) * x.numel() + gate
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_a_gpt_sees_only_the_past_and_learns():
    config = GPTConfig(d_model=16, n_layers=2, n_heads=2, window=13, batch_size=7, lr=1e-2, warmup_steps=5)
    torch.manual_seed(0)
    model = GPT(config).eval()
    x = torch.randint(256, (3, 13))
    other = x.clone()
    other[:, 7] ^= 1
    assert torch.equal(model(x)[:, :7], model(other)[:, :7]) and not torch.equal(model(x)[:, 7], model(other)[:, 7])
    trainer = GPTTrainer(config, Corpus("ab", np.tile(np.frombuffer(b"abcde", np.uint8), 300)), 150)
    before = trainer.evaluate()
    losses = [trainer.update() for _ in range(150)]
    assert 7.5 < before < 8.5 and trainer.evaluate() < 0.1 and losses[-1] < 0.1
    assert trainer.n_bytes == 150 * 7 * 13


@pytest.mark.parametrize("given, stride", [(None, 4), (3, 3)])
def test_a_gpt_is_charged_for_every_byte_once(given, stride):
    """Against one window per byte, the longest that the strided reading gives it."""
    config = GPTConfig(d_model=16, n_layers=1, n_heads=2, window=8)
    data = np.random.default_rng(0).integers(256, size=1000).astype(np.uint8)
    trainer = GPTTrainer(config, Corpus("noise", data), 1)
    begin, end = trainer.corpus.bounds["test"]
    nats = 0.0
    for place in range(begin, end):
        seen = 9 - stride + (place - begin) % stride  # bytes before it in its window
        x = torch.tensor(data[place - seen : place].astype(np.int64))
        logits = trainer.model.eval()(x[None])[0, -1]
        nats += F.cross_entropy(logits, torch.tensor(int(data[place]))).item()
    assert trainer.evaluate("test", given) == pytest.approx(nats / (end - begin) / np.log(2), rel=1e-4)


def test_a_part_measured_again_leaves_the_others(tmp_path, monkeypatch, capsys):
    values = iter(range(9))
    parts = {name: lambda results, options: [{"value": next(values)}] for name in ("first", "second")}
    monkeypatch.setattr(bench, "PARTS", parts)
    monkeypatch.setattr(bench, "machine", lambda: {"processor": "abacus"})
    for arguments, expected in (([], [0, 1]), (["second"], [0, 2]), ([], [3, 4])):
        monkeypatch.setattr("sys.argv", ["bench", *arguments, "--out", str(tmp_path)])
        bench.main()
        results = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
        assert [results[name][0]["value"] for name in parts] == expected
    assert "abacus" in (tmp_path / "bench.md").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["bench", "third"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "third: the parts are first, second" in capsys.readouterr().err


def test_seconds_of_a_cell_are_those_between_its_start_and_its_end():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time; time.sleep(0.3)")])
    course.run_all(notebook, record_timing=True)
    assert 0.3 <= bench.cell_seconds(notebook.cells[0]) < 30


def test_contestants_have_equally_many_parameters():
    assert GPT(GPT_RECIPE).n_parameters == pytest.approx(SHARNN(LAPTOP.model).n_parameters, rel=0.02)


def test_a_search_cannot_see_the_test_slice(tmp_path):
    opened, corpus = search.open_corpus(), load_corpus("enwik6")
    assert len(opened) == 950_000 and set(opened.bounds) == {"train", "valid"}
    for split in ("train", "valid"):
        assert opened.bounds[split] == corpus.bounds[split] and (opened.split(split) == corpus.split(split)).all()
    with pytest.raises(KeyError):
        opened.split("test")
    (tmp_path / "odd.txt").write_bytes(bytes(range(101)))  # of which 90 % and 95 % are no whole numbers
    opened = search.open_corpus(str(tmp_path / "odd.txt"), n_valid=3)
    assert opened.split("train").tolist() == [*range(90)] and opened.split("valid").tolist() == [90, 91, 92]


def test_a_trial_is_written_down(tmp_path, monkeypatch):
    small = [
        "d_model=32",
        "d_boom=64",
        "max_context=64",
        "bptt=16",
        "dropout=0.2",
        "dropout_hidden=0.1",
        "evaluations=2",
    ]
    for arguments in (small, ["--gpt", "d_model=16", "n_layers=1", "window=8"]):
        monkeypatch.setattr("sys.argv", ["search", "--megabytes", "0.003", "--out", "trials.jsonl", *arguments])
        search.main()
    ours, theirs = map(json.loads, (tmp_path / "trials.jsonl").read_text(encoding="utf-8").splitlines())
    assert (
        ours["model"] == "SHA-RNN" and ours["changes"]["dropout_hidden"] == 0.1 and len(ours["bytes_train_valid"]) == 2
    )
    assert theirs["model"] == "GPT" and theirs["best_valid_bpc"] == min(row[2] for row in theirs["bytes_train_valid"])
    timed = ["--minutes", "0.001", "--data", "own.txt", "--valid", "50", "--out", "timed.jsonl"]
    (tmp_path / "own.txt").write_bytes(bytes(range(250)) * 40)
    monkeypatch.setattr("sys.argv", ["search", *timed, *small])
    search.main()
    result = json.loads((tmp_path / "timed.jsonl").read_text(encoding="utf-8"))
    assert (result["minutes"], result["data"], result["n_valid"]) == (0.001, "own.txt", 50)
    model, train = search.changed({"dropout": 0.2, "dropout_hidden": 0.1, "lr": 3})
    assert (model.dropout, model.dropout_input, model.dropout_hidden, train.lr) == (0.2, 0.2, 0.1, 3)
    monkeypatch.setattr("sys.argv", ["search", "--out", str(tmp_path), *small])
    monkeypatch.setattr(search, "trial", None)  # not reached
    with pytest.raises(IsADirectoryError):
        search.main()
    with pytest.raises(InputError, match="neither ModelConfig nor TrainConfig has windw"):
        search.changed({"windw": 3})


def test_results_as_a_table():
    text = as_markdown(
        {"speed": [{"size": "laptop", "bytes_per_s": 12345.6}, {"size": "paper", "bytes_per_s": 0.1234}]}
    )
    assert "| size | bytes per s |\n|---|---|\n| laptop | 12,346 |\n| paper | 0.123 |" in text


def test_a_feed_forward_layer_has_two_matrices():
    """Against numpy; every block gets one of its own, initialised as all linear layers are."""
    layer = FeedForward(5, 13, 0.0).double()
    x = torch.randn(7, 3, 5, dtype=torch.double)
    w1, b1, w2, b2 = (p.detach().numpy() for p in layer.parameters())
    u = x.numpy() @ w1.T + b1
    expected = (u / (1 + np.exp(-1.702 * u))) @ w2.T + b2
    assert np.abs(layer(x, Dropout(False)).detach().numpy() - expected).max() < 1e-12
    assert layer.train()(x, Dropout(True)).shape == x.shape

    model = SHARNN(ModelConfig(256, 30, 60, n_layers=3, attention_layers=(1,), max_context=23, init_scale=0.3))
    n_before = model.n_parameters
    model = with_feed_forward(model, 70)
    layers = [block.boom for block in model.blocks]
    assert len({id(layer.narrow.weight) for layer in layers}) == 3
    assert model.n_parameters - n_before == 3 * (30 * 70 + 70 + 70 * 30 + 30 - 30 * 60 - 60)
    for layer in layers:
        assert layer.narrow.weight.std().item() == pytest.approx(0.3 / 30**0.5, rel=0.1) and not layer.narrow.bias.any()


def test_experiments_write_what_the_notebooks_read(tmp_path, monkeypatch):
    small = {
        "boom": partial(experiments.boom, d_model=8, steps=3, seeds=(5, 7)),
        "lamb": partial(experiments.lamb, lrs=(1e-2, 1e18), warmups=(0, 2, 3), init_scales=(0.5,), steps=10),
        "lamb_control": partial(experiments.lamb_control, steps=10, seeds=(3,), long_steps=10),
        "lamb_laptop": partial(experiments.lamb_laptop, n_bytes=1000),
        "cuts": partial(experiments.cuts, steps=2, seeds=(0,), n_read=2048),
        "trust": partial(experiments.trust, steps=6, recorded=3),
        "value_gate": partial(experiments.value_gate, steps=2, every=1, seeds=(0,)),
        "backoff": partial(experiments.backoff, n_bytes=2000, seeds=(0,), lrs=(1e-3,)),
        "induction": partial(experiments.induction, n_bytes=5000, seeds=(1,), evaluations=2),
    }
    assert set(small) == set(experiments.EXPERIMENTS)
    short = Corpus("enwik6", load_corpus("enwik6").data[:50_000])
    monkeypatch.setattr(search, "load_corpus", lambda name: short)
    monkeypatch.setattr(experiments, "load_corpus", lambda name: short)
    monkeypatch.setattr(experiments, "READING", {"window": 64, "n_streams": 5, "context": 64})
    monkeypatch.setattr(experiments, "EXPERIMENTS", small)
    for name in small:
        monkeypatch.setattr("sys.argv", ["experiments", name, "--out", f"results/{name}.json"])
        experiments.main()
        found = json.loads((tmp_path / "results" / f"{name}.json").read_text(encoding="utf-8"))
        assert set(found) >= set(stored_result(name)) and name in found["command"]
        if name == "boom":
            boom, wide, even = found["rows"]
            assert [row["d_inner"] for row in found["rows"]] == [32, 32, 16]
            assert boom["n_parameters"] - even["n_parameters"] == 2 * 8 and wide["n_parameters"] > boom["n_parameters"]
            assert all(len(set(row["valid_bpc"])) == 2 for row in found["rows"])
        elif name == "lamb":
            assert set(found["bpc"]) == {"Adam", "LAMB", "min-trust LAMB"}
            for by_scale in found["bpc"].values():
                (rows,) = by_scale.values()
                assert len(rows) == 3 and all(4.5 < row[0] < 8 for row in rows)
            assert found["bpc"]["Adam"]["0.5"][0][1] is None, "a run that broke off has no score"
        elif name == "trust":
            assert [line["step"] for line in found["lines"]] == [2, 4, 6]
        elif name == "cuts":
            carried, cut = found["by_place"].values()
            for by_read in (carried, cut):
                assert len(by_read["cut"][0]) == 64 and by_read["cut"] != by_read["carried"]
            assert carried["carried"] != cut["carried"], "the second update began with a state, or without"
        elif name == "backoff":
            assert ["silent" in run for run in found["runs"]] == [True, False, True, True, False]
        elif name == "induction":
            for (_, first), (n_bytes, last) in (curve for curves in found["curves"].values() for curve in curves):
                assert last < first and n_bytes > 4000


def test_an_interrupted_experiment_goes_on_from_its_parts(tmp_path):
    def stop():
        raise KeyboardInterrupt

    part = experiments.kept(tmp_path / "new" / "a.parts")
    assert part("first", lambda: [2.5, None]) == [2.5, None]
    with pytest.raises(KeyboardInterrupt):
        part("second", stop)
    again = experiments.kept(tmp_path / "new" / "a.parts")
    assert again("first", stop) == [2.5, None] and again("second", lambda: 7) == 7


def test_an_experiment_that_cannot_write_says_so_before_it_computes(tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"boom": lambda part: pytest.fail("it computed")})
    monkeypatch.setattr("sys.argv", ["experiments", "boom", "--out", str(tmp_path / "taken" / "boom.json")])
    with pytest.raises(SystemExit):
        experiments.main()
    assert "another folder" in capsys.readouterr().err


def test_an_experiment_without_a_file_says_which_part_it_is_at(capsys):
    assert experiments.told("seed 0", lambda: print("(work)") or 7) == 7
    assert capsys.readouterr().out == "seed 0 ... (work)\n0 s\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the process's peak is read where Linux tells it")
def test_what_scaling_measures_has_a_full_memory(monkeypatch, capsys):
    rows, update = [], scaling.Trainer.update

    def watched(trainer):
        update(trainer)
        rows.append(len(trainer.state.memory[0]))

    monkeypatch.setattr(scaling.Trainer, "update", watched)
    monkeypatch.setattr(scaling, "keep_freed_memory", lambda: None)
    scaling._measure(scaling._size(8, 2, 40, bptt=4, batch_size=3), 2)
    assert rows[1:] == [40, 40, 40] and json.loads(capsys.readouterr().out)["peak_gb"] > 0


def test_a_floor_above_every_ratio_is_adam_without_bias_correction():
    raw = experiments.small_trainer("min-trust LAMB", 5, seed=3, lr=1e-2 / experiments._ABOVE_ALL)
    raw.optimizer.param_groups[0]["min_trust"] = experiments._ABOVE_ALL
    before = [p.detach().clone() for p in raw.model.parameters()]
    raw.update()
    # At the first step m / sqrt(v) is 0.1 g / sqrt(0.001 g^2): every number moves by 3.16 lr or, where g is tiny, less.
    moved = torch.cat([(p - old).abs().flatten() for p, old in zip(raw.model.parameters(), before, strict=True)])
    assert moved.max().item() == pytest.approx(1e-2 * 0.1 / 0.001**0.5, rel=1e-2)


def test_optimizers_of_an_experiment_start_from_the_same_weights_and_text():
    trainers = [experiments.small_trainer(name, 5, seed=3, lr=1e-2) for name in experiments.OPTIMIZERS]
    first, *others = ([*trainer.model.parameters()] for trainer in trainers)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    losses = [experiments.finish(trainer) for trainer in trainers]
    assert len({values[0] for values in losses}) == 1 and len({values[-1] for values in losses}) == 3
    assert all(len(values) == 5 for values in losses)


def test_heat_maps_write_every_number_in_its_field():
    grids = {"a": [[1.0, 2.0], [3.0, None], [5.0, 6.0]], "b": [[7.0] * 2] * 3, "c": [[8.0] * 2] * 3}
    figure = plots.heat_maps(grids, "x", [0.1, 0.2], "y", [0, 5, 7], columns=3, limit=7.0)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["1.00", "2.00", "3.00", "-", "5.00", "6.00"] and figure.axes[2].get_title() == "c"
    assert len({axes.images[0].get_clim() for axes in figure.axes}) == 1, "one scale for all"


def test_the_bare_value_vector_starts_where_the_over_parameterised_one_does():
    found = experiments.value_gate(steps=2, every=1, seeds=(0,))
    over, bare = found["rows"]["over-parameterised"], found["rows"]["bare"]
    assert over["path"][0] == bare["path"][0] and over["path"][2] != bare["path"][2]
    assert over["n_parameters"] - bare["n_parameters"] == 2 * 64 * 64 + 2 * 64  # W (2D, D) and b (2D,)
    for row in (over, bare):
        assert len(row["path"]) == len(found["steps"]) == 3
        assert row["gate"][:8] == row["path"][-1] and len(row["gate"]) == 64


def test_what_a_fresh_process_returns_and_a_part_that_dies(monkeypatch):
    assert bench._in_fresh_process("_cell(0.25)") == "0.250"
    monkeypatch.setattr(bench.sys, "executable", "false")  # the kernel ends a process for want of memory
    assert bench.peak_memory() == {"peak_gb": "not measured", "seconds": ""}


def test_a_measurement_fails_with_its_worker(tmp_path, monkeypatch, capsys):
    """One of two processes fails after the first one has printed its speed."""
    worker = "#!/bin/sh\necho 7.5\nexit $RANK\n"
    (tmp_path / "python").write_text(worker, encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(scaling.sys, "executable", str(tmp_path / "python"))
    assert scaling._together(1, 1) == 7.5
    with pytest.raises(subprocess.CalledProcessError):
        scaling._together(2, 1)
    monkeypatch.setattr("sys.argv", ["scaling", "context", "contxt"])
    with pytest.raises(SystemExit):
        scaling.main()
    assert "contxt: the parts are formulas, context" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_fails_before_the_work(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(dir)

    for module in (bench, scaling):
        monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)
        monkeypatch.setattr("sys.argv", ["part", "--out", str(tmp_path)])
        with pytest.raises(PermissionError):
            module.main()
