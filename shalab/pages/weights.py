"""A model's weights as one blob for a web page: `loadNetwork` of widgets/network.js reads it."""

import copy
import json
import struct

from shalab.device import to_host
from shalab.errors import InputError
from shalab.model import SHARNN

FIELDS = "vocab_size d_model d_boom n_layers n_heads attention_layers max_context".split()


def packed(model: SHARNN) -> bytes:
    """A uint32, the length of a header in JSON with configuration and sizes of the tensors, then all in float16.

    The value vectors are stored without their training matrix, and max_context is the model's attribute. Little-endian.
    InputError if the model does not know all 256 bytes, or a weight is too large for float16.
    """
    if model.config.vocab_size != 256:
        raise InputError(f"a page's model must have a vocab_size of 256, got {model.config.vocab_size}")
    model = copy.deepcopy(model).collapse()
    weights = {name: tensor.half() for name, tensor in model.state_dict().items() if name != "decoder.weight"}
    if large := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise InputError(f"a page's weights must be numbers of float16, up to 65,504; not so in {', '.join(large)}")
    config = {name: getattr(model.config, name) for name in FIELDS} | {"max_context": model.max_context}
    sizes = [[name, tensor.numel()] for name, tensor in weights.items()]
    header = json.dumps({"config": config, "tensors": sizes}).encode()
    return b"".join(
        [
            struct.pack("<I", len(header)),
            header,
            *(tensor.cpu().numpy().astype("<f2").tobytes() for tensor in weights.values()),
        ]
    )
