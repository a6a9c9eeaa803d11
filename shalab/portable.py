"""A trained model for other programs: ONNX, which many runtimes compute, and safetensors, which many libraries read.

ONNX holds one step of one text, as the model writes. Whoever runs it hands the outputs back as the next inputs, from
zeros and an empty memory on, as laboratory/portable.py does with onnxruntime. The graph is built node by node: the
equations of lstm.py, attention.py and boom.py for a window of one byte, with every static vector in place.

    byte        (1,) int64         logits            (V,)
    h, c        (L, D) each        next_h, next_c    (L, D) each
    memory_l    (M, D)             next_memory_l     (M + 1, D), at most max_context rows; for each block l with a head

Needs `pip install "shalab[portable]"`.
"""

import copy
import hashlib
import json
import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shalab.checkpoint import best_model, load_checkpoint, model_config
from shalab.errors import InputError
from shalab.files import reading, replacing
from shalab.model import SHARNN, Block

# L blocks, D width, M bytes in memory, N heads, V vocabulary

OPSET = 18  # ONNX's operators of 2022
IR = 8  # and its file format of the same time, so that older runtimes read it too
TIED = "decoder.weight"  # is the embedding's, which a file names once


def export_onnx(run: Path, out: Path) -> None:
    """Writes the best weights of a run, export or checkpoint as one step in ONNX, float32, for one text."""
    content = load_checkpoint(run)
    step = onnx_step(best_model(content, run))
    _package("onnx").helper.set_model_props(step, _facts(content))
    _write(out, step.SerializeToString())


def onnx_step(model: SHARNN):
    """The model's step as an `onnx.ModelProto`."""
    onnx = _package("onnx")
    model, graph = copy.deepcopy(model).eval().collapse(), _Graph(onnx)
    n_layers, d_model = model.config.n_layers, model.config.d_model

    def floats(name: str, *shape: int | str):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    inputs = [onnx.helper.make_tensor_value_info("byte", onnx.TensorProto.INT64, [1])]
    inputs += [floats(state, n_layers, d_model) for state in ("h", "c")]
    outputs = [floats("logits", model.config.vocab_size)]
    outputs += [floats(state, n_layers, d_model) for state in ("next_h", "next_c")]
    x = graph("Gather", graph.constant(model.embedding.weight), "byte")  # (1, D)
    before = [_split(graph, state, n_layers, axis=0) for state in ("h", "c")]
    after = []
    for layer, (block, h, c) in enumerate(zip(model.blocks, *before, strict=True)):
        memory = f"memory_{layer}" if block.attention is not None else None
        x, h, c = _block(graph, block, x, h, c, memory, model.max_context)
        after.append((h, c))
        if memory:
            inputs.append(floats(memory, "bytes", d_model))
            outputs.append(floats(f"next_{memory}", "bytes after", d_model))
    for state, parts in zip(("next_h", "next_c"), zip(*after, strict=True), strict=True):
        graph("Concat", *parts, axis=0, out=state)
    logits = _linear(graph, model.decoder, x)
    graph("Squeeze", logits, graph.constant([0]), out="logits")
    step = onnx.helper.make_graph(graph.nodes, "one byte of a SHA-RNN", inputs, outputs, graph.initializers)
    opset = onnx.helper.make_opsetid("", OPSET)
    made = onnx.helper.make_model(step, opset_imports=[opset], ir_version=IR, producer_name="shalab")
    onnx.checker.check_model(made)
    return made


class _Graph:
    """A list of nodes under construction: calling it appends one, and returns the name of its output."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.initializers = onnx, [], []

    def __call__(self, operator: str, *inputs: str, out: str | list[str] = "", **attributes: Any) -> str:
        names = out if isinstance(out, list) else [out or f"{operator}_{len(self.nodes)}"]
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), names, **attributes))
        return names[0]

    def constant(self, value: Tensor | list[int]) -> str:
        name = f"constant_{len(self.initializers)}"
        content = np.array(value, np.int64) if isinstance(value, list) else value.detach().float().numpy()
        self.initializers.append(self.onnx.numpy_helper.from_array(content, name))
        return name


def _split(graph: _Graph, x: str, n: int, axis: int) -> list[str]:
    names = [f"Split_{len(graph.nodes)}_{i}" for i in range(n)]
    graph("Split", x, out=names, axis=axis, num_outputs=n)
    return names


def _linear(graph: _Graph, linear: nn.Linear, x: str) -> str:
    return graph("Gemm", x, graph.constant(linear.weight), graph.constant(linear.bias), transB=1)


def _norm(graph: _Graph, norm: nn.LayerNorm, x: str, times: Tensor | float = 1.0) -> str:
    """times: of a gate that follows it, (D,)"""
    weight, bias = graph.constant(norm.weight * times), graph.constant(norm.bias * times)
    return graph("LayerNormalization", x, weight, bias, epsilon=norm.eps)


def _block(
    graph: _Graph, block: Block, x: str, h: str, c: str, memory: str | None, max_context: int
) -> tuple[str, str, str]:
    """x, h, c (1, D) -> the block's output, h, c (1, D)"""
    h, c = _lstm(graph, block.lstm, _norm(graph, block.norm_start, x), h, c)
    x = h
    if memory:
        row, x = _norm(graph, block.norm_memory, h), _norm(graph, block.norm_mid, h)
        x = graph("Add", x, _read(graph, block.attention, x, row, memory, max_context))
    base, x = _norm(graph, block.norm_ff, x), _norm(graph, block.norm_boom, x)
    wide = _linear(graph, block.boom.widen, x)  # (1, H)
    wide = graph("Mul", wide, graph("Sigmoid", graph("Mul", wide, graph.constant(torch.tensor(1.702)))))
    chunks = graph("Reshape", wide, graph.constant([-1, block.lstm.hidden_size]))  # (H / D, D)
    return graph("Add", base, graph("ReduceSum", chunks, graph.constant([0]), keepdims=1)), h, c


