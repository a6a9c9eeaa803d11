"""The trained model outside of PyTorch's float32: what each form weighs, costs, and writes in a second.

    python -m shalab.laboratory.portable assets/results/portable.json

Bits are of enwik6's valid and test: by PyTorch of all, in 8 pieces side by side and windows of 64 bytes, so that every
byte sees at least 960 before it; by ONNX of their first 10,000 bytes, byte by byte, as it is used, and by PyTorch of
these too, for comparison. Speed is of one text, byte by byte, with a full memory, on one thread; the contestants take
turns. Needs `pip install "shalab[portable]"`, and takes some minutes.

int8 is dynamic quantisation by the runtimes' own tools: weights are rounded once, a layer's input for each call.
PyTorch's `torch.ao.quantization.quantize_dynamic` is deprecated in favour of the package torchao; PyTorch 2.13 has it.
"""

import argparse
import copy
import io
import platform
import statistics
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from shalab.bundled import assets_dir
from shalab.corpus import Corpus, load_corpus
from shalab.course import trained_model
from shalab.device import Precision
from shalab.door import plain
from shalab.errors import InputError
from shalab.evaluate import evaluate
from shalab.files import reading, write_json
from shalab.generate import Decoder, decoder
from shalab.laboratory.timing import processor, seconds_in_turns
from shalab.metrics import bits_per_byte
from shalab.model import SHARNN
from shalab.portable import export_onnx, export_safetensors

READING = {"window": 64, "context": 2048}
BEGINNING = 10_000  # bytes that ONNX is scored on
COMPARED = 1000  # bytes on which logits are compared, before the memory is full and after
TIMED, ROUNDS = 100, 7  # bytes per turn, and turns


class OnnxReader:
    """Reads a text byte by byte with onnxruntime, from its beginning, by a file of `export_onnx`.

    >>> reader = OnnxReader("model.onnx")  # doctest: +SKIP
    >>> logits = reader.step(ord("T"))  # of the next byte, (V,) float32  # doctest: +SKIP
    """

    def __init__(self, path: Path, threads: int = 1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        with reading(path):
            content = Path(path).read_bytes()
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            shapes = {x.name: [n if isinstance(n, int) else 0 for n in x.shape] for x in self._session.get_inputs()}
            self._state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name != "byte"}
        except Exception as error:  # onnxruntime's own kinds, one for each way in which a file can be wrong
            raise InputError(f"{path} is no model in ONNX that onnxruntime can read ({error})") from None

    def step(self, byte: int) -> np.ndarray:
        """The next byte of the text -> logits of the one after it, (V,)"""
        names = ["logits", *(f"next_{name}" for name in self._state)]
        logits, *state = self._session.run(names, {"byte": np.array([byte]), **self._state})
        self._state = dict(zip(self._state, state, strict=True))
        return logits


class Silent(nn.Module):
    """In a head's place: reads nothing, remembers nothing."""

    def forward(self, h, window, memory, max_context, drop, need_weights):
        return torch.zeros_like(h), None, None


def without_memory(model: SHARNN) -> SHARNN:
    """A copy that is LSTMs and Boom only."""
    model = copy.deepcopy(model)
    for block in model.blocks:
        if block.attention is not None:
            block.attention = Silent()
    return model


def in_int8(model: SHARNN) -> SHARNN:
    """A copy with the weights of LSTMs and matrices in int8, by PyTorch; for one thread of a CPU, with `plain()`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, see above
        from torch.ao.quantization import quantize_dynamic

        return quantize_dynamic(copy.deepcopy(model).collapse(), {nn.Linear, nn.LSTM}, dtype=torch.qint8)


def onnx_in_int8(path: Path, out: Path) -> None:
    """The same by onnxruntime, of a file in ONNX, each row of a matrix with a scale of its own."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, out, weight_type=QuantType.QInt8, per_channel=True)


def saved(model: SHARNN) -> int:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def score(model: SHARNN, corpus: Corpus, precision: Precision) -> dict[str, list[float]]:
    """Bits per byte of valid and test, and of their beginnings."""
    slices = corpus.bounds["valid"], corpus.bounds["test"]
    firsts = [(begin, begin + BEGINNING) for begin, _ in slices]
    return {
        "bpc": [round(evaluate(model, corpus.data, *both, precision, n_streams=8, **READING), 4) for both in slices],
        "beginnings": [round(evaluate(model, corpus.data, *both, precision, **READING), 4) for both in firsts],
    }


