"""The miniature: a small closed world with everything InstructGPT's setting has, and the truth behind it."""

from miniature.gold import Judge, Judgement, judge
from miniature.labelers import HELD_OUT, TRAINING, Labeler, demonstrate
from miniature.world import USE_CASES, Gold, Task, sample_task

__all__ = [
    "HELD_OUT",
    "TRAINING",
    "USE_CASES",
    "Gold",
    "Judge",
    "Judgement",
    "Labeler",
    "Task",
    "demonstrate",
    "judge",
    "sample_task",
]
