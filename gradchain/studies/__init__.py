"""Ablation studies: train a chain with and without each link on the same seeds, and say what each link was worth."""

from gradchain.studies.ablation import Run, Study, ablate
from gradchain.studies.tasks import TASKS, Problem, Task

__all__ = ["TASKS", "Problem", "Run", "Study", "Task", "ablate"]
