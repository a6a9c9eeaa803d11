"""A model's weights as one blob for a web page: `loadNetwork` of widgets/network.js reads it."""

import copy
import json

import numpy as np

from shalab.device import to_host
from shalab.errors import InputError
from shalab.model import SHARNN

FIELDS = "vocab_size d_model d_boom n_layers n_heads attention_layers max_context".split()


def packed(model: SHARNN) -> bytes:
    """The length of a header as uint32, the header in JSON with the configuration and the tensors' sizes, and all
    weights in float16, first their low bytes and then their high ones, which compress better that way.

    The value vectors are stored without their training matrix, and max_context is the model's attribute. InputError
    if the model does not know all 256 bytes, or a weight is too large for float16.
    """
    if model.config.vocab_size != 256:
        raise InputError(f"a page's model must have a vocab_size of 256, got {model.config.vocab_size}")
    state = copy.deepcopy(model).collapse().state_dict()
    weights = {name: to_host(tensor).half() for name, tensor in state.items() if name != "decoder.weight"}
    if large := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise InputError(
            f"a page's weights must be at most 65,504, float16's largest number; not so: {', '.join(large)}"
        )
    config = {name: getattr(model.config, name) for name in FIELDS} | {"max_context": model.max_context}
    sizes = [(name, tensor.numel()) for name, tensor in weights.items()]
    header = json.dumps({"config": config, "sizes": sizes}).encode()
    numbers = np.concatenate([tensor.numpy().ravel() for tensor in weights.values()]).astype("<f2")
    halves = numbers.view(np.uint8).reshape(-1, 2).T.tobytes()
    return b"".join([len(header).to_bytes(4, "little"), header, halves])
