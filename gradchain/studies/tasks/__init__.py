"""What optimizers are tried on."""

from gradchain.studies.tasks.digits import DIGITS
from gradchain.studies.tasks.surfaces import QUADRATIC, RASTRIGIN, ROSENBROCK
from gradchain.studies.tasks.task import Problem, Task
from gradchain.studies.tasks.wave import WAVE

TASKS = {task.name: task for task in (WAVE, QUADRATIC, ROSENBROCK, RASTRIGIN, DIGITS)}

__all__ = ["TASKS", "Problem", "Task"]
