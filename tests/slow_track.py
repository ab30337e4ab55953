"""A track whose steps take time, for processes that are killed or that meet: slow_track:SlowTrack-v0."""

import os
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class SlowTrack(gymnasium.Env):
    """A point at (x, y): the action is added to x, and paid. The seed draws x; an episode takes 4 to 9 steps."""

    observation_space = spaces.Box(-1e6, 1e6, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.array([self.np_random.uniform(0, 1), 5.0])
        self.left = int(self.np_random.integers(4, 10))
        return self.place.copy(), {}

    def step(self, action):
        time.sleep(float(os.environ.get("TRACK_SECONDS", "0")))
        self.place[0] += action[0]
        self.left -= 1
        return self.place.copy(), float(action[0] * self.place[0]), self.left == 0, False, {}

    def render(self):
        return np.full((20, 30, 3), 10 * self.left, np.uint8)


gymnasium.register("SlowTrack-v0", entry_point="slow_track:SlowTrack", max_episode_steps=8)
