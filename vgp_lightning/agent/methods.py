"""Methods: how a planner planned and acted, in sentences for a paper, made from the settings of a report."""

from collections.abc import Mapping
from typing import Any

from vgp_lightning.pipeline.settings import DEFAULTS, warm_steps
from vgp_lightning.report.references import plain

_SAMPLERS = {
    "ddpm": "DDPM's ancestral sampler {ddpm}",
    "ddim": "DDIM {ddim}",
    "dpmsolver": "DPM-Solver++ {dpmsolver}",
    "unipc": "UniPC {unipc}",
}


def describe_planning(report: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return sentences on the environment and on the planner.

    Args:
        report: Of an evaluation, a search or a diagnosis.
        settings: The planner's; those that an earlier version did not have are missing.
    """
    settings = {**DEFAULTS, **settings}
    where = f"The environment is {plain(report['env_id'])} of Gymnasium {{gymnasium}}"
    if "mujoco" in str(report.get("env_spec")):
        where += ", simulated by MuJoCo {mujoco}"
    horizon, count = settings["planning_horizon"], settings["batch_size"]
    if report.get("habit") is not None:
        return [
            f"{where}.",
            "A small network acts, which was trained on the actions of a diffusion planner {planning}; "
            f"that planner makes plans of {plain(horizon)} steps.",
        ]
    steps = settings["num_inference_steps"]
    sampler = _SAMPLERS.get(settings["sampler"], "the scheduler that the denoiser was trained with {ddpm}")
    denoising = "as many denoising steps as in training" if steps is None else f"{plain(steps)} denoising steps"
    sentences = [
        f"{where}.",
        "A diffusion model over trajectories of observations and actions {planning} makes plans of "
        f"{plain(horizon)} steps that begin at the present observation, in {denoising} of {sampler}.",
    ]
    if settings["n_guide_steps"] and settings["scale"]:
        what = "the predicted clean plan" if settings["guide_on"] == "clean" else "the noisy plan"
        guides = settings["n_guide_steps"]
        sentences.append(
            "Each denoising step is guided by the gradient of a learned return {planning}, after classifier guidance "
            f"{{guidance}}: {plain(guides)} gradient step{'s' if guides != 1 else ''} on {what} with scale "
            f"{plain(settings['scale'])}."
        )
    else:
        sentences.append("Sampling is not guided.")
    if count != 1:
        critic = settings["rank_by"] == "critic"
        rank = "a critic of its first action" if critic else "its predicted return"
        if not critic and not report.get("value_function", True):
            sentences.append(f"Of {plain(count)} candidates the first is executed, since nothing ranks them.")
        elif settings["choice_temperature"]:
            sentences.append(f"{plain(count)} candidates are averaged with weights by {rank}.")
        else:
            sentences.append(f"Of {plain(count)} candidates the one with the best value is executed, by {rank}.")
    every = settings["replan_every"]
    again = (
        "One plan is made an episode"
        if every == 0
        else f"A new plan is made {'at every step' if every == 1 else f'every {plain(every)} steps'}"
    )
    if every and steps is not None and warm_steps(settings) < steps:
        again += f", from the last plan noised again (warm start, {warm_steps(settings)} denoising steps)"
    sentences.append(f"{again}.")
    if report.get("delay"):
        sentences.append(f"A plan is executed {plain(report['delay'])} steps after its observation.")
    if report.get("reach_goal"):
        sentences.append("Plans are conditioned to end at the goal {planning}.")
    if report.get("follow_states"):
        sentences.append("A position controller follows the states of the plans.")
    return sentences


INTERVALS = (
    "Intervals of means are 95 % bootstrap percentile intervals with the tails widened for small samples {bootstrap}."
)
PAIRS = (
    "Planners are compared on the same seeds; p-values are of the paired permutation test of the mean, whose inversion "
    "gives the interval of the difference {hartigan}."
)
