"""What diffusers' own planner needs of an environment, from an exported folder alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np


class StockEnvironment:
    """What ``diffusers.experimental.ValueGuidedRLPipeline`` wants of an environment, from an exported folder alone.

    ``ValueGuidedRLPipeline.from_pretrained(folder, env=StockEnvironment(folder))``: its statistics are vectors, so the
    stock class normalises each dimension by itself (it takes scalars from a D4RL environment, diffusers #10636). With a
    stride of s it returns the s actions of the first step of the networks, one after the other.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the statistics of a pipeline folder."""
        statistics = json.loads((Path(folder) / "model_index.json").read_text())["normalization"]
        shift, scale = (np.array(statistics[name], dtype=np.float32) for name in ("shift", "scale"))
        actions, stride = statistics["action_dim"], statistics.get("stride", 1)
        self.action_space = SimpleNamespace(shape=(stride * actions,))
        self.observation_space = SimpleNamespace(shape=(len(shift) - actions,))
        self._dataset = {
            "actions": _Statistics(np.tile(shift[:actions], stride), np.tile(scale[:actions], stride)),
            "observations": _Statistics(shift[actions:], scale[actions:]),
        }

    def get_dataset(self) -> dict[str, "_Statistics"]:
        """Return the statistics in the form of a D4RL dataset."""
        return self._dataset


@dataclass(frozen=True)
class _Statistics:
    """An array of which only the mean and the standard deviation are known."""

    shift: np.ndarray
    scale: np.ndarray

    def mean(self) -> np.ndarray:
        return self.shift

    def std(self) -> np.ndarray:
        return self.scale
