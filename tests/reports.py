"""Reports made by hand, as the verbs write them."""

import numpy as np

from vgp_lightning.report.statistics import summarize

SPEC = {"entry_point": "gymnasium.envs.mujoco.hopper_v5:HopperEnv", "max_episode_steps": 9, "kwargs": {}}
SETTINGS = {
    **{"batch_size": 4, "planning_horizon": 8, "num_inference_steps": 5, "sampler": "ddim", "n_guide_steps": 2},
    **{"scale": 0.5, "guide_scaling": "variance", "guide_on": "noisy", "t_stopgrad": 2, "max_grad_norm": None},
    **{"rank_by": "value", "choice_temperature": 0.0, "temperature": 1.0, "warm_start_strength": 0.4},
    "replan_every": 1,
}


def make_evaluation(returns, first_seed=10, **replaced):
    """Return what evaluation.json holds for these returns; every third episode fell."""
    statistics = summarize(np.asarray(returns, float))
    episodes = [
        {
            **{"seed": first_seed + i, "sampler_seed": first_seed + i, "return": float(value), "length": 9 - i % 3},
            **{"terminated": i % 3 == 1, "truncated": i % 3 != 1, "success": None, "first_success": None},
            "normalized_score": None,
        }
        for i, value in enumerate(returns)
    ]
    report = {f"return_{name}": value for name, value in vars(statistics).items()}
    report |= dict.fromkeys(("normalized_score", "normalized_score_ci95", "reference", "success_rate"))
    report |= dict.fromkeys(("success_rate_ci95", "first_success_mean", "checkpoints", "video_error", "video"))
    report |= {"length_mean": 8.0, "terminated_share": 0.33, "plan_ms": 5.0, "act_ms": 5.0, "episodes": episodes}
    report |= {"failed_episodes": [], "environments": 4, "env_id": "Hopper-v5", "env_spec": SPEC}
    report |= {"pipeline": "exports/hopper", "weights_sha256": "ab" * 32, "versions": {"vgp_lightning": "0.1.0"}}
    report |= {"device": "cpu", "threads": 1, "settings": SETTINGS, "seed": first_seed, "sampler_seed": first_seed}
    report |= {"delay": 0, "reach_goal": False, "follow_states": False, "options": {"scale": 0.5}, "seconds": 1.0}
    return report | replaced
