"""Settings of the data module that suit a dataset, each with its reason; a start for experiments, not their result."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vgp_lightning.data.measuring import Measures

# What both networks of planner.yaml accept: four widths halve the horizon three times, and the value function takes 64.
_HORIZONS = (8, 16, 32, 64)
_SPARSE = 0.05  # share of steps with a reward below which rewards mark events, such as a goal
# Range of a dimension in standard deviations: 3.5 if it is uniform between its ends, above 7 if it has tails.
_TAILS = 7.0
_STEPS_OF_PENALTY = 30  # the paper's -100 is about so many steps' rewards of its Hopper


@dataclass(frozen=True)
class Recommendation:
    """A setting.

    Attributes:
        name: Of the argument of ``MinariDataModule``.
        value: As YAML holds it.
        why: The reason, in a line.
    """

    name: str
    value: Any
    why: str


def recommend(measures: Measures) -> list[Recommendation]:
    """Return settings for a dataset.

    Args:
        measures: Of its episodes.
    """
    horizon = _horizon(measures)
    found = [horizon, _discount(measures), _truncation(measures), _padding(measures, horizon.value)]
    found += [_normalizer(measures), _penalty(measures)]
    return found + _validation(measures)


def is_sparse(measures: Measures) -> bool:
    """Return whether rewards mark events, such as a goal, and are 0 in between."""
    return measures.rewarded < _SPARSE


def _horizon(measures: Measures) -> Recommendation:
    """The plan should reach as far as the present says something of the future, and fit most episodes."""
    lags = measures.observation_lags[np.isfinite(measures.observation_lags)]
    lag = float(np.median(lags)) if len(lags) else float(np.median(measures.lengths)) / 2
    fitting = [horizon for horizon in _HORIZONS if horizon <= np.median(measures.lengths)] or [_HORIZONS[0]]
    value = next((horizon for horizon in fitting if horizon >= lag), fitting[-1])
    of = f"observations are correlated over {lag:.0f} steps" if len(lags) else "observations change slowly"
    limit = "" if value >= lag else f"; a typical episode has {np.median(measures.lengths):.0f}"
    return Recommendation("horizon", value, f"{of}{limit}; planner.yaml's widths take multiples of 8 up to 64")


def _discount(measures: Measures) -> Recommendation:
    """The discount decides how many steps ahead a return looks: 1 / (1 - discount)."""
    if measures.equal_rewards:
        return Recommendation("discount", 0.99, "all rewards are the same: the value function has nothing to learn")
    rewarded = measures.lengths[measures.returns != 0]
    if is_sparse(measures) and len(rewarded):
        ahead = float(np.median(rewarded))
        why = f"rewards are rare: looks about {ahead:.0f} steps ahead, as long as it takes to come to one"
    else:
        longest = float(measures.lengths.max())
        ahead = max(0.3 * longest, min(longest, 100.0))
        why = f"looks about {ahead:.0f} steps ahead; the longest episode has {longest:.0f} (the paper: 300 of 1000)"
    value = min(max(round(1 - 1 / max(ahead, 1.0), 3), 0.5), 0.999)
    return Recommendation("discount", value, why)


def _truncation(measures: Measures) -> Recommendation:
    truncated = int((~measures.terminated).sum())
    if truncated == 0:
        return Recommendation("truncation", "cut", "has no effect: no episode was truncated")
    if is_sparse(measures) or measures.equal_rewards:
        why = "rewards are rare: the mean reward of an episode says little of what would have followed"
        return Recommendation("truncation", "cut", why)
    why = f"{truncated} of {len(measures.lengths)} episodes were cut and would have gone on: as if at their mean reward"
    return Recommendation("truncation", "continue", why)


def _padding(measures: Measures, horizon: int) -> Recommendation:
    short = float((measures.lengths < 2 * horizon).mean())
    if short > 0.1:
        why = f"{short:.0%} of the episodes are shorter than two horizons: windows at their ends would be missing"
        return Recommendation("padding", "all", why)
    return Recommendation("padding", "terminated", "episodes are long enough; a terminal state lasts, a cut is no end")


def _normalizer(measures: Measures) -> Recommendation:
    seen = measures.observations.std > 0
    ranges = (measures.observations.maximum - measures.observations.minimum)[seen] / measures.observations.std[seen]
    widest = float(ranges.max()) if len(ranges) else 0.0
    if widest <= _TAILS:
        why = f"no observation has tails (range at most {widest:.1f} standard deviations): -1 to 1 are its ends"
        return Recommendation("normalizer", "limits", why)
    why = f"an observation has tails (range {widest:.0f} standard deviations): limits would squeeze the rest"
    return Recommendation("normalizer", "gaussian", why)


def _penalty(measures: Measures) -> Recommendation:
    """Termination is bad where episodes that end early lose rewards, and good where it is rewarded."""
    terminated = measures.terminated
    if not terminated.any():
        return Recommendation("termination_penalty", 0.0, "no episode ends in a terminal state")
    if is_sparse(measures) or measures.reward_mean <= 0 or measures.equal_rewards:
        why = "a terminal state is no fall by these rewards; set a negative value if it is one"
        return Recommendation("termination_penalty", 0.0, why)
    if float(np.mean(measures.last_rewards[terminated])) > 5 * measures.reward_size:
        return Recommendation("termination_penalty", 0.0, "a terminal state is rewarded: it is the goal")
    others = measures.returns[~terminated]
    if len(others) and float(others.mean()) <= float(measures.returns[terminated].mean()):
        return Recommendation("termination_penalty", 0.0, "episodes that terminate return no less than the others")
    value = -float(f"{_STEPS_OF_PENALTY * measures.reward_size:.1g}")
    why = f"episodes that terminate return less; the rewards of {_STEPS_OF_PENALTY} steps more, as in the paper"
    return Recommendation("termination_penalty", value, why)


def _validation(measures: Measures) -> list[Recommendation]:
    count = len(measures.lengths)
    if count == 1:
        return [Recommendation("validation_share", 0.0, "one episode cannot be divided")]
    if count < 40:
        value = max(0.1, round(1 / count + 0.004, 2))
        return [Recommendation("validation_share", value, f"the default 0.05 of {count} episodes would be 1 or 2")]
    return []


def write_config(dataset_id: str, recommendations: list[Recommendation]) -> str:
    """Return the settings as the text of a config, each line with its reason."""
    lines = [
        f"# Settings of the data module that vgp describe proposes for {dataset_id}",
        "# A start: vgp fit -c planner.yaml -c THIS_FILE, and without a GPU -c hardware/cpu.yaml too",
        "data:",
        f"  dataset_id: {dataset_id}",
    ]
    settings = [f"  {one.name}: {one.value}" for one in recommendations]
    width = max(len(line) for line in settings)
    lines += [f"{line:<{width}}  # {one.why}" for line, one in zip(settings, recommendations, strict=True)]
    return "\n".join(lines) + "\n"
