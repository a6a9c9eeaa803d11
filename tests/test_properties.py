"""What holds whatever the sizes, the text and the settings. `make torture` tries 10,000 of each."""

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from shalab import SHARNN, InputError, Lamb, ModelConfig, import_original
from shalab.batches import Streams
from shalab.checkpoint import load_model, save_checkpoint
from shalab.dynamic import Dynamic
from shalab.fast.masks import Masks
from shalab.generate import generate, sample
from shalab.original import ORIGINAL_NAMES
from shalab.plan import Card
from shalab.presets import Budget
from shalab.train import TrainConfig

V = 31  # vocabulary


@st.composite
def models(draw, **fixed):
    """A model in float64 and evaluation mode, with weights that leave nothing near zero."""
    n_heads = draw(st.integers(1, 4))
    d_model = n_heads * draw(st.integers(1, 4))
    n_layers = draw(st.integers(1, 3))
    layers = draw(st.sets(st.integers(0, n_layers - 1)))
    config = {
        "vocab_size": V, "d_model": d_model, "d_boom": d_model * draw(st.integers(1, 3)), "n_layers": n_layers,
        "n_heads": n_heads, "attention_layers": sorted(layers), "max_context": draw(st.integers(0, 30)),
        "init_scale": draw(st.sampled_from([0.1, 1.0, 3.0])), **fixed,
    }  # fmt: skip
    torch.manual_seed(draw(st.integers(0, 2**32)))
    model = SHARNN(ModelConfig(**config)).double().eval()
    for block in model.blocks:
        if block.attention is not None:
            torch.nn.init.normal_(block.attention.value_gate.vector)
    return model


def texts(low=1, high=40, streams=1):
    """(T, B) ids"""
    return st.integers(low, high).flatmap(
        lambda n: st.lists(st.integers(0, V - 1), min_size=n * streams, max_size=n * streams).map(
            lambda ids: torch.tensor(ids).view(n, streams)
        )
    )


def read(model, x, cuts=(), state=None):
    """Logits and state after windows that end at the cuts."""
    logits, begin = [], 0
    with torch.no_grad():
        for end in [*sorted({cut for cut in cuts if 0 < cut < len(x)}), len(x)]:
            part, state = model(x[begin:end], state)
            logits.append(part)
            begin = end
    return torch.cat(logits), state


def alike(a, b, most=1e-9):
    assert a.shape == b.shape and (a - b).abs().max().nan_to_num(math.inf) < most


def alike_states(a, b):
    for (h, c), (h_other, c_other) in zip(a.hidden, b.hidden, strict=True):
        alike(h, h_other)
        alike(c, c_other)
    for rows, other in zip(a.memory, b.memory, strict=True):
        assert (rows is None) == (other is None)
        if rows is not None:
            assert rows.shape == other.shape and (not rows.numel() or (rows - other).abs().max() < 1e-9)


cuts = st.lists(st.integers(1, 39), max_size=6)


@given(models(), texts(2), cuts, st.data())
def test_no_logit_depends_on_a_later_byte(model, x, cuts, data):
    place = data.draw(st.integers(1, len(x) - 1))
    other = x.clone()
    other[place:] = torch.randint(V, (len(x) - place, 1))
    assert torch.equal(read(model, x, cuts)[0][:place], read(model, other, cuts)[0][:place])


@given(models(max_context=40), texts(), cuts, cuts)
def test_windows_do_not_matter_while_the_memory_has_room(model, x, cuts, others):
    (logits, state), (other_logits, other_state) = read(model, x, cuts), read(model, x, others)
    alike(logits, other_logits)
    alike_states(state, other_state)


@given(models(), texts(), cuts)
def test_memory_is_the_last_rows_of_an_unlimited_one(model, x, cuts):
    """In a first block, whose rows depend on no memory; and all blocks keep as many rows as they may."""
    _, state = read(model, x, cuts)
    limit, model.max_context = model.max_context, 10**6
    _, unlimited = read(model, x, cuts)
    attending = model.config.attention_layers
    for layer in attending:
        assert len(state.memory[layer]) == min(limit, len(x))
    if attending and (kept := len(state.memory[attending[0]])):
        alike(state.memory[attending[0]], unlimited.memory[attending[0]][-kept:])


