"""A habit as a program: what ``Habit.answer`` computes for one observation, as one function of a tensor.

Shapes: C actions of an answer (the chunk), A action and O observation dimensions.
"""

from typing import Any

import torch
from torch import nn

from vgp_lightning.export.program_formats import Run
from vgp_lightning.pipeline.habit import Habit

_TRIALS = 16


class HabitProgram(nn.Module):
    """From an observation to a chunk of actions: units, network, action bounds.

    Attributes:
        settings: Those in which the habit's teacher planned.
        inputs: The inputs' shapes, in their order.
        outputs: The outputs' shapes, in their order.
    """

    def __init__(self, habit: Habit) -> None:
        """Take over a habit, on the CPU."""
        super().__init__()
        self.habit = habit
        self.settings: dict[str, Any] = habit.teacher.get("settings", {})
        self.inputs: dict[str, tuple[int, ...]] = {"observation": (habit.observation_dim,)}
        self.outputs: dict[str, tuple[int, ...]] = {"actions": (habit.chunk, habit.action_dim)}

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor]:
        """Return the actions (C, A) for an observation (O,), both in the environment's units."""
        return (self.habit.compute(observation[None])[0],)

    def draw_inputs(self, seed: int) -> dict[str, torch.Tensor]:
        """Return an observation as in training to try the program on."""
        frame, actions = self.habit.frame, self.habit.action_dim
        normalised = torch.randn(self.inputs["observation"], generator=torch.Generator().manual_seed(seed))
        return {"observation": normalised * frame.scale[actions:] + frame.shift[actions:]}

    def compare(self, run: Run) -> float:
        """Return the largest difference of a program's actions from the habit's, on the same observations.

        It is in standard deviations of the training data.
        """
        scale, largest = self.habit.frame.scale[: self.habit.action_dim], torch.zeros(())
        for seed in range(_TRIALS):
            inputs = self.draw_inputs(seed)
            (actions,) = run(inputs)
            difference = (torch.from_numpy(actions) - self.habit.answer(inputs["observation"])[0]).abs() / scale
            largest = torch.maximum(largest, difference.max())  # NaN stays NaN
        return float(largest)
