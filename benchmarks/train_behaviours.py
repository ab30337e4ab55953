"""Train a linear behaviour, action = clip(bias + W @ observation), by CMA-ES and write it as JSON.

Shapes: A action and O observation dimensions, flat, in the environment's units.

    python benchmarks/train_behaviours.py --env_id Hopper-v5 --seed 0 --iterations 200 --output hopper-linear.json
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cma
import gymnasium
import numpy as np
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray

# First seeds of episodes: those of the test are used neither for training nor for the choice among generations.
TRAINING, CHOOSING, TESTING = 1_000_000, 2_000_000, 3_000_000


def play(
    env: gymnasium.Env[Any, Any],
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    seed: int,
    action_noise: float = 0.0,
) -> tuple[float, int, bool, float]:
    """Play one episode: return, length, whether it lasted to the time limit, and its jerk.

    The jerk is the sum over steps of the mean squared change of the action, before noise and clipping, in units of half
    the action range. So it also penalises gains so high that clipping turns the behaviour into a bang-bang controller.
    """
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    noise = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    total, steps, jerk = 0.0, 0, 0.0
    half_range, previous = (high - low) / 2, None
    while True:
        action = bias + weights @ observation
        if previous is not None:
            change = (action - previous) / half_range
            jerk += float(change @ change) / len(change)
        previous = action
        action = action + action_noise * noise.standard_normal(len(bias))
        # minimum and maximum, because np.clip takes longer than the product for such small arrays.
        observation, reward, terminated, truncated, _ = env.step(
            np.minimum(np.maximum(action, low), high).astype(np.float32)
        )
        total += float(reward)
        steps += 1
        if terminated or truncated:
            return total, steps, bool(truncated and not terminated), jerk


def observation_statistics(env: gymnasium.Env[Any, Any], seed: int, steps: int = 5000) -> tuple[NDArray, NDArray]:
    """Return mean and standard deviation (O,) of the observations under random actions."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    seen = [observation]
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset()
        seen.append(observation)
    return np.mean(seen, axis=0), np.maximum(np.std(seen, axis=0), 1e-3)


def write(
    output: Path,
    env_id: str,
    how: str,
    seed: int,
    tests: list[tuple[float, int, bool, float]],
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
) -> None:
    """Write a behaviour as JSON, with how it was found and what ``play`` returned in each test."""
    returns = [total for total, *_ in tests]
    content = {
        "env_id": env_id,
        "kind": "linear",
        "description": f"action = clip(bias + weights @ observation), {how}",
        "seed": seed,
        "episodes": len(tests),
        "return_mean": round(float(np.mean(returns)), 1),
        "return_std": round(float(np.std(returns)), 1),
        "length_mean": round(float(np.mean([steps for _, steps, _, _ in tests])), 1),
        "jerk_mean": round(float(np.mean([jerk / steps for _, steps, _, jerk in tests])), 4),
        "survived": float(np.mean([survived for _, _, survived, _ in tests])),
        "weights": six_digits(weights).tolist(),
        "bias": six_digits(bias).tolist(),
    }
    output.write_text(json.dumps(content, indent=1) + "\n")


def six_digits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values rounded to six significant digits, as a behaviour's file has them."""
    return np.array([float(f"{value:.6g}") for value in values.flat]).reshape(values.shape)


def train(
    env_id: str,
    seed: int,
    iterations: int,
    output: Path,
    *,
    population: int,
    episodes: int,
    action_noise: float,
    survival_bonus: float,
    smoothness: float,
    step_size: float,
    start: Path | None,
    gain: float,
) -> None:
    """Run CMA-ES and write the generation's mean that is best over 10 further episodes without noise.

    The fitness is the mean of ``episodes`` returns under ``action_noise``, with the same seeds for a whole generation,
    minus ``survival_bonus`` per step (with the environment's reward for not falling, standing still is a local optimum)
    and minus ``smoothness`` times the jerk.
    """
    env: gymnasium.Env[Any, Any] = FlattenObservation(gymnasium.make(env_id, disable_env_checker=True))
    if not isinstance(env.action_space, gymnasium.spaces.Box):
        raise ValueError(f"environment {env_id!r} has actions {env.action_space}: only Box is supported")
    shape = (int(np.prod(env.action_space.shape)), int(np.prod(env.observation_space.shape or ())))
    mean, std = observation_statistics(env, seed)

    def unfold(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Split parameters for normalised observations into weights (A, O) and bias (A,) for raw ones."""
        weights = x[: shape[0] * shape[1]].reshape(shape) / std
        return weights, x[shape[0] * shape[1] :] - weights @ mean

    def cost(x: NDArray[np.float64], generation: int) -> float:
        results = [
            play(env, *unfold(x), TRAINING + 10_000 * seed + generation * episodes + e, action_noise)
            for e in range(episodes)
        ]
        return -float(np.mean([total - survival_bonus * n - smoothness * jerk for total, n, _, jerk in results]))

    options = {"seed": seed + 1, "popsize": population, "verbose": -9}  # 0 would seed by the clock
    first = np.zeros(shape[0] * (shape[1] + 1))
    if start is not None:
        content = json.loads(start.read_text())
        weights, bias = gain * np.array(content["weights"]), gain * np.array(content["bias"])
        first = np.concatenate([(weights * std).ravel(), bias + weights @ mean])
    strategy = cma.CMAEvolutionStrategy(first, step_size, options)
    began, best = time.perf_counter(), -np.inf
    for generation in range(iterations):
        candidates = strategy.ask()
        costs = [cost(x, generation) for x in candidates]
        strategy.tell(candidates, costs)
        if (generation + 1) % 10 and generation + 1 < iterations:
            continue
        weights, bias = unfold(np.asarray(strategy.result.xfavorite))
        chosen = float(np.mean([play(env, weights, bias, CHOOSING + e)[0] for e in range(10)]))
        print(
            f"seed {seed} generation {generation + 1}: fitness {-min(costs):.0f}, without noise {chosen:.0f}, "
            f"step size {strategy.sigma:.3f}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
        if chosen <= best:
            continue
        best = chosen
        tests = [play(env, weights, bias, TESTING + e) for e in range(50)]
        how = (
            "trained by CMA-ES: "
            f"benchmarks/train_behaviours.py --env_id {env_id} --seed {seed} --iterations {iterations} "
            f"--population {population} --episodes {episodes} --action_noise {action_noise} "
            f"--survival_bonus {survival_bonus} --smoothness {smoothness} --step_size {step_size}"
            f"{f' --start {start.name} --gain {gain}' if start else ''}, generation {generation + 1}"
        )
        write(output, env_id, how, seed, tests, weights, bias)
    env.close()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env_id", required=True, help="an environment with Box actions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=200, help="generations of CMA-ES")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--population", type=int, default=24, help="candidates a generation")
    parser.add_argument("--episodes", type=int, default=2, help="episodes a candidate")
    parser.add_argument("--action_noise", type=float, default=0.1, help="of the actions while training, for robustness")
    parser.add_argument("--survival_bonus", type=float, default=0.0, help="what to subtract from each step's reward")
    parser.add_argument("--smoothness", type=float, default=0.0, help="weight of the jerk against the return")
    parser.add_argument("--step_size", type=float, default=0.3, help="the first one of CMA-ES")
    parser.add_argument("--start", type=Path, help="a behaviour to start from instead of from zeros")
    parser.add_argument("--gain", type=float, default=1.0, help="times the start's weights and bias: less is smoother")
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
