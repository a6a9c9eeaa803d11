"""A head that copies before it has learned anything."""

import pytest
import torch

from shalab.model import SHARNN, ModelConfig

D, K = 251, 62


def model(induction, **changes):
    torch.manual_seed(0)
    config = {"d_model": D, "d_boom": 2 * D, "n_layers": 2, "attention_layers": (0,), "max_context": 1000} | changes
    return SHARNN(ModelConfig(init_scale=1.0, induction=induction, **config)).eval()


def hits(model, period=97):
    """Of a text that is read again: how often the largest weight lies on the byte that came next the first time, and
    how often that byte is the likeliest."""
    torch.manual_seed(1)
    text = torch.randint(256, (period, 1)).repeat(3, 1)
    with torch.no_grad():
        logits, _, weights = model(text, need_weights=True)
    (heads,) = weights[model.config.attention_layers[0]]  # (N, T, K)
    here = torch.arange(2 * period, 3 * period - 1)
    place = heads.sum(0).argmax(-1)[here]
    byte = logits[:, 0].argmax(-1)[here]
    return [x.float().mean().item() for x in ((place - here - 1) % period == 0, byte == text[here + 1, 0])]


@pytest.mark.parametrize(
    "changes", [{}, {"d_model": 256, "d_boom": 256, "n_heads": 2}, {"n_layers": 4, "attention_layers": (2,)}]
)
def test_an_untrained_model_finds_what_came_next(changes):
    place, byte = hits(model(True, **changes))
    assert place > 0.9 and byte > 0.3
    assert max(hits(model(False, **changes))) < 0.1


def test_copies_follow_their_recurrence():
    lstm = model(True).double().blocks[0].lstm
    x = torch.randn(13, 3, D, dtype=torch.double)
    with torch.no_grad():
        h, _ = lstm(x)
    opened, kept = torch.sigmoid(torch.tensor([2.0, -3.0], dtype=torch.double))
    cell = torch.zeros(3, 2 * K, dtype=torch.double)
    for t in range(13):
        earlier = h[t - 1, :, :K] if t else torch.zeros(3, K, dtype=torch.double)
        cell = kept * cell + opened * (3 * torch.cat([x[t, :, D - 2 * K : D - K], earlier], 1)).tanh()
        assert torch.allclose(h[t, :, D - 2 * K :], opened * cell.tanh(), rtol=0, atol=1e-12)


def test_behind_the_head_byte_units_hold_only_what_it_has_read():
    norm = model(True).blocks[0].norm_mid(torch.randn(5, D))
    assert (norm[:, D - 2 * K :] == 0).all() and (norm[:, : D - 2 * K] != 0).all()


def test_context_units_stay_as_they_were_drawn():
    plain, copying = model(False).state_dict(), model(True).state_dict()
    rows = torch.cat([torch.arange(D - 2 * K) + gate * D for gate in range(4)])
    lstm = {f"blocks.{n}.lstm.{part}_{way}_l0" for n in (0, 1) for part in ("weight", "bias") for way in ("ih", "hh")}
    assert all(torch.equal(plain[name][rows], copying[name][rows]) for name in lstm)
    head = {"query.weight", "norm_query.weight", "query_gate", "key_gate", "value_gate.linear.bias"}
    changed = {name for name in plain if not torch.equal(plain[name], copying[name])}
    assert changed == lstm | {"blocks.0.norm_mid.weight"} | {f"blocks.0.attention.{name}" for name in head}


def test_a_collapsed_copier_can_be_loaded():
    collapsed = model(True).collapse()
    loaded = SHARNN(collapsed.config).eval()
    loaded.load_state_dict(collapsed.state_dict())
    assert hits(loaded) == hits(model(True))
