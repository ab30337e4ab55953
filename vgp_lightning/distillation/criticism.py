"""``vgp critic``: train a critic on a planner's data, and put it into the planner's folder.

Shapes: S steps of the data, A action and O observation dimensions.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import TensorDataset

from vgp_lightning.agent.deployment import load_pipeline
from vgp_lightning.agent.environments import check_seed
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.data.returns import Truncation
from vgp_lightning.data.windows import WindowDataset
from vgp_lightning.distillation.fitting import check_options, fit
from vgp_lightning.export.folder import update_defaults, write_critic
from vgp_lightning.pipeline.critic import Critic
from vgp_lightning.pipeline.frame import Frame
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.report.files import refuse_links, write_report
from vgp_lightning.report.folders import prepare
from vgp_lightning.training.critic import CriticModule, StateValue
from vgp_lightning.training.regression import load

_AT_ONCE = 65_536  # rows that a network is asked for


def train_critic(
    pipeline_folder: str,
    output_dir: str | None = None,
    *,
    widths: list[int] | None = None,
    state_values: int = 5,
    networks: int = 3,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-3,
    warmup_steps: int = 100,
    samples_per_step: int = 512,
    max_steps: int = 6000,
    truncation: Truncation = "continue",
    seed: int = 0,
    dataset_id: list[str] | None = None,
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Add a critic to an exported planner's folder: small networks that rank its candidates by their first actions.

    It learns from the planner's data in two steps. A state value V learns the return that follows each state. Then the
    critic learns the advantage of each action: reward + discount * V(next state) - V(state). The return itself would
    teach little about an action: most of its variance comes from what is done in the hundreds of steps after it.
    The folder's defaults stay as they are unless settings are given: ``vgp tune`` tries the critic, and makes it the
    default if it returns more.
    The critic that was in the folder is replaced, atomically; an interrupted run leaves that one as it was, and begins
    anew. If the folder plans with it by default, the evidence for that is removed: it was of the old one.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        output_dir: Where TensorBoard's events and critic.json go; by default runs/critic/ and the folder's name.
        widths: Of the hidden layers of each network; by default 256, 256.
        state_values: Networks of the state value, of whose mean the advantages are made. What one network errs by is as
            large as what actions differ by: critics of two single ones agree in a state with a correlation of 0.57.
        networks: Networks of the critic, whose mean ranks.
        learning_rate: The highest, after the warm-up; a cosine takes it to zero.
        weight_decay: Of AdamW.
        warmup_steps: Steps in which the learning rate rises from zero.
        samples_per_step: Steps of the data in a batch of training, for each network.
        max_steps: Training steps, of the state value and of the critic.
        truncation: The return of a truncated episode: ``cut`` at its end, or as if its mean reward would ``continue``.
        seed: Of all random numbers.
        dataset_id: The data; by default the datasets of the planner's training.
        settings: What becomes the folder's default planner, once the critic is there; the other settings stay.

    Returns:
        What critic.json holds.

    Raises:
        ValueError: If an option is out of range, the folder is not a planner's, a dataset is missing or does not fit
            the planner, or the folder does not name the discount of its returns.
        OSError: If a folder cannot be written.
    """
    start = time.perf_counter()
    widths = [256, 256] if widths is None else widths
    check_options(
        learning_rate=(learning_rate, 0, 1e3),
        weight_decay=(weight_decay, 0, 1e3),
        warmup_steps=(warmup_steps, 0, 10**9),
        samples_per_step=(samples_per_step, 1, 10**7),
        max_steps=(max_steps, 1, 10**9),
        state_values=(state_values, 1, 64),
    )
    check_seed(seed)
    folder = Path(pipeline_folder)
    pipeline = load_pipeline(folder, "cpu")
    refuse_links(folder)
    pipeline.resolve_settings(**settings)  # refuses what cannot work
    with torch.device("meta"):  # refuses sizes before there is any work
        Critic(pipeline.normalization, widths, networks)
    names = pipeline.task.get("dataset_id") if dataset_id is None else dataset_id
    discount = pipeline.task.get("discount")
    if not names:
        raise ValueError(f"{folder} does not name the datasets that it was trained on: give them, --dataset_id '[ID]'")
    if discount is None:
        raise ValueError(f"{folder} does not name the discount of its returns: export it from a value function too")
    if discount == 1 and truncation == "continue":
        raise ValueError(
            f"{folder} has returns without a discount, and the rewards of truncated episodes cannot continue for ever "
            "without one: --truncation cut"
        )
    data = MinariDataModule(
        list(names),
        horizon=1,
        discount=discount,
        termination_penalty=pipeline.task.get("termination_penalty") or 0.0,
        truncation=truncation,
    )
    if (data.action_dim, data.observation_dim) != (pipeline.action_dim, pipeline.observation_dim):
        raise ValueError(
            f"{names} has {data.observation_dim} observation and {data.action_dim} action dimensions, but {folder} "
            f"plans {pipeline.observation_dim} and {pipeline.action_dim}: give the datasets of its training"
        )
    if data.total_episodes < 2:
        raise ValueError(f"{names} has one episode: a critic needs two at least, of which one is held out")
    output = Path(output_dir) if output_dir is not None else Path("runs", "critic", folder.resolve().name)
    say = Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print
    data.prepare_data()
    data.setup("fit")
    prepare(output)
    shift, scale = data.normalization["return_shift"], data.normalization["return_scale"]
    parts = [take_steps(windows, pipeline.frame) for windows in (data.train_windows, data.validation_windows)]

    def learn(network: StateValue | Critic, name: str, samples: Sequence[tuple[Tensor, ...]]) -> float:
        module = CriticModule(network, name, learning_rate, weight_decay, warmup_steps)
        generator = torch.Generator().manual_seed(seed)
        training, validation = (TensorDataset(*part) for part in samples)
        loaders = load(training, validation, samples_per_step * len(network.members), max_steps, generator)
        found = fit(module, loaders, output, name, max_steps)
        network.eval()
        explained = 1 - found[f"val/{name}_loss"] / max(found[f"val/{name}_size"], 1e-30)
        say(f"{name}: {explained:.2f} of the variance on held-out episodes is explained")
        return explained

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        value = StateValue(data.observation_dim, widths, state_values)
        critic = Critic(pipeline.normalization, widths, networks)
    returns = [(part.observations, (part.returns - shift) / scale) for part in parts]
    explained_value = learn(value, "state_value", returns)
    advantages = [advantages_of(part, value, shift, scale, discount) for part in parts]
    deviation = float(advantages[0].std())
    if not deviation > 0:
        raise ValueError(f"all actions of {names} have the same advantage: a critic cannot learn anything from them")
    samples = [
        (part.observations, part.actions, wanted / deviation) for part, wanted in zip(parts, advantages, strict=True)
    ]
    explained = learn(critic, "critic", samples)
    trained = Critic(pipeline.normalization, widths, networks, deviation)
    trained.load_state_dict(critic.state_dict())
    write_critic(trained, folder)
    if settings or pipeline.resolve_settings()["rank_by"] == "critic":
        update_defaults(folder, settings)  # what spoke for the defaults spoke for the critic before
    report = {
        "pipeline": str(folder),
        "steps": len(parts[0].returns),
        "advantage_std": deviation,
        "return_std": float(parts[0].returns.std()),
        "explained_variance": {"state_value": explained_value, "critic": explained},
        "seconds": time.perf_counter() - start,
    }
    write_report(report, output / "critic.json")
    evaluation = f"vgp evaluate {folder} --episodes 50"
    defaults = ", ".join(f"{name} {value}" for name, value in settings.items())
    changed = f"the folder plans with these settings by default now: {defaults}\n" if settings else ""
    Console(markup=False, highlight=False, soft_wrap=True).print(
        f"critic written to {folder / 'critic'}, in {report['seconds']:.0f} s\n"
        f"{changed}"
        "compare what it chooses with one plan that nobody chooses:\n"
        f"  {evaluation} --batch_size 1 --n_guide_steps 0 --output_dir {output}/one\n"
        f"  {evaluation} --batch_size 16 --n_guide_steps 0 --rank_by critic --choice_temperature 0.5 "
        f"--output_dir {output}/ranked\n"
        f"  vgp compare {output}/one {output}/ranked\n"
        f"or let vgp tune {folder} try it, which makes it the folder's default if it returns more"
    )
    return report


