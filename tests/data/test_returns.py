"""Returns, worked out by hand."""

import numpy as np
import pytest

from vgp_lightning.data.returns import discounted_returns, returns_by_row


def test_a_terminated_episodes_return_ends_with_the_penalty():
    # From the last step: 4 - 10 = -6;  2 + 0.5 * -6 = -1;  1 + 0.5 * -1 = 0.5
    returns = discounted_returns(np.array([1.0, 2.0, 4.0]), True, 0.5, termination_penalty=-10.0)
    assert returns.tolist() == [0.5, -1, -6]


@pytest.mark.parametrize("truncation", ["cut", "continue"])
def test_a_terminated_episode_does_not_continue(truncation):
    assert discounted_returns(np.array([1.0, 2.0, 4.0]), True, 0.5, truncation=truncation).tolist() == [3, 4, 4]


def test_a_truncated_episode_is_cut_at_its_end_and_pays_no_penalty():
    # 4;  2 + 0.5 * 4 = 4;  1 + 0.5 * 4 = 3
    returns = discounted_returns(np.array([1.0, 2.0, 4.0]), False, 0.5, termination_penalty=-10.0)
    assert returns.tolist() == [3, 4, 4]


def test_a_truncated_episode_continues_with_its_mean_reward():
    # The mean 3 for ever after is worth 3 / (1 - 0.5) = 6:  5 + 3 = 8;  3 + 4 = 7;  1 + 3.5 = 4.5
    returns = discounted_returns(np.array([1.0, 3.0, 5.0]), False, 0.5, truncation="continue")
    assert returns.tolist() == [4.5, 7, 8]


@pytest.mark.parametrize("discount", [0.0, 0.9, 0.997])
def test_a_constant_reward_that_continues_is_worth_the_same_at_every_step(discount):
    returns = discounted_returns(np.full(50, -2.5), False, discount, truncation="continue")
    np.testing.assert_allclose(returns, -2.5 / (1 - discount), rtol=1e-6)


def test_without_discount_a_return_is_the_sum_of_what_is_left():
    rewards = np.random.default_rng(0).normal(size=30)
    np.testing.assert_allclose(discounted_returns(rewards, False, 1.0), np.cumsum(rewards[::-1])[::-1], rtol=1e-5)


def test_the_rewards_are_not_changed():
    rewards = np.array([1.0, 2.0])
    discounted_returns(rewards, True, 0.5, termination_penalty=-10.0)
    assert rewards.tolist() == [1, 2]


def test_the_rows_of_episodes_have_their_steps_returns_and_zero_at_the_end():
    rewards = np.float32([1, 2, 4, 0, 8, 0])  # episodes of three steps and of one
    lengths, terminated = np.array([3, 1]), np.array([True, False])
    found = list(returns_by_row(rewards, lengths, terminated, 0.5, -10.0, "continue"))
    # The second episode is truncated: its mean reward 8 for ever is worth 8 / (1 - 0.5).
    assert [returns.tolist() for returns in found] == [[0.5, -1, -6, 0], [16, 0]]
    assert all(returns.dtype == np.float32 for returns in found)
