"""Testing: the scores of a set of videos, the numbers made of them, and the report."""

from muybridge.evaluate.result import Evaluation, compare_ready, load_evaluation, pool
from muybridge.evaluate.run import evaluate

__all__ = ["Evaluation", "compare_ready", "evaluate", "load_evaluation", "pool"]