def score_onnx(path: Path, corpus: Corpus) -> dict[str, list[float]]:
    """The same of the beginnings alone, each after the bytes before it."""
    found, text = [], corpus.data.tolist()
    for begin, _ in (corpus.bounds["valid"], corpus.bounds["test"]):
        reader, nats = OnnxReader(path), 0.0
        for place in range(begin - READING["context"], begin + BEGINNING):
            logits = reader.step(text[place - 1]).astype(np.float64)
            if place >= begin:
                nats += np.logaddexp.reduce(logits) - logits[text[place]]
        found.append(round(bits_per_byte(float(nats), BEGINNING), 4))
    return {"beginnings": found}


@torch.no_grad()
def largest_differences(path: Path, model: SHARNN, text: bytes) -> list[float]:
    """Between logits of ONNX and of PyTorch: while the memory fills, and from there on."""
    reader, state, worst = OnnxReader(path), None, [0.0, 0.0]
    for place, byte in enumerate(text):
        logits, state = model(torch.tensor([[byte]]), state)
        full = place >= model.max_context
        worst[full] = max(worst[full], float(np.abs(reader.step(byte) - logits[0, 0].numpy()).max()))
    return worst


@torch.inference_mode()
def speeds(model: SHARNN, int8: SHARNN, files: dict[str, Path], text: bytes) -> dict[str, int]:
    """Bytes per second, the median of the turns."""
    float32 = Precision.pick("cpu", "float32")
    readers = {
        "PyTorch, float32": decoder(model, [text], float32),
        "PyTorch, the fastest format": decoder(model, [text], Precision.pick("cpu", "auto")),
        "PyTorch, without memory": decoder(without_memory(model), [text], float32),
        "PyTorch, int8": Decoder(int8, [text], float32),
    }

    def by_torch(reader: Decoder) -> Callable:
        return lambda: [reader.step(torch.tensor([byte])) for byte in text[:TIMED]]

    def by_onnx(reader: OnnxReader) -> Callable:
        for byte in text:
            reader.step(byte)
        return lambda: [reader.step(byte) for byte in text[:TIMED]]

    functions = {name: by_torch(reader) for name, reader in readers.items()}
    functions |= {name: by_onnx(OnnxReader(path)) for name, path in files.items()}
    taken = seconds_in_turns(functions, ROUNDS)
    return {name: round(TIMED / statistics.median(seconds)) for name, seconds in taken.items()}


def measure(folder: Path) -> dict:
    """Files are written into an empty folder."""
    model, corpus, precision = trained_model(), load_corpus("enwik6"), Precision.pick("cpu", "float32")
    files = {"ONNX, float32": folder / "m.onnx", "ONNX, int8": folder / "m8.onnx"}
    shared = folder / "m.safetensors"
    export_onnx(assets_dir() / "model", files["ONNX, float32"])
    export_safetensors(assets_dir() / "model", shared)
    onnx_in_int8(*files.values())
    begin = corpus.bounds["valid"][0]
    text = corpus.data[begin : begin + model.max_context + COMPARED].tobytes()
    differences = largest_differences(files["ONNX, float32"], model, text)
    print("largest differences of logits", differences, flush=True)
    int8 = in_int8(model)
    with plain():  # the tricks are for layers in floating point
        rows: dict[str, dict] = {
            "PyTorch, float32": {
                **score(model, corpus, precision),
                "file": saved(copy.deepcopy(model).collapse()),
            },
            "PyTorch, without memory": score(without_memory(model), corpus, precision),
            "PyTorch, int8": {**score(int8, corpus, precision), "file": saved(int8)},
        }
    rows["PyTorch, the fastest format"] = {}
    for name, path in files.items():
        rows[name] = {**score_onnx(path, corpus), "file": path.stat().st_size}
    for name, speed in speeds(model, int8, files, text).items():
        rows[name]["bytes_per_s"] = speed
    for name, row in rows.items():
        print(name, row, flush=True)
    packages = "torch", "onnx", "onnxruntime", "safetensors"
    return {
        "about": "bpc: bits per byte of enwik6's valid and test; beginnings: of their first 10,000; file: bytes",
        "command": "python -m shalab.laboratory.portable assets/results/portable.json",
        "rows": rows,
        "safetensors_float16_file": shared.stat().st_size,
        "compared_bytes": len(text),
        "largest_differences": {"while the memory fills": differences[0], "with a full memory": differences[1]},
        "threads": 1,
        "processor": processor(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_json(options.out, measure(Path(folder)))


if __name__ == "__main__":
    main()
