"""shalab: Single Headed Attention RNN, from bytes to a trained model."""

from shalab.errors import InputError
from shalab.model import SHARNN, ModelConfig, State, import_original
from shalab.optim import Lamb

__all__ = ["SHARNN", "InputError", "Lamb", "ModelConfig", "State", "import_original"]
