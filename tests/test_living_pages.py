"""Pages without a kernel: every widget goes on working, from a file, with nothing to fetch."""

CELLS = {
    "AttentionExplorer": """
import numpy as np
from shalab.widgets import *
rng = np.random.default_rng(0)
scores = np.where(np.tri(30, 50, 20) > 0, rng.normal(0, 3, (2, 2, 30, 50)), -np.inf)
weights = np.exp(scores - scores.max(-1, keepdims=True))
weights /= weights.sum(-1, keepdims=True)
AttentionExplorer({0: weights[0], 3: weights[1]}, bytes(rng.integers(32, 127, 50).tolist()))""",
    "BoomExplorer": "BoomExplorer(64, 3)",
    "ClaimDial": """
from shalab import tokenization as tk
text = b"one two three four five six seven " * 6
ClaimDial([tk.deterministic_splitting(text, np.ones(len(text)), n) for n in (8, 4, 2)], "parts of at most, bytes")""",
    "Dashboard": """
from shalab.bundled import assets_dir
Dashboard.replay(assets_dir() / "model", np.inf, {"xz -9e": 2.3})""",
    "Frames": """
from matplotlib.figure import Figure
Frames("how many", {n: (Figure((2, 1)), f"There are {n}.") for n in (1, 2, 3)}, Figure((2, 1)))""",
    "GuessingGame": 'GuessingGame("the cat sat on the mat.\\n" * 9, 100, 145)',
    "MemoryView": 'MemoryView(bptt=8, max_context=20, step=3, text="The memory holds the last bytes read.")',
    "PredictedCurve": 'PredictedCurve([0, 1, 2, 4], [4.0, 3.0, 2.5, 2.25], "epochs", "bits", "How does it fall?")',
    "Prediction": 'Prediction("How many?", 4.03125, low=0, high=8, unit="bits per byte")',
    "SurpriseMap": 'SurpriseMap(text[:60], {"long": rng.exponential(2, 60), "short": rng.exponential(3, 60)})',
    "TokenExplorer": """
lengths = {"bytes": np.ones(60, int), "pieces": np.array([3, 1, 16, 10, 7, 13, 10])}
TokenExplorer(text[:60], rng.exponential(2, 60), lengths)""",
    "TrustInspector": """
TrustInspector([{"event": "trust", "step": n, "tensors": {"a": (1.0, 0.5, 2.0 + n), "b": (0.0, 1.0, 1.0)}} for n in (1, 9)])""",
}
