"""Training: the one loop that every training pass runs, what it trains, and trajectories to learn from.

An objective turns a batch into losses; the loop does the rest. Imports `contract` and what is below. Start reading with
`loop.py`.
"""

from compress.training.config import LARGEST_BATCH, TrainingConfig, say_slow
from compress.training.cost import forecast, forecast_of
from compress.training.loop import Objective, student_of, train, trained

__all__ = [
    "LARGEST_BATCH",
    "Objective",
    "TrainingConfig",
    "forecast",
    "forecast_of",
    "say_slow",
    "student_of",
    "train",
    "trained",
]
