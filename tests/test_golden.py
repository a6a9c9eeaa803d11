"""The library against numbers computed by the paper's original code in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from shalab import SHARNN, Lamb, ModelConfig, import_original

pytestmark = pytest.mark.usefixtures("both_ways")
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def reference():
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / "sharnn_reference.npz").items()}


@pytest.fixture
def model(reference):
    config = ModelConfig(29, 12, 48, n_layers=4, attention_layers=(2,), max_context=17)
    model = SHARNN(config).double().eval()
    params = {name.removeprefix("param/"): t for name, t in reference.items() if name.startswith("param/")}
    model.load_state_dict(import_original(params))  # strict: nothing is missing, nothing left over
    return model


def close(actual, expected, tolerance=1e-9):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < tolerance


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("collapsed", [False, True])
def test_four_windows(model, reference, need_weights, collapsed):
    if collapsed:
        model.collapse()
    state = None
    for window in range(4):
        expected = {
            name.removeprefix(f"window{window}/"): t
            for name, t in reference.items()
            if name.startswith(f"window{window}/")
        }
        logits, state = model(expected["x"], state, need_weights)[:2]
        close(logits, expected["logits"])
        close(F.cross_entropy(logits.flatten(0, 1), expected["y"].flatten()), expected["loss"])
        close(state.memory[2], expected["memory_block2"])
        for layer in range(4):
            close(state.hidden[layer][0], expected[f"h{layer}"])
            close(state.hidden[layer][1], expected[f"c{layer}"])


@pytest.mark.parametrize("training", [False, True])  # with every dropout at 0, training computes the same
def test_gradients(model, reference, training):
    model.train(training)
    if training:
        for module in model.modules():
            module.dropout = 0.0
        object.__setattr__(model, "config", ModelConfig(29, 12, 48, dropout=0.0, dropout_input=0.0))
    logits, _ = model(reference["window0/x"])
    F.cross_entropy(logits.flatten(0, 1), reference["window0/y"].flatten()).backward()
    prefix = "grad_of_window0_loss/"
    expected = {name.removeprefix(prefix): t for name, t in reference.items() if name.startswith(prefix)}
    compared = 0
    parameters = dict(model.named_parameters())
    for name, tensor in import_original(expected).items():
        if name == "decoder.weight":
            continue
        close(parameters[name].grad, tensor)
        compared += 1
    assert compared == len(parameters)


def test_lamb():
    reference = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / "lamb_reference.npz").items()}
    params = [torch.nn.Parameter(reference[f"start/{i}"].clone()) for i in range(4)]
    optimizer = Lamb(params, lr=2e-3, weight_decay=1e-2, min_trust=0.25)
    for step in range(6):
        for i, p in enumerate(params):
            p.grad = reference[f"step{step}/grad/{i}"].clone()
        optimizer.step()
        for i, p in enumerate(params):
            close(p.detach(), reference[f"step{step}/param/{i}"], 1e-12)
            close(optimizer.state[p]["trust_ratio"], reference[f"step{step}/trust_ratio/{i}"], 1e-12)
