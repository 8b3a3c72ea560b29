"""Paper 1's own learning: a network that is trained to be cut to any size afterwards (arXiv:1910.13141)."""

from rightrank.models.papers.learning.learner import ScalableLearner, StepResult

__all__ = ["ScalableLearner", "StepResult"]
