"""Sliders: the settings of planning that the page lets change, each with a range around the value that holds."""

from dataclasses import dataclass

from vgp_lightning.play.session import Session


@dataclass(frozen=True)
class Slider:
    """A setting of planning that the page lets change.

    Attributes:
        name: Of the setting.
        label: Above the slider.
        info: Below the label.
        low: Its smallest value.
        high: Its largest.
        step: From one value to the next.
    """

    name: str
    label: str
    info: str
    low: float
    high: float
    step: float


def list_sliders(session: Session) -> list[Slider]:
    """Return the settings to show, with ranges around those that hold."""
    pipeline, resolved = session.deployed.pipeline, session.resolved
    levels, horizon = pipeline.scheduler.config["num_train_timesteps"], resolved["planning_horizon"]
    ranked = pipeline.value_function is not None or resolved["rank_by"] == "critic"
    choice = "plans to choose from" if ranked else "plans; nothing ranks them, so the first is taken"
    sliders = [
        Slider("batch_size", "Candidates", choice, 1, max(64, resolved["batch_size"]), 1),
        Slider("num_inference_steps", "Denoising steps", "more are slower", 1, levels, 1),
        Slider("temperature", "Temperature", "factor on the noise", 0, max(2.0, resolved["temperature"]), 0.05),
        Slider("replan_every", "Replanning interval", "steps of a plan; 0: one plan an episode", 0, horizon, 1),
    ]
    if pipeline.value_function is None:
        return sliders
    widest = max(1.0, 10 * abs(resolved["scale"]))
    scale = Slider("scale", "Guidance scale", "how far a guide step climbs the value", 0, widest, widest / 100)
    most = max(5, resolved["n_guide_steps"])
    guide = Slider("n_guide_steps", "Guide steps", "per denoising step; 0: no guidance", 0, most, 1)
    return [scale, guide, *sliders]
