"""``vgp distill``: train a habit on a planner's own candidates, and put it into the planner's folder.

Shapes: S states, C actions of an answer, A action and O observation dimensions, in the environment's units.
"""

import time
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from rich.console import Console

from vgp_lightning.agent.deployment import Deployment
from vgp_lightning.agent.environments import check_seed
from vgp_lightning.distillation.fitting import check_options, fit
from vgp_lightning.distillation.states import draw_recorded, play_episodes, thin, visit
from vgp_lightning.distillation.teaching import Teacher
from vgp_lightning.export.folder import write_habit
from vgp_lightning.pipeline.habit import Habit, hash_teacher
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.report.files import refuse_links, write_report
from vgp_lightning.report.folders import prepare
from vgp_lightning.training.habit import HabitModule, make_loaders

# The episodes in which states are visited begin here: far from those of collected episodes (from 0) and of evaluations
# (from 1 000 000), and as many further on in each round.
_FIRST_SEED, _SEEDS_OF_A_ROUND = 2_000_000, 100_000
_SPREAD = 4  # consecutive states are nearly the same, so one of so many that the habit meets is kept
_TIMED = 1000  # answers


def distill(
    pipeline_folder: str,
    output_dir: str | None = None,
    *,
    chunk: int = 4,
    recorded_states: int = 6000,
    planned_states: int = 12_000,
    rounds: int = 1,
    visited_states: int = 6000,
    action_noise: float = 0.1,
    value_temperature: float = 3.0,
    widths: list[int] | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    warmup_steps: int = 100,
    samples_per_step: int = 256,
    max_steps: int = 10_000,
    validation_share: float = 0.05,
    networks: int = 3,
    trial_episodes: int = 50,
    seed: int = 0,
    dataset_id: list[str] | None = None,
    env_id: str | None = None,
    trust_environment: bool = False,
    environments: int = 16,
    max_episode_steps: int | None = None,
    device: str = "auto",
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Add a habit to an exported planner's folder: a small network that answers with a plan's first actions at once.

    The planner is asked in states of its training data, in those that it comes to when it acts itself, and in those
    that the habit comes to (DAgger, Ross et al. 2011). The habit learns the mean of the candidates' first actions,
    weighted by their values. Trainings differ in what they return, so of several networks the one is kept that returns
    most.
    It replaces the habit that was in the folder, atomically; an interrupted run leaves that one as it was, and begins
    anew. configs/habit.yaml has the options with their reasons.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        output_dir: Where TensorBoard's events and distillation.json go; by default runs/distill/ and the folder's name.
        chunk: Actions of an answer, at most the plan's steps; an agent executes the first ``replan_every`` of them.
        recorded_states: States of the training data to plan from.
        planned_states: States that the planner comes to when it acts itself, with some noise.
        rounds: How often the habit acts, and the planner is asked in the states that it comes to.
        visited_states: States of each round.
        action_noise: Standard deviation of the noise with which planner and habit act then, in those of the data's
            actions.
        value_temperature: Temperature of the softmax that weighs the candidates of a state, in standard deviations of
            their values; 0: the best candidate alone.
        widths: Of the hidden layers; by default 512, 512, 512.
        learning_rate: The highest, after the warm-up; a cosine takes it to zero.
        weight_decay: Of AdamW.
        warmup_steps: Steps in which the learning rate rises from zero.
        samples_per_step: States in a batch of training.
        max_steps: Training steps of each round, which begins with new weights.
        validation_share: Share of the states that is held out of the training, to measure the error.
        networks: Networks that learn from all states in the end, with other random numbers; the one that returns most
            when it acts is kept.
        trial_episodes: Episodes in which each of these acts, the same for all.
        seed: Of all random numbers.
        dataset_id: Where the recorded states come from; by default the datasets of the planner's training.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        trust_environment: Make the environment that the folder specifies even if it is not the one that gymnasium or
            gymnasium-robotics registers under its id. This runs whatever code the folder names.
        environments: Environments that the habit acts in at the same time.
        max_episode_steps: Time limit of an episode; by default the environment's own.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu. The habit is
            trained on the CPU.
        settings: Those of the teacher, in place of the folder's.

    Returns:
        What distillation.json holds.

    Raises:
        ValueError: If an option is out of range, the folder is not a planner's, a dataset is missing, or the planner
            does not fit the environment.
        OSError: If a folder cannot be written.
    """
    start = time.perf_counter()
    widths = [512, 512, 512] if widths is None else widths
    check_options(
        recorded_states=(recorded_states, 0, 10**7),
        planned_states=(planned_states, 0, 10**7),
        rounds=(rounds, 0, 100),
        visited_states=(visited_states, 1, 10**7),
        action_noise=(action_noise, 0, 1e6),
        value_temperature=(value_temperature, 0, 1e9),
        learning_rate=(learning_rate, 0, 1e3),
        weight_decay=(weight_decay, 0, 1e3),
        warmup_steps=(warmup_steps, 0, 10**9),
        samples_per_step=(samples_per_step, 1, 10**7),
        max_steps=(max_steps, 1, 10**9),
        validation_share=(validation_share, 0, 0.9),
        networks=(networks, 1, 100),
        trial_episodes=(trial_episodes, 1, 10**6),
        environments=(environments, 1, 10**4),
    )
    check_seed(seed)
    deployed = Deployment(pipeline_folder, env_id, device, trust_environment)
    pipeline, folder = deployed.pipeline, deployed.folder
    refuse_links(folder)
    if not (recorded_states or planned_states):
        raise ValueError("recorded_states and planned_states are 0: a habit learns from one of them at least")
    resolved = pipeline.resolve_settings(**settings)
    _check_chunk(chunk, resolved)
    with torch.device("meta"):  # refuses widths before there is any work
        Habit(pipeline.normalization, chunk, widths)
    names = (pipeline.task.get("dataset_id") if dataset_id is None else dataset_id) or []
    if recorded_states and not names:
        raise ValueError(
            f"{folder} does not name the datasets that it was trained on: give them, --dataset_id '[ID]', or "
            "leave them out, --recorded_states 0"
        )
    output = Path(output_dir) if output_dir is not None else Path("runs", "distill", folder.resolve().name)
    say = Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print

    def learn(number: int, network: int) -> tuple[HabitModule, dict[str, float]]:
        samples = teacher.pairs
        with torch.random.fork_rng():
            torch.manual_seed(seed + network)
            module = HabitModule(pipeline.normalization, chunk, widths, learning_rate, weight_decay, warmup_steps)
        generator = torch.Generator().manual_seed(seed + network)
        loaders = make_loaders(samples, validation_share, samples_per_step, max_steps, generator)
        name = f"round_{number}" + (f"_network_{network}" if network else "")
        found = fit(module, loaders, output, name, max_steps)
        say(f"learned from {len(samples[0])} states, error {found['val/habit_loss']:.4f} on those held out")
        return module, found

    teacher, every = Teacher(pipeline, chunk, value_temperature, seed, resolved), resolved["replan_every"]
    frame, first = pipeline.frame, _FIRST_SEED + seed
    with deployed.environments(environments, max_episode_steps=max_episode_steps) as vector:
        recorded = draw_recorded(names, recorded_states, seed) if recorded_states else None
        prepare(output)
        deployed.choose_threads(environments, **settings)
        if recorded is not None:
            say(f"planning from {len(recorded)} recorded states")
            teacher.ask(recorded)
        if planned_states:
            say(f"planning from {planned_states} states that the planner comes to")
            visit(teacher.answer, frame, vector, planned_states, every, action_noise, first)
        for number in range(rounds):
            student = learn(number, 0)[0].network.eval()
            first += _SEEDS_OF_A_ROUND
            met = visit(student.answer, student.frame, vector, _SPREAD * visited_states, every, action_noise, first)
            say(f"planning from {visited_states} states that the habit came to")
            teacher.ask(thin(met, visited_states, first))
        learned, returns = [learn(rounds, network) for network in range(networks)], []
        for network, (module, _) in enumerate(learned):
            student = module.network.eval()
            played = play_episodes(
                student.answer, student.frame, vector, trial_episodes, every, first + _SEEDS_OF_A_ROUND
            )
            returns.append(float(np.mean(played)))
            say(f"network {network} returned {returns[-1]:.1f} in {trial_episodes} episodes")
    module, errors = learned[int(np.argmax(returns))]
    taught = {
        "sha256": hash_teacher(pipeline.unet, pipeline.value_function, pipeline.normalization),
        "settings": dict(resolved),
    }
    habit = Habit(pipeline.normalization, chunk, widths, taught)
    habit.load_state_dict(module.network.state_dict())
    write_habit(habit, folder)
    report = {
        "pipeline": str(folder),
        "settings": dict(resolved),
        "states": len(teacher),
        "error": errors["val/habit_loss"],
        "error_first_action": errors["val/habit_first_action"],
        "returns": returns,
        "variance": float(pipeline.frame.normalise_actions(teacher.pairs[1]).var(0, correction=0).mean()),
        "threads": torch.get_num_threads(),
        "answers_per_second": count_answers(habit, pipeline),
        "seconds": time.perf_counter() - start,
    }
    write_report(report, output / "distillation.json")
    _print(report, folder, output, settings)
    return report


def _check_chunk(chunk: int, settings: Settings) -> None:
    """Refuse a chunk that is longer than the plans, or shorter than what an agent executes of it."""
    horizon, every = settings["planning_horizon"], settings["replan_every"]
    if every == 0:
        raise ValueError(
            "replan_every is 0, one plan per episode, but a habit answers with the first actions of a plan: give "
            f"--replan_every between 1 and {horizon}"
        )
    if not every <= chunk <= horizon:
        raise ValueError(
            f"chunk is {chunk}: a number between replan_every, which is {every}, and planning_horizon, which is "
            f"{horizon}, is needed"
        )


def count_answers(habit: Habit, pipeline: ValueGuidedPlannerPipeline) -> float:
    """Return how many observations a habit answers in a second, one after the other: one by the median time."""
    observation = pipeline.frame.shift[pipeline.action_dim :].numpy()  # the mean of the data
    seconds = []
    for _ in range(_TIMED):
        begin = time.perf_counter()
        habit.answer(observation)
        seconds.append(time.perf_counter() - begin)
    return 1 / float(np.median(seconds))


def _print(report: dict[str, Any], folder: Path, output: Path, settings: Settings) -> None:
    """Print what the habit learned, and the commands that compare it with its teacher."""
    options = "".join(f" --{name} {'null' if value is None else value}" for name, value in settings.items())
    evaluation = f"vgp evaluate {folder} --episodes 50{options}"
    Console(markup=False, highlight=False, soft_wrap=True).print(
        f"habit written to {folder / 'habit'}, from {report['states']} states in {report['seconds']:.0f} s\n"
        f"squared error on held-out states: {report['error']:.4f}, {report['error_first_action']:.4f} of the first "
        f"action (variance {report['variance']:.3f})\n"
        f"return: {max(report['returns']):.1f} in the episodes by which it was chosen from {len(report['returns'])}\n"
        f"answers: {report['answers_per_second']:.0f} a second\n"
        "compare it with its teacher:\n"
        f"  {evaluation} --output_dir {output}/teacher\n"
        f"  {evaluation} --output_dir {output}/habit --habit true\n"
        f"  vgp compare {output}/teacher {output}/habit"
    )
