"""Load a pre-trained model, choose what of it is trained, and split it there."""

from stillscape.models.adapt import Adaptation, parse_adaptation
from stillscape.models.load import load_pretrained
from stillscape.models.pixels import pixel_values
from stillscape.models.pretrained import Pretrained
from stillscape.models.split import Split, split_model
from stillscape.models.state import load_trained_state, trained_state

__all__ = [
    "Adaptation",
    "Pretrained",
    "Split",
    "load_pretrained",
    "load_trained_state",
    "parse_adaptation",
    "pixel_values",
    "split_model",
    "trained_state",
]
