"""The model outside of PyTorch: the same numbers in ONNX, the same weights in safetensors, little lost in int8."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from shalab import SHARNN, InputError, ModelConfig
from shalab.bundled import assets_dir, stored_result
from shalab.checkpoint import load_model
from shalab.cli import main
from shalab.corpus import load_corpus
from shalab.course import trained_model
from shalab.evaluate import evaluate

pytest.importorskip("onnxruntime")
from shalab.laboratory import portable as laboratory  # noqa: E402
from shalab.laboratory.portable import OnnxReader  # noqa: E402
from shalab.portable import export_onnx, export_safetensors, onnx_step  # noqa: E402

MODEL = assets_dir() / "model"


def read_by_torch(model, text):
    """Logits after each byte, (T, V)."""
    state, logits = None, []
    with torch.no_grad():
        for byte in text:
            row, state = model(torch.tensor([[byte]]), state)
            logits.append(row[0, 0].numpy())
    return np.stack(logits)


def read_by_onnx(step, text, path):
    path.write_bytes(step.SerializeToString())
    reader = OnnxReader(path)
    return np.stack([reader.step(byte) for byte in text])


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(256, 10, 30, n_layers=3, attention_layers=(1,), max_context=23, init_scale=1.0),
        ModelConfig(251, 10, 10, n_layers=2, n_heads=5, attention_layers=(1, 0), max_context=7, init_scale=1.0),
        ModelConfig(256, 10, 20, n_layers=1, attention_layers=(0,), max_context=0, init_scale=1.0),
        ModelConfig(256, 10, 20, n_layers=2, attention_layers=(), init_scale=1.0),
    ],
    ids=["one head", "five heads twice", "no memory", "no head"],
)
def test_onnx_computes_what_pytorch_computes(config, text, tmp_path):
    """From the empty memory on, while it fills, and when it forgets; with every static vector away from its start."""
    model = SHARNN(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    read = text[:60].tolist()
    expected = read_by_torch(model, read)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(read_by_onnx(onnx_step(model), read, tmp_path / "m"), expected, atol=1e-4)
    assert not model.config.collapsed  # whose copy was


def test_the_trained_model_in_onnx_for_a_thousand_bytes(tmp_path):
    model, corpus = trained_model(), load_corpus("enwik6")
    model.max_context = 300  # so that it is full soon
    read = corpus.data[900_000:901_000].tolist()
    difference = np.abs(read_by_onnx(onnx_step(model), read, tmp_path / "m") - read_by_torch(model, read))
    assert difference.max() < 1e-4


def test_onnx_says_what_it_is(tmp_path):
    import onnx

    export_onnx(MODEL, tmp_path / "m.onnx")
    step = onnx.load(tmp_path / "m.onnx")
    facts = json.loads(step.metadata_props[0].value)
    assert facts["config"]["model"]["d_model"] == 256 and facts["step"] == 4800
    assert [x.name for x in step.graph.input] == ["byte", "h", "c", "memory_0"]
    assert [x.name for x in step.graph.output] == ["logits", "next_h", "next_c", "next_memory_0"]
    assert not any(initializer.dims == [512, 256] for initializer in step.graph.initializer)  # what trained the gate


def test_safetensors_are_read_like_a_run(tmp_path, capsys):
    file = str(tmp_path / "m.safetensors")
    assert main(["export", str(MODEL), file, "--format", "safetensors"]) == 0
    theirs = load_model(MODEL).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in load_model(file).state_dict().items())
    for command in (["generate", "--bytes", "9"], ["info"]):
        said = []
        for run in (file, str(MODEL)):
            capsys.readouterr()
            assert main([command[0], run, *command[1:]]) == 0
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
    (tmp_path / "own.txt").write_bytes(b"The town of shalab, its bytes and its readers. " * 60)
    begun = ["train", "--init-from", file, "--data", "own.txt", "--out", "mine"]
    assert main([*begun, "--steps", "1", "--dtype", "float32"]) == 0


def test_safetensors_without_shalab(tmp_path):
    from safetensors.torch import load_file

    export_safetensors(MODEL, tmp_path / "m.safetensors")
    weights = load_file(tmp_path / "m.safetensors")
    assert weights["embedding.weight"].shape == (256, 256) and "decoder.weight" not in weights


def test_damage_is_noticed(small, tmp_path):
    from shalab.checkpoint import save_checkpoint

    config = {"model": vars(small.config), "data": "/home/somebody/own.txt"}
    save_checkpoint(tmp_path / "c.pt", {"config": config, "step": 3, "best": small.state_dict()})
    file = tmp_path / "m.safetensors"
    export_safetensors(tmp_path / "c.pt", file)
    whole = file.read_bytes()
    assert b"somebody" not in whole and b"own.txt" in whole
    for place in [*range(0, len(whole), 97), len(whole) - 1]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InputError, match="damaged"):
            load_model(file)
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="damaged"):
        load_model(file)
    file.write_bytes(whole)
    load_model(file)


def test_mistakes_get_a_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "there").write_bytes(b"x")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    for kind in ("onnx", "safetensors"):
        assert main(["export", str(MODEL), str(tmp_path / "there"), "--format", kind]) == 2
        assert "is there already: name a new file" in capsys.readouterr().err
        assert main(["export", str(tmp_path), str(tmp_path / "new"), "--format", kind]) == 2
        assert "no checkpoint at" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "x.safetensors")]) == 2
    assert "not written by `shalab export`" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "none.safetensors")]) == 2
    assert "cannot read" in capsys.readouterr().err
    with pytest.raises(InputError, match="no model in ONNX"):
        OnnxReader(tmp_path / "there")
    for kind, package in (("onnx", "onnx"), ("safetensors", "safetensors.torch")):
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["export", str(MODEL), str(tmp_path / "new"), "--format", kind]) == 2
        said = capsys.readouterr().err
        assert re.fullmatch(f'shalab: this needs the package {kind}: pip install "shalab\\[portable\\]"\n', said)
    assert not (tmp_path / "new").exists()


def test_the_laboratorys_models_are_what_they_are_called(precision):
    model, data = trained_model().collapse(), load_corpus("enwik6").data
    where = data, 900_000, 900_400, precision

    def score(one):
        with laboratory.plain():
            return evaluate(one, *where, window=64, context=400)

    whole, int8, without = score(model), score(laboratory.in_int8(model)), score(laboratory.without_memory(model))
    assert 0 < abs(int8 - whole) < 0.02
    with torch.no_grad():
        model.blocks[0].attention.value_gate.vector.zero_()
    assert without == pytest.approx(score(model), abs=1e-5) and without > whole + 0.05


def test_what_is_stored_is_consistent():
    stored = stored_result("portable")
    rows = stored["rows"]
    assert all(difference < 1e-4 for difference in stored["largest_differences"].values())
    assert stored["compared_bytes"] >= 2000
    sizes = {name: row["file"] for name, row in rows.items() if "file" in row}
    assert 3 * sizes["ONNX, int8"] < sizes["ONNX, float32"] and 3 * sizes["PyTorch, int8"] < sizes["PyTorch, float32"]
    whole = rows["PyTorch, float32"]["beginnings"]
    assert rows["ONNX, float32"]["beginnings"] == pytest.approx(whole, abs=0.002)  # windows of 64, and of one byte
    for runtime in ("PyTorch", "ONNX"):
        assert rows[f"{runtime}, int8"]["beginnings"] == pytest.approx(whole, abs=0.05)
