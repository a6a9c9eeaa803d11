"""Text from a model, byte by byte, with the state carried along."""

import codecs
import copy
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from shalab.device import Precision, to_host
from shalab.door import door
from shalab.errors import AT_LEAST_0, NATURAL, real, refuse, whole, wrong
from shalab.model import SHARNN, State

# B prompts, V vocabulary


def sample(logits: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator) -> Tensor:
    """Draws one id per row of logits (B, V): int64 (B,). The options are checked by `generate_batch`.

    temperature  divides the logits; 0 takes the likeliest byte
    top_k        only the k likeliest bytes; 0 for all
    top_p        only the likeliest bytes that together reach probability p (Holtzman et al. 2019); 1 for all
    """
    logits = to_host(logits).double()
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits - logits.amax(-1, keepdim=True)  # a tiny temperature must not make two of them infinite
    probabilities = (logits / float(temperature)).softmax(-1)
    if not top_k and top_p == 1:
        return _draw(probabilities, generator)
    probabilities, ids = probabilities.sort(descending=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= top_p] = 0
    if top_k:
        probabilities[:, top_k:] = 0
    return ids.gather(-1, _draw(probabilities, generator).unsqueeze(-1)).squeeze(-1)


def _draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """(B, V) -> (B,), in proportion to the rows, which need not sum to 1, by an exponential race.

    Clock i rings at the time E / p_i, E exponential, and is the first one with probability p_i. The first to ring has
    the largest p_i / E.
    """
    return (probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax(-1)


def generate(model: SHARNN, prompt: bytes, n_bytes: int, precision: Precision, **sampling) -> Iterator[int]:
    """Yields `n_bytes` bytes that continue `prompt`, as integers; sampling: temperature, top_k, top_p and seed."""
    return (row[0] for row in generate_batch(model, [prompt], n_bytes, precision, **sampling))


def generate_batch(
    model: SHARNN,
    prompts: Sequence[bytes],
    n_bytes: int,
    precision: Precision,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[list[int]]:
    """Continues prompts of any lengths side by side: yields one byte for each of them, `n_bytes` times.

    temperature, top_k and top_p are those of `sample`. The draws come from a generator of their own, so that a
    running training is not disturbed. The state is carried along: once the memory holds `model.max_context` bytes,
    every further byte takes the same time.
    """
    faults = wrong(AT_LEAST_0, temperature=temperature) + wrong(NATURAL, top_k=top_k)
    faults += wrong(("above 0 and at most 1", lambda x: real(x) and 0 < x <= 1), top_p=top_p)
    faults += wrong(NATURAL, n_bytes=n_bytes)
    faults += wrong(("an integer of at most 64 bits", lambda x: whole(x) and -(2**63) <= x < 2**64), seed=seed)
    if not all(isinstance(prompt, bytes | bytearray) for prompt in prompts):
        faults.append(f"prompt must be bytes, got {next(x for x in prompts if not isinstance(x, bytes | bytearray))!r}")
    elif not prompts or not all(prompts):
        faults.append("prompt must have at least one byte")
    elif (largest := max(map(max, prompts))) >= model.config.vocab_size:
        faults.append(f"prompt must have bytes below the model's vocab_size {model.config.vocab_size}, got {largest}")
    refuse(faults)

    @torch.inference_mode()
    def rows() -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        reader = decoder(model, prompts, precision)
        logits = reader.logits
        for _ in range(n_bytes):
            ids = sample(logits, temperature, top_k, top_p, generator)  # (B,)
            yield ids.tolist()
            logits = reader.step(ids)

    return rows()


def read_prompt(model: SHARNN, prompt: bytes, precision: Precision) -> tuple[Tensor, State]:
    """-> logits of the next byte (V,), and the state after the prompt"""
    first, *windows = precision.place(torch.tensor(list(prompt))).unsqueeze(1).split(1024)
    with precision.autocast():
        logits, state = model(first)
        for window in windows:
            logits, state = model(window, state)
    return logits[-1, 0], state


class Decoder:
    """Continues texts byte by byte: one state per text, since they differ in length.

    logits: of the bytes after the prompts, (B, V)
    """

    def __init__(self, model: SHARNN, prompts: Sequence[bytes], precision: Precision):
        self.model, self.precision = precision.place(copy.deepcopy(model).eval()), precision
        after = [read_prompt(self.model, prompt, precision) for prompt in prompts]
        self.logits, self.states = torch.stack([logits for logits, _ in after]), [state for _, state in after]

    def step(self, ids: Tensor) -> Tensor:
        """The texts' next bytes (B,) -> logits of those after them (B, V)"""
        ids = self.precision.place(ids)
        with self.precision.autocast():
            results = [self.model(byte.view(1, 1), state) for byte, state in zip(ids, self.states, strict=True)]
        self.states = [state for _, state in results]
        return torch.stack([logits[0, 0] for logits, _ in results])


decoder = door(Decoder)


def as_text(stream: Iterable[int]) -> Iterator[str]:
    """Bytes -> pieces of valid text as they complete; broken UTF-8 becomes the replacement character."""
    return codecs.iterdecode((bytes([byte]) for byte in stream), "utf-8", errors="replace")
