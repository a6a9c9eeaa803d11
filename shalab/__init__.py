"""shalab: Single Headed Attention RNN, from bytes to a trained model."""

import os

# OpenMP's threads wait by spinning. Where another process wants the same cores, they then hold each other up for most
# of the time; spinning for some microseconds only costs a lone run little. GNU's OpenMP reads this once, when PyTorch
# is loaded, and nothing can set it later: import shalab before torch.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from shalab import fast  # noqa: E402, F401, I001 - the tricks take their places
from shalab.errors import InputError  # noqa: E402
from shalab.model import SHARNN, ModelConfig, State  # noqa: E402
from shalab.optim import Lamb  # noqa: E402
from shalab.original import import_original  # noqa: E402

__version__ = "0.1.0"  # pyproject.toml reads it here
__all__ = ["SHARNN", "InputError", "Lamb", "ModelConfig", "State", "import_original"]