@given(models(), texts(streams=3), cuts, st.integers(0, 2))
def test_a_stream_does_not_depend_on_those_beside_it(model, x, cuts, which):
    logits, state = read(model, x, cuts)
    own_logits, own = read(model, x[:, which : which + 1], cuts)
    alike(logits[:, which : which + 1], own_logits)
    picked = type(state)(
        tuple(tuple(part[:, which : which + 1] for part in pair) for pair in state.hidden),
        tuple(None if rows is None else rows[:, which : which + 1] for rows in state.memory),
    )
    alike_states(picked, own)


@given(models(), texts(), cuts)
def test_collapsing_keeps_the_outputs(model, x, cuts):
    before, _ = read(model, x, cuts)
    n_parameters, d_model = model.n_parameters, model.config.d_model
    alike(read(model.collapse(), x, cuts)[0], before)
    assert n_parameters - model.n_parameters == len(model.config.attention_layers) * (2 * d_model**2 + 2 * d_model)


@given(models(), texts(high=15, streams=2), cuts)
def test_outputs_with_and_without_weights_are_equal(model, x, cuts):
    state, begin = None, 0
    for end in [*sorted({cut for cut in cuts if cut < len(x)}), len(x)]:
        logits, after = model(x[begin:end], state)
        explicit, other, weights = model(x[begin:end], state, need_weights=True)
        alike(logits, explicit)
        assert set(weights) == set(model.config.attention_layers)
        for seen in weights.values():
            alike(seen.sum(-1), torch.ones_like(seen[..., 0]))
        state, begin = after, end


@given(models(), texts(high=12, streams=2), st.integers(0, 2**32), st.booleans())
def test_checkpointed_blocks_learn_the_same(model, x, seed, dropout):
    model.train(dropout)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shalab.fast.masks.POOL", 1 << 12)  # sooner drawn
        for model.checkpoint_blocks in (False, True):
            torch.manual_seed(seed)
            model.zero_grad()
            logits, state = model(x)
            logits, state = model(x, state)
            logits.square().sum().backward()
            found.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@given(models(), texts(high=10))
def test_weights_come_back_from_the_originals_names_and_from_a_file(tmp_path_factory, model, x):
    logits, _ = read(model, x)
    names = {ours: theirs for theirs, ours in ORIGINAL_NAMES.items()}
    theirs = {}
    for name, tensor in model.state_dict().items():
        _, _, part = name.partition("blocks.")
        block, _, part = part.partition(".")
        if not block:
            theirs[name.replace("embedding", "encoder")] = tensor
        elif part in names:
            theirs[f"blocks.{block}.{names[part]}"] = tensor.view(1, 1, -1)
        else:
            stem, _, leaf = part.rpartition(".")
            theirs[f"blocks.{block}.{names[stem]}.{leaf}"] = tensor
    other = SHARNN(model.config).double().eval()
    other.load_state_dict(import_original(theirs))
    assert torch.equal(read(other, x)[0], logits)
    path = tmp_path_factory.mktemp("weights") / "checkpoint.pt"
    save_checkpoint(path, {"config": {"model": dataclasses.asdict(model.config)}, "best": model.state_dict()})
    assert torch.equal(read(load_model(path).double(), x)[0], read(model.float().double(), x)[0])


@given(models(), st.data())
def test_generated_bytes_are_those_of_the_model_read_byte_by_byte(precision, model, data):
    model = model.float()
    prompt = bytes(data.draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=20)))
    found = list(generate(model, prompt, 9, precision, temperature=0))
    logits, state = read(model, torch.tensor(list(prompt)).unsqueeze(1))
    for byte in found:
        assert logits[-1, 0].max() - logits[-1, 0, byte] < 1e-4  # of two that are as likely, either
        logits, state = read(model, torch.tensor([[byte]]), state=state)