def _lstm(graph: _Graph, lstm: nn.LSTM, x: str, h: str, c: str) -> tuple[str, str]:
    of_x, of_h, bias_x, bias_h = (parameter.detach() for parameter in lstm.parameters())
    weight, bias = graph.constant(torch.cat([of_x, of_h], 1)), graph.constant(bias_x + bias_h)  # (4D, 2D), (4D,)
    gates = _split(graph, graph("Gemm", graph("Concat", x, h, axis=1), weight, bias, transB=1), 4, axis=1)
    i, f, g, o = (
        graph(kind, gate) for kind, gate in zip(("Sigmoid", "Sigmoid", "Tanh", "Sigmoid"), gates, strict=True)
    )
    c = graph("Add", graph("Mul", f, c), graph("Mul", i, g))
    return graph("Mul", o, graph("Tanh", c)), c


def _read(graph: _Graph, head, x: str, row: str, memory: str, max_context: int) -> str:
    """x, row (1, D) -> what the head reads (1, D)"""
    gates = torch.sigmoid(head.query_gate) * torch.sigmoid(head.key_gate)  # the key's gate can as well sit on the query
    scale = math.sqrt(len(gates) / head.n_heads)
    query = _norm(graph, head.norm_query, _linear(graph, head.query, x), gates / scale)
    rows = graph("Concat", memory, row, axis=0)
    first, last = graph.constant([-max(1, max_context)]), graph.constant([2**62])
    rows = graph("Slice", rows, first, last, graph.constant([0]), out=f"next_{memory}")  # (M + 1, D)
    reads = []
    for q, context in zip(*(_split(graph, y, head.n_heads, axis=1) for y in (query, rows)), strict=True):
        weights = graph("Softmax", graph("Gemm", q, context, transB=1), axis=-1)  # (1, M + 1)
        reads.append(graph("MatMul", weights, context))  # (1, D / N)
    return graph("Mul", graph("Concat", *reads, axis=1), graph.constant(head.value_gate()))


def export_safetensors(run: Path, out: Path) -> None:
    """Writes the best weights of a run, export or checkpoint in the format they have, with what `load_model` needs."""
    save = _package("safetensors.torch").save
    content = load_checkpoint(run)
    model_config(content, run)  # refuses weights that are none
    weights = {name: tensor.contiguous() for name, tensor in content["best"].items() if name != TIED}
    facts = _facts(content)
    _write(out, save(weights, {**facts, "sha256": _digest(facts["shalab"], weights)}))


def read_safetensors(path: Path) -> dict:
    """The content of a checkpoint, as far as `export_safetensors` keeps it."""
    package = _package("safetensors")
    with reading(path):
        Path(path).open("rb").close()
    try:
        with package.safe_open(path, "pt") as file:
            facts = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        content, whole = json.loads(facts["shalab"]), facts["sha256"] == _digest(facts["shalab"], weights)
        best = {**weights, TIED: weights["embedding.weight"]}
    except (package.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged, or not written by `shalab export` ({error})") from None
    if not whole:
        raise InputError(f"{path} is damaged: its content does not match its checksum")
    return {**content, "best": best}


def _digest(facts: str, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _facts(content: dict) -> dict[str, str]:
    """What belongs to the weights: their configuration, without the path of a data file, and their score."""
    config = {**content["config"], "data": Path(content["config"]["data"]).name}
    return {"shalab": json.dumps({"config": config, "step": content.get("step"), "best_bpc": content.get("best_bpc")})}


def _write(out: Path, content: bytes) -> None:
    if os.path.lexists(out):
        raise InputError(f"{out} is there already: name a new file")
    with replacing(Path(out)) as file:
        file.write(content)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f'this needs the package {name.split(".")[0]}: pip install "shalab[portable]"') from None
