"""Packing and unpacking: nothing lost, nothing wasted, nothing damaged goes unnoticed."""

import copy
import math
import re
import struct
import zlib

import numpy as np
import pytest
import torch

from shalab import archive as module
from shalab.archive import HEADER, compress, decompress, default_streams
from shalab.bundled import assets_dir
from shalab.cli import main
from shalab.device import Precision
from shalab.dynamic import Dynamic, dynamic_charges
from shalab.errors import InputError
from shalab.evaluate import evaluate
from shalab.model import SHARNN, ModelConfig

pytest.importorskip("constriction")
START = HEADER.size + 4
TEXT = b"[[Austin]] is a town. [[Boston]] is a town. " * 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SHARNN(ModelConfig(d_model=12, d_boom=24, n_layers=2, attention_layers=(1,), max_context=17)).eval()


@pytest.fixture(scope="module")
def precision():
    return Precision.pick("cpu", "float32")


@pytest.mark.parametrize("mix, learn", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\xff", TEXT, bytes(range(256)), b"a" * 97, np.random.default_rng(0).bytes(131)],
    ids=["empty", "a zero", "one byte", "text", "all bytes", "one byte repeated", "noise"],
)
def test_comes_back_as_it_was(model, precision, data, mix, learn):
    packed, bits = compress(model, data, precision, mix=mix, learn=learn)
    assert decompress(model, packed, precision) == data
    assert 8 * (len(packed) - START) <= 1.001 * bits + 64  # the coder works in words of 32 bits


@pytest.mark.parametrize("n_streams", [2, 3, 7, 131])
@pytest.mark.parametrize("mix, learn", [(True, False), (False, True)])
def test_several_streams(model, precision, n_streams, mix, learn):
    packed, _ = compress(model, TEXT[:131], precision, n_streams, mix, learn)
    assert decompress(model, packed, precision) == TEXT[:131]


def test_charges_what_evaluation_charges(model, precision):
    """The same bits as reading the text in one window after the line's end with which every stream begins."""
    _, bits = compress(model, TEXT, precision, mix=False)
    data = np.frombuffer(module.FIRST + TEXT, np.uint8)
    bpc = evaluate(model, data, 1, len(data), precision, window=1)
    assert abs(bits / len(TEXT) - bpc) < 1e-5


def test_learning_is_dynamic_evaluation(model, precision):
    """By what is charged after the first windows, which there begin with what the context has shown."""
    _, still = compress(model, TEXT, precision, mix=False)
    _, bits = compress(model, TEXT, precision, mix=False, learn=True)
    data = np.frombuffer(module.FIRST + TEXT, np.uint8)
    nats = torch.cat(list(dynamic_charges(model, data, 1, len(data), precision, Dynamic(), context=0)))
    assert bits < still
    assert abs(bits - nats.sum().item() / math.log(2)) < 0.05


def test_mixing_pays_on_a_text_that_repeats_itself(model, precision):
    _, alone = compress(model, TEXT, precision, mix=False)
    _, mixed = compress(model, TEXT, precision, mix=True)
    assert mixed < 0.7 * alone


def test_damage_is_noticed_wherever_it_is(model, precision):
    packed, _ = compress(model, TEXT[:60], precision)
    for place in range(len(packed)):
        damaged = packed[:place] + bytes([packed[place] ^ 4]) + packed[place + 1 :]
        with pytest.raises(InputError, match="damaged|not an archive"):
            decompress(model, damaged, precision)
    for length in (0, 3, 4, START - 1, START, len(packed) - 4, len(packed) - 1):
        with pytest.raises(InputError, match="damaged|not an archive"):
            decompress(model, packed[:length], precision)


def with_header(packed: bytes, **changes: bytes | int) -> bytes:
    names = "magic flags n_streams n_bytes checksum of_model of_machine".split()
    fields = dict(zip(names, HEADER.unpack(packed[: HEADER.size]), strict=True)) | changes
    head, payload = HEADER.pack(*fields.values()), packed[START:]
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload


def test_another_model_and_another_machine_are_refused(model, precision, monkeypatch):
    packed, _ = compress(model, TEXT, precision)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.decoder.bias[7] += 1e-6
    with pytest.raises(InputError, match="another model"):
        decompress(other, packed, precision)
    with pytest.raises(InputError, match="packed elsewhere.*threads"):
        decompress(model, with_header(packed, of_machine=b"none"), precision)
    with pytest.raises(InputError, match="not what was packed"):
        decompress(model, with_header(packed, checksum=b"whatever"), precision)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.raises(InputError, match="packed elsewhere"):
        decompress(model, packed, precision)


def test_hostile_headers_end_in_a_sentence(model, precision):
    packed, _ = compress(model, TEXT[:20], precision)
    for changes in ({"n_streams": 0}, {"flags": 8}):
        with pytest.raises(InputError, match="another version of shalab"):
            decompress(model, with_header(packed, **changes), precision)
    with pytest.raises(InputError, match="more than there is memory for"):
        decompress(model, with_header(packed, n_bytes=2**63), precision)


def test_a_byte_that_the_model_does_not_know_is_named(precision):
    few = SHARNN(ModelConfig(vocab_size=100, d_model=12, d_boom=24, n_layers=1, attention_layers=())).eval()
    with pytest.raises(InputError, match="knows bytes below 100, the data has 200"):
        compress(few, bytes([5, 200]), precision)
    packed, _ = compress(few, b"\5\6\5\6\5", precision)
    assert decompress(few, packed, precision) == b"\5\6\5\6\5"


def test_streams_by_size_and_wrong_streams():
    assert [default_streams(n) for n in (0, 99_999, 200_000, 10**7)] == [1, 1, 2, 64]


def test_wrong_streams_are_named(model, precision):
    with pytest.raises(InputError, match="streams must be between 1 and 255, got 256"):
        compress(model, b"abc", precision, n_streams=256)


def test_without_the_coder_a_sentence(model, precision, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    with pytest.raises(InputError, match="pip install constriction"):
        compress(model, b"abc", precision)


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    text, packed, back = (str(tmp_path / name) for name in ("text", "packed", "back"))
    (tmp_path / "text").write_bytes(TEXT[:44])
    assert main(["compress", text, packed, "--dtype", "float32"]) == 0
    assert main(["decompress", packed, back, "--dtype", "float32"]) == 0
    assert (tmp_path / "back").read_bytes() == TEXT[:44]
    assert re.search(r"text: 44 bytes; .*packed: \d+, \d+\.\d{3} bits per byte", capsys.readouterr().out)
    for asked in (["compress", text, packed], ["decompress", packed, back], ["decompress", packed, text]):
        assert main(asked) == 2
        assert "exists already: name a new file" in capsys.readouterr().err
    (tmp_path / "packed").write_bytes((tmp_path / "packed").read_bytes()[:-1])
    assert main(["decompress", packed, str(tmp_path / "new")]) == 2
    assert "damaged or not complete" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "packed", "text"]
    assert main(["compress", str(tmp_path / "none"), str(tmp_path / "new")]) == 2
    monkeypatch.setattr(module, "compress", None)  # a folder that is not there is named before the work
    assert main(["compress", text, str(tmp_path / "none" / "new")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_scoring_with_counts_from_the_command_line(tmp_path, capsys):
    (tmp_path / "text").write_bytes(TEXT * 2)
    asked = ["eval", str(assets_dir() / "model"), "--data", str(tmp_path / "text"), "--split", "test", "--mix"]
    assert main([*asked, "--dtype", "float32"]) == 0
    mixed, network = re.search(r"test: ([\d.]+) bits.* network alone ([\d.]+),", capsys.readouterr().out).groups()
    assert float(mixed) < float(network)
    assert main([*asked, "--streams", "2"]) == 2
    assert "leave out --streams" in capsys.readouterr().err
    assert main([*asked, "--window", "0"]) == 2
    assert "window must be" in capsys.readouterr().err
