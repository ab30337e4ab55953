"""Search a linear behaviour, action = clip(bias + W @ observation), by augmented random search and write it as JSON.

Shapes: A action and O observation dimensions, flat, in the environment's units. W (A, O + 1) acts on observations that
are normalised by mean and std (O,), and on a constant 1.

Mania et al. 2018, "Simple random search of static linear policies is competitive for reinforcement learning", Algorithm
1 (V2-t). It found a gait of Walker2d, where CMA-ES (train_behaviours.py) found none that walks. Both programs write the
same form.

    python -m benchmarks.search_gaits --env_id HalfCheetah-v5 --iterations 100 --output halfcheetah-linear-fast.json
    python -m benchmarks.search_gaits --env_id Walker2d-v5 --clone vgp/walker2d/medium-v0 --gain 3 --survival_bonus 1 \
        --length 1000 --best 8 --step_size 0.04 --exploration 0.06 --iterations 100 --output walker2d-linear.json
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from numpy.typing import NDArray

from benchmarks.train_behaviours import CHOOSING, TESTING, TRAINING, play, six_digits, write


class Search:
    """Weights, the statistics of the observations by which they act, and the environment in which they are tried.

    Args:
        env_id: An environment with actions between -1 and 1.
        seed: Of the directions and of the episodes.
        action_noise: Of the actions while searching, for robustness.
    """

    def __init__(self, env_id: str, seed: int, action_noise: float) -> None:
        self.env: Any = gymnasium.make(
            env_id, disable_env_checker=True
        ).unwrapped  # its wrappers take a third of the time
        observations, actions = self.env.observation_space.shape[0], self.env.action_space.shape[0]
        self.rng = np.random.default_rng(seed)
        self.action_noise = action_noise
        self.weights = np.zeros((actions, observations + 1))
        self.mean, self.std = np.zeros(observations), np.ones(observations)
        # Welford's sums; the first statistics count as 1000 observations. None: they stay as they are.
        self.count, self.squares = 1e3, np.full(observations, 1e3)
        self.adapts = True

    def clone(self, dataset_id: str, gain: float) -> None:
        """Begin at the linear regression of actions on observations, times a gain, and keep its statistics.

        It is over the better half of a dataset's episodes, by their returns.
        """
        episodes = list(minari.load_dataset(dataset_id))
        returns = [float(episode.rewards.sum()) for episode in episodes]
        good = [e for e, total in zip(episodes, returns, strict=True) if total >= np.quantile(returns, 0.5)]
        observations = np.concatenate([e.observations[:-1] for e in good]).astype(float)
        actions = np.concatenate([e.actions for e in good]).astype(float)
        self.mean, self.std, self.adapts = observations.mean(axis=0), observations.std(axis=0), False
        inputs = np.c_[(observations - self.mean) / self.std, np.ones(len(observations))]
        ridge = 1e-3 * len(inputs) * np.eye(inputs.shape[1])
        self.weights = gain * np.linalg.lstsq(inputs.T @ inputs + ridge, inputs.T @ actions, rcond=None)[0].T

    def raw(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weights (A, O) and bias (A,) for observations that are not normalised."""
        scaled = weights[:, :-1] / self.std
        return scaled, weights[:, -1] - scaled @ self.mean

    def try_out(self, weights: NDArray[np.float64], seed: int, length: int, survival_bonus: float) -> float:
        """Play one episode and return its return, without the bonus for each step."""
        scaled, bias = self.raw(weights)
        noise = np.random.default_rng(seed)
        observation, _ = self.env.reset(seed=seed)
        total, seen = 0.0, []
        for step in range(length):
            action = bias + scaled @ observation + self.action_noise * noise.standard_normal(len(bias))
            observation, reward, fallen, _, _ = self.env.step(np.minimum(np.maximum(action, -1), 1))
            total += float(reward)
            if step % 10 == 0:
                seen.append(observation)
            if fallen:
                break
        for values in seen if self.adapts else ():
            self.count += 1
            change = values - self.mean
            self.mean = self.mean + change / self.count
            self.squares = self.squares + change * (values - self.mean)
        return total - survival_bonus * (step + 1)

    def improve(
        self, directions: int, best: int, step_size: float, exploration: float, length: int, survival_bonus: float
    ) -> NDArray[np.float64]:
        """Try random directions to both sides, step along the best of them, and return all results (directions, 2)."""
        drawn = self.rng.standard_normal((directions, *self.weights.shape))
        results = np.zeros((directions, 2))
        for number, direction in enumerate(drawn):
            seed = int(self.rng.integers(TRAINING, CHOOSING))
            for side, sign in enumerate((1, -1)):
                weights = self.weights + sign * exploration * direction
                results[number, side] = self.try_out(weights, seed, length, survival_bonus)
        top = np.argsort(-results.max(axis=1))[:best]
        slope = np.einsum("d,dao->ao", results[top, 0] - results[top, 1], drawn[top])
        self.weights = self.weights + step_size / (best * (results[top].std() + 1e-6)) * slope
        if self.adapts:
            self.std = np.maximum(np.sqrt(self.squares / self.count), 1e-2)
        return results


