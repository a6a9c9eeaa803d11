"""What a reader looks at and touches: anywidgets that work offline and leave a picture and a text behind.

Nothing in the model or the training code imports this package.
"""

from shalab.widgets.boom import BoomExplorer
from shalab.widgets.claims import ClaimDial
from shalab.widgets.dashboard import Dashboard
from shalab.widgets.explorer import AttentionExplorer
from shalab.widgets.frames import Frames
from shalab.widgets.guessing import GuessingGame
from shalab.widgets.memory import MemoryView
from shalab.widgets.playground import Playground
from shalab.widgets.prediction import PredictedCurve, Prediction
from shalab.widgets.surprise import SurpriseMap
from shalab.widgets.tokens import TokenExplorer
from shalab.widgets.trust import TrustInspector

__all__ = [
    "AttentionExplorer",
    "BoomExplorer",
    "ClaimDial",
    "Dashboard",
    "Frames",
    "GuessingGame",
    "MemoryView",
    "Playground",
    "PredictedCurve",
    "Prediction",
    "SurpriseMap",
    "TokenExplorer",
    "TrustInspector",
]
