"""The laboratory's compressor charges what `shalab compress` charges, on texts that are what they are called."""

import numpy as np
import pytest

from shalab import archive
from shalab.bundled import stored_result
from shalab.laboratory import compressor
from shalab.mixing import mixed_charges, network_predictions

TEXT = b"[[Austin]] is a town. [[Boston]] is a town. " * 3


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("mix", [False, True])
def test_windows_charge_what_the_compressor_charges(small, precision, learn, mix):
    pytest.importorskip("constriction")
    small.eval()
    _, bits = archive.compress(small, TEXT, precision, 1, mix, learn)
    data = np.frombuffer(archive.FIRST + TEXT, np.uint8)
    if learn:
        network = compressor.learning_predictions(small, data, precision)
    else:
        network = network_predictions(small, data, 1, len(data), precision, window=1, context=0)
    if mix:
        nats = sum(price for price, _ in mixed_charges(data, 1, len(data), network))
    else:
        nats = -sum(np.log(p[byte]) for p, byte in zip(network, data[1:], strict=True))
    # Learning windows see their own first bytes too, which a memory of 23 bytes makes a difference for.
    assert nats / np.log(2) == pytest.approx(bits, rel=0.005 if learn else 1e-5)


def test_a_small_local_text_is_packed_and_mixed(monkeypatch):
    monkeypatch.setattr(compressor, "ARCHIVERS", {"xz -9e": compressor.xz_size})
    monkeypatch.setattr(compressor, "N_PACKED", 300)
    monkeypatch.setattr(compressor, "N_CHARGED", 100)
    monkeypatch.setattr(compressor, "STEPS", 1)
    text = b"".join(b"%d bottles of beer on the wall.\n" % n for n in range(800, 0, -1))
    found = compressor.pack(text)
    assert found["bytes"] == 300 and found["packed"]["learning, mixed"] < found["packed"]["learning"]
    bpc = compressor.mix(text)["bpc"]
    assert bpc["mixture"] < bpc["network"] and bpc["mixture"] < bpc["counts"] < 2


def test_what_is_stored_is_in_the_order_that_is_claimed():
    stored = stored_result("compressor")
    for row in stored["packed"].values():
        packed = row["packed"]
        assert row["bytes"] == compressor.N_PACKED
        assert packed["fixed weights, mixed"] < packed["PPMd"] < packed["xz -9e"]
        assert packed["learning, mixed"] < packed["fixed weights, mixed"]