@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=9), st.floats(0.01, 100), st.integers(0, 9),
    st.floats(0.001, 1.0), st.integers(0, 2**32),
)  # fmt: skip
def test_a_draw_is_one_of_the_likeliest_that_reach_top_p(logits, temperature, top_k, top_p, seed):
    draws = sample(
        torch.tensor(logits).expand(50, -1), temperature, top_k, top_p, torch.Generator().manual_seed(seed)
    ).tolist()  # fmt: skip
    weights = [math.exp((x - max(logits)) / temperature) for x in torch.tensor(logits).tolist()]
    probabilities = [weight / sum(weights) for weight in weights]
    assert sum(probabilities) == pytest.approx(1)
    for draw in set(draws):
        likelier = [p for p in probabilities if p > probabilities[draw] * (1 + 1e-9)]
        assert sum(likelier) < top_p + 1e-9 and (not top_k or len(likelier) < top_k)
    assert sample(torch.tensor([logits]), 0, 0, 1.0, None).item() == logits.index(max(logits)) or len(
        set(torch.tensor(logits).tolist())
    ) < len(logits)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 40), st.sampled_from([8, 16, 64]), st.data())
def test_a_mask_covers_every_element_once(rows, streams, width, pool, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shalab.fast.masks.POOL", pool)
        torch.manual_seed(data.draw(st.integers(0, 2**32)))
        x = torch.randn(rows, streams, width, dtype=torch.double, requires_grad=True)
        y = Masks(True)(x, 0.5)
        y.sum().backward()
    assert set(x.grad.unique().tolist()) <= {0.0, 2.0} and torch.equal(y, x * x.grad)


# What somebody may hand over by mistake: of every type, and at every edge.
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just(10**400), st.just(-(10**400)),
    st.lists(st.integers(-2, 5), max_size=3), st.tuples(st.integers(-2, 5), st.floats()), st.integers(0, 4),
    st.floats(0, 1), st.sampled_from(["lamb", "adamw", "cosine", "linear"]), st.just({}), st.binary(max_size=2),
)  # fmt: skip


def taken(kind):
    """kind's field names -> odd values, for some of them"""
    names = [name for name in inspect.signature(kind).parameters if name != "params"]
    return st.dictionaries(st.sampled_from(names), ODD, max_size=4)


@pytest.mark.parametrize("kind", [ModelConfig, TrainConfig, Budget, Dynamic, Card, Lamb])
@given(data=st.data())
def test_a_configuration_is_valid_or_says_why_not(kind, data):
    """Never another exception; and what was taken has the type that its field has in a valid one."""
    changes = data.draw(taken(kind))
    arguments = {"memory_gb": 8, "tflops": 30, "gb_per_s": 272, **changes} if kind is Card else changes
    params = [[torch.nn.Parameter(torch.zeros(1))]] if kind is Lamb else []
    try:
        made = kind(*params, **arguments)
    except InputError as error:
        assert any(name in str(error) for name in changes) or kind is Budget
        assert str(error) and "\n" not in str(error)
        return
    for name, value in changes.items():
        if isinstance(value, float):
            assert math.isfinite(value), name
        if kind in (ModelConfig, TrainConfig):
            default = getattr(kind(), name)
            if isinstance(default, bool) or isinstance(value, bool):
                assert isinstance(default, bool) and isinstance(value, bool), name
            elif isinstance(default, int):
                assert isinstance(value, int), name
    if kind is ModelConfig:
        assert made.attention_layers == tuple(made.attention_layers) and made.d_model % made.n_heads == 0


@example(options={"temperature": 2**64})
@given(options=st.dictionaries(st.sampled_from(["temperature", "top_k", "top_p", "seed", "n_bytes"]), ODD, min_size=1))
def test_sampling_options_are_taken_or_refused(precision, options):
    torch.manual_seed(0)
    model = SHARNN(ModelConfig(V, 2, 2, 1, 1, (0,), 5))
    n_bytes = options.pop("n_bytes", 2)
    try:
        stream = generate(model, b"\0", n_bytes, precision, **options)
        found = [byte for byte, _ in zip(stream, range(2), strict=False)]
    except InputError:
        return
    assert len(found) == min(2, n_bytes) and all(0 <= byte < V for byte in found)


@given(st.integers(0, 60), ODD)
def test_streams_cover_what_they_can_or_say_why_not(n, batch_size):
    data = np.arange(n, dtype=np.uint8)
    try:
        streams = Streams(data, batch_size)
    except InputError:
        return
    x, y = streams.window(0, n)
    assert x.shape == y.shape == (streams.n_positions, batch_size) and (y - x == 1).all()
    assert x.T.flatten().tolist() == [i for i in range(batch_size * (n // batch_size)) if (i + 1) % (n // batch_size)]
