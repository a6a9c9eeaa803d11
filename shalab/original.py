"""Weights of the paper's own code: its names of parameters, and ours."""

from torch import Tensor

from shalab.errors import InputError

ORIGINAL_NAMES = {
    "lnstart": "norm_start",
    "lnmid": "norm_mid",
    "lnmem": "norm_memory",
    "lnff": "norm_ff",
    "lnxff": "norm_boom",
    "rnn": "lstm",
    "ff.linear1": "boom.widen",
    "attn.q": "attention.query",
    "attn.qln": "attention.norm_query",
    "attn.qs": "attention.query_gate",
    "attn.ks": "attention.key_gate",
    "attn.vs": "attention.value_gate.vector",
    "attn.vq.l1": "attention.value_gate.linear",
}


def import_original(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the original code's names -> one that SHARNN.load_state_dict takes.

    What the original registers and never uses is dropped. Raises InputError for names of another model.
    """
    result = {}
    for name, tensor in params.items():
        block, _, part = name.removeprefix("blocks.").partition(".")
        stem, _, leaf = part.rpartition(".")
        if name == "decoder.bias":
            result[name] = tensor
        elif name in ("encoder.weight", "decoder.weight"):  # one tensor, there as here
            result["embedding.weight"] = result["decoder.weight"] = tensor
        elif part in ORIGINAL_NAMES:  # a bare vector, (1, 1, D) there
            result[f"blocks.{block}.{ORIGINAL_NAMES[part]}"] = tensor.flatten()
        elif stem in ("lnmid", "lnmem") and f"blocks.{block}.attn.q.weight" not in params:
            continue  # unused in a block without attention
        elif stem in ORIGINAL_NAMES:
            result[f"blocks.{block}.{ORIGINAL_NAMES[stem]}.{leaf}"] = tensor
        elif part not in ("attn.qkvs", "attn.r_gate", "lnout.weight", "lnout.bias"):
            raise InputError(f"{name} is no parameter of the original SHA-RNN")
    return result
