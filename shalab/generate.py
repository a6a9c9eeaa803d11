"""Text from a model, byte by byte, with the state carried along."""

import codecs
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from shalab.device import Precision, to_host
from shalab.errors import InputError
from shalab.model import SHARNN

# V vocabulary


def sample(logits: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator) -> int:
    """Draws one id from logits (V,).

    temperature  divides the logits; 0 takes the likeliest byte
    top_k        only the k likeliest bytes; 0 for all
    top_p        only the likeliest bytes that together reach probability p (Holtzman et al. 2019); 1 for all
    """
    logits = to_host(logits).double()
    if temperature == 0:
        return int(logits.argmax())
    logits, ids = (logits / temperature).sort(descending=True)
    probabilities = logits.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= top_p] = 0
    if top_k:
        probabilities[top_k:] = 0
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])


def generate(
    model: SHARNN,
    prompt: bytes,
    n_bytes: int,
    precision: Precision,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """Yields `n_bytes` bytes that continue `prompt`, as integers. Arguments as of `sample`.

    Draws from a generator of its own, so that a running training is not disturbed.
    """
    faults = []
    if not prompt:
        faults.append("prompt must have at least one byte")
    if n_bytes < 0 or top_k < 0:
        faults.append(f"n_bytes and top_k must be at least 0, got {n_bytes} and {top_k}")
    if not temperature >= 0:
        faults.append(f"temperature must be at least 0, got {temperature}")
    if not 0 < top_p <= 1:
        faults.append(f"top_p must be above 0 and at most 1, got {top_p}")
    if faults:
        raise InputError("; ".join(faults))
    return _continue(model, prompt, n_bytes, precision, temperature, top_k, top_p, seed)


@torch.no_grad()
def _continue(model, prompt, n_bytes, precision, temperature, top_k, top_p, seed):
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    try:
        state, x = None, precision.place(torch.tensor(list(prompt)).unsqueeze(1))  # (T, 1)
        for window in x.split(1024):
            with precision.autocast():
                logits, state = model(window, state)
        for _ in range(n_bytes):
            byte = sample(logits[-1, 0], temperature, top_k, top_p, generator)
            yield byte
            with precision.autocast():
                logits, state = model(x.new_tensor([[byte]]), state)
    finally:
        model.train(was_training)


def as_text(stream: Iterable[int]) -> Iterator[str]:
    """Bytes -> pieces of valid text as they complete; broken UTF-8 becomes the replacement character."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for byte in stream:
        if piece := decoder.decode(bytes([byte])):
            yield piece
    if piece := decoder.decode(b"", final=True):
        yield piece