def search(
    env_id: str,
    seed: int,
    iterations: int,
    output: Path,
    *,
    clone: str | None,
    gain: float,
    action_noise: float,
    **how: Any,
) -> None:
    """Search, and write the weights that are best over 6 further episodes without noise, tried every 10 iterations."""
    state = Search(env_id, seed, action_noise)
    if clone is not None:
        state.clone(clone, gain)
    whole = gymnasium.make(env_id, disable_env_checker=True)
    began, best = time.perf_counter(), -np.inf
    for iteration in range(1, iterations + 1):
        results = state.improve(**how)
        if iteration % 10:
            continue
        weights, bias = state.raw(state.weights)
        chosen = float(np.mean([play(whole, weights, bias, CHOOSING + episode)[0] for episode in range(6)]))
        seconds = time.perf_counter() - began
        print(
            f"iteration {iteration}: mean {results.mean():.0f}, without noise {chosen:.0f}, {seconds:.0f} s", flush=True
        )
        if chosen > best:
            best = chosen
            words = " ".join(f"--{name} {value}" for name, value in ({"action_noise": action_noise} | how).items())
            start = f" --clone {clone} --gain {gain}" if clone else ""
            how_found = (
                "found by augmented random search: "
                f"benchmarks.search_gaits --env_id {env_id} --seed {seed}{start} {words}, iteration {iteration}. "
                "The returns are of 50 episodes without noise, on seeds that the search never saw"
            )
            weights, bias = six_digits(weights), six_digits(bias)  # what is tested is what is written
            tests = [play(whole, weights, bias, TESTING + episode) for episode in range(50)]
            write(output, env_id, how_found, seed, tests, weights, bias)


def main() -> None:
    """Read the command line and search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env_id", required=True, help="a MuJoCo environment with actions between -1 and 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=100, help="a multiple of 10")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--clone", help="a Minari dataset whose better half gives the first weights; default: zeros")
    parser.add_argument("--gain", type=float, default=1.0, help="times the cloned weights")
    parser.add_argument("--action_noise", type=float, default=0.05, help="of the actions while searching")
    parser.add_argument("--survival_bonus", type=float, default=0.0, help="what to subtract from each step's reward")
    parser.add_argument("--length", type=int, default=400, help="steps of an episode of the search, at most")
    parser.add_argument("--directions", type=int, default=16, help="random directions an iteration")
    parser.add_argument("--best", type=int, default=6, help="directions that are used")
    parser.add_argument("--step_size", type=float, default=0.03)
    parser.add_argument("--exploration", type=float, default=0.04, help="standard deviation of a direction")
    search(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