class Steps(NamedTuple):
    """Steps of recorded episodes; observations and actions are normalised, returns in the environment's units.

    Attributes:
        observations: (S, O).
        actions: (S, A).
        returns: (S,), discounted, from the step on.
        next_observations: (S, O).
        next_returns: (S,), from the next step on.
        goes_on: (S,), whether there is a next step.
    """

    observations: Tensor
    actions: Tensor
    returns: Tensor
    next_observations: Tensor
    next_returns: Tensor
    goes_on: Tensor


def take_steps(windows: WindowDataset, frame: Frame) -> Steps:
    """Return all steps of the episodes of windows of one step, normalised by a planner's frame."""
    first, last = windows.bounds_of_all()
    following = np.minimum(first + 1, last)
    rows, next_rows = (torch.from_numpy(np.array(windows.rows[part])) for part in (first, following))
    returns, next_returns = (torch.from_numpy(np.array(windows.returns[part])) for part in (first, following))
    actions = frame.action_dim
    return Steps(
        frame.normalise_observations(rows[:, actions:]),
        frame.normalise_actions(rows[:, :actions]),
        returns,
        frame.normalise_observations(next_rows[:, actions:]),
        next_returns,
        torch.from_numpy(first + 1 < last),
    )


@torch.no_grad()
def advantages_of(steps: Steps, value: StateValue, shift: float, scale: float, discount: float) -> Tensor:
    """Return the advantages (S,) of recorded actions: reward + discount * V(next state) - V(state).

    After the last step of an episode nothing is estimated: its return is known.

    Args:
        steps: The steps.
        value: V, of normalised returns.
        shift: Of the returns.
        scale: Of the returns.
        discount: Of the returns.
    """
    before, after = (
        torch.cat([value(part).mean(0) for part in torch.split(observations, _AT_ONCE)]) * scale + shift
        for observations in (steps.observations, steps.next_observations)
    )
    # return = reward + discount * next return; where the episode goes on, V takes the place of the next return.
    estimated = steps.returns + discount * (after - steps.next_returns).where(steps.goes_on, 0)
    return estimated - before
