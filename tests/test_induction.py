"""Heads that copy before they have learned anything."""

import torch

from shalab.model import SHARNN, ModelConfig

D, K = 251, 62


def model(induction, **changes):
    torch.manual_seed(0)
    config = {"d_model": D, "d_boom": 2 * D, "n_layers": 2, "attention_layers": (0,), "max_context": 1000} | changes
    return SHARNN(ModelConfig(init_scale=1.0, induction=induction, **config)).eval()


def hits(model, period=97):
    """How often the largest weight lies on the byte that came next when the same text was read before."""
    torch.manual_seed(1)
    text = torch.randint(256, (period, 1)).repeat(3, 1)
    with torch.no_grad():
        *_, weights = model(text, need_weights=True)
    (heads,) = weights[0]  # (N, T, K)
    found = heads.sum(0).argmax(-1)  # (T,)
    here = torch.arange(2 * period, 3 * period - 1)
    return ((found[here] + period * 2 - here - 1) % period == 0).float().mean().item()


def test_an_untrained_head_finds_what_came_next():
    assert hits(model(True)) > 0.95
    assert hits(model(False)) < 0.1
    assert hits(model(True, d_model=256, d_boom=256, n_heads=2)) > 0.95


def test_the_three_groups_follow_their_recurrences():
    lstm = model(True).double().blocks[0].lstm
    x = torch.randn(13, 3, D, dtype=torch.double)
    with torch.no_grad():
        h, _ = lstm(x)
    w = lstm.weight_ih_l0[2 * D :]  # of the candidate
    opened, kept = torch.sigmoid(torch.tensor([2.0, -3.0], dtype=torch.double))
    cell = torch.zeros(3, 2 * K, dtype=torch.double)
    for t in range(13):
        earlier = h[t - 1, :, :K] if t else torch.zeros(3, K, dtype=torch.double)
        candidate = torch.cat([x[t] @ w[D - 2 * K : D - K].T, 3 * earlier], 1)
        cell = kept * cell + opened * candidate.tanh()
        assert torch.allclose(h[t, :, D - 2 * K :], opened * cell.tanh(), rtol=0, atol=1e-12)


def test_byte_units_carry_only_what_the_head_has_read():
    block = model(True).blocks[0]
    norm = block.norm_mid(torch.randn(5, D))
    assert (norm[:, D - 2 * K :] == 0).all() and (norm[:, : D - 2 * K] != 0).all()


def test_only_heads_and_the_lstm_before_them_are_set():
    plain, copying = model(False).state_dict(), model(True).state_dict()
    changed = {name for name in plain if not torch.equal(plain[name], copying[name])}
    lstm = {f"lstm.{part}_{way}_l0" for part in ("weight", "bias") for way in ("ih", "hh")}
    head = {"norm_mid.weight", "attention.query.weight", "attention.norm_query.weight"}
    assert changed == {f"blocks.0.{name}" for name in lstm | head | {"attention.query_gate", "attention.key_gate"}}
    rows = torch.cat([torch.arange(K) + gate * D for gate in range(4)])
    for name in lstm:  # the context group stays as it was drawn
        assert torch.equal(plain[f"blocks.0.{name}"][rows], copying[f"blocks.0.{name}"][rows])
