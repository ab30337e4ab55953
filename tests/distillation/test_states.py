"""The states in which a habit or its teacher is asked when it acts, against numbers by hand."""

import gymnasium
import numpy as np
import torch
from fakes import Track

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.distillation.states import play_episodes, thin, visit
from vgp_lightning.pipeline.frame import Frame

STATISTICS = {"action_dim": 1, "shift": [0.0] * 3, "scale": [0.5, 1.0, 1.0], "return_shift": 0.0, "return_scale": 1.0}
FRAME = Frame.of(STATISTICS | {"action_low": [-1.0], "action_high": [1.0]}, 3)


def starts(seeds):
    return [np.random.Generator(np.random.PCG64(seed)).uniform(0, 1) for seed in seeds]


def ahead(observations):
    """Two steps ahead, of 1.0 and 0.5, and a third that nobody executes."""
    return torch.tensor([[[1.0], [0.5], [9.0]]]).repeat(len(observations), 1, 1)


def test_only_states_in_which_it_is_asked_are_kept_and_the_seeds_follow_each_other(track):
    environments = make_environments("Track-v0", 1)
    states = visit(ahead, FRAME, environments, 5, 2, 0.0, 3)
    # Asked at x and at x + 1.5; an episode ends at x + 2.5 or at x + 3, so that the next is asked at its own start.
    expected = [[x + step, 5.0] for x in starts([3, 4, 5]) for step in (0.0, 1.5)][:5]
    np.testing.assert_allclose(states, expected, rtol=1e-6)
    assert states.dtype == np.float32


def test_all_environments_take_as_many_steps(track):
    states = visit(ahead, FRAME, make_environments("Track-v0", 3), 4, 2, 0.0, 0)
    np.testing.assert_allclose(states[:3, 0], starts([0, 1, 2]), rtol=1e-6)
    np.testing.assert_allclose(states[3:, 0], np.add(starts([0, 1, 2]), 1.5), rtol=1e-6)


def test_noise_is_in_standard_deviations_of_the_data_and_within_the_bounds(track):
    taken = []

    class Recorded(Track):
        def step(self, action):
            taken.append(float(action[0]))
            return super().step(action)

    gymnasium.register("Recorded-v0", Recorded)
    try:
        stay = lambda observations: torch.zeros(len(observations), 1, 1)  # noqa: E731
        visit(stay, FRAME, make_environments("Recorded-v0", 4), 2000, 1, 0.2, 0)
        assert abs(np.std(taken) - 0.2 * 0.5) < 0.01
        taken.clear()
        visit(stay, FRAME, make_environments("Recorded-v0", 4), 200, 1, 20.0, 0)
        assert set(np.sign(taken)) == {-1.0, 1.0}
        assert max(map(abs, taken)) == 1.0
    finally:
        del gymnasium.registry["Recorded-v0"]


def test_returns_are_the_sums_of_the_rewards_of_the_episodes_in_the_order_of_their_seeds(track):
    # From x an episode ends beyond 3, after 3 or 4 steps of 1.0 and 0.5 in turn; each action is paid.
    expected = [2.5 if x > 0.5 else 3.0 for x in starts(range(5))]
    for count in (1, 2):
        assert play_episodes(ahead, FRAME, make_environments("Track-v0", count), 5, 2, 0) == expected


def test_thin_keeps_different_ones():
    states = np.arange(40, dtype=np.float32).reshape(20, 2)
    kept = thin(states, 5, 1)
    assert len({tuple(row) for row in kept}) == 5
    assert np.isin(kept[:, 0], states[:, 0]).all()
    assert not np.array_equal(kept, thin(states, 5, 2))
