"""View: what the page shows of a visit, as HTML.

Shapes: L steps of the episode so far, H steps of a plan, A action and O observation dimensions, T = A + O.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vgp_lightning.agent.deployment import Deployment
from vgp_lightning.play.drawing import draw_maze, draw_steps, draw_values
from vgp_lightning.play.session import Session
from vgp_lightning.play.visitors import Visit
from vgp_lightning.report.markup import Markup, tag
from vgp_lightning.report.names import name_dimensions

_PANELS, _ACTIONS = 6, 2  # dimensions that are shown first, and how many of them are actions


@dataclass(frozen=True)
class View:
    """What the page shows.

    Attributes:
        frame: The environment.
        plans: The plans in the maze, or the dimensions over the steps.
        values: Predicted returns, and the return so far.
        status: Step, return and the duration of the last planning call.
        running: Whether the session plays on by itself.
        ended: Whether the episode has ended.
    """

    frame: Markup
    plans: Markup
    values: Markup
    status: Markup
    running: bool
    ended: bool


def list_names(deployed: Deployment) -> list[str]:
    """Return the names of the T dimensions of a plan, each once."""
    pipeline = deployed.pipeline
    names = name_dimensions(deployed.env_id, pipeline.action_dim, pipeline.observation_dim)
    return [*names.actions, *names.observations]


def first_dimensions(actions: int, observations: int) -> list[int]:
    """Return the dimensions that are shown until others are chosen."""
    shown = min(actions, _ACTIONS)
    return [*range(shown), *range(actions, actions + min(observations, _PANELS - shown))]


def view(visit: Visit) -> View:
    """Return what the page shows of a visit."""
    session = visit.session
    return View(
        frame=_show_frame(session),
        plans=_show_plans(session, visit.dimensions),
        values=_show_values(session),
        status=_show_status(session),
        running=visit.running,
        ended=session.ended is not None,
    )


def show_message(text: str) -> Markup:
    """Return a message for the visitor; of no text, nothing."""
    return tag("p", text, class_="message", role="alert") if text else Markup()


def _notice(text: str) -> Markup:
    return tag("p", text, class_="notice")


def _show_frame(session: Session) -> Markup:
    frame, error = session.draw_frame()
    if frame is None:
        return _notice(f"There is no picture of the environment: {error}.")
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, format="JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode()
    alt = f"The environment at step {len(session.log.rewards)}"
    return tag("img", alt=alt, src=f"data:image/jpeg;base64,{data}")


def _show_plans(session: Session, dimensions: Sequence[int]) -> Markup:
    if not session.plans:
        return _notice("There is no plan yet.")
    planned, actions = session.plans[-1], session.deployed.pipeline.action_dim
    if session.maze is not None:
        place = session.maze.position
        return draw_maze(
            session.maze,
            session.observations()[:, place],
            planned.plan[:, actions:][:, place],
            planned.candidates[..., actions:][..., place],
            session.observation[session.maze.goal],
        )
    if not dimensions:
        return _notice("No dimension is chosen.")
    observations = session.observations()
    done = np.array(session.log.actions, dtype=np.float64).reshape(-1, actions)
    done = np.vstack([done, np.full((1, actions), np.nan)])  # what is done now is not done yet
    shown, now = list(dimensions), len(observations) - 1
    names = list_names(session.deployed)
    # One that half of the plan's steps have passed of since: what it foresaw lies beside what came.
    since = [each for each in session.plans[:-1] if each.step <= now - len(planned.plan) // 2]
    return draw_steps(
        [names[i] for i in shown],
        np.hstack([done, observations])[:, shown],
        planned.plan[:, shown],
        planned.candidates[..., shown],
        planned.step,
        (since[-1].step, since[-1].plan[:, shown]) if since else None,
    )


def _show_values(session: Session) -> Markup:
    if not session.plans:
        return Markup()
    plans = session.plans
    return draw_values(
        [planned.values for planned in plans],
        [planned.value for planned in plans],
        [planned.step for planned in plans],
        session.log.rewards,
    )


def _show_status(session: Session) -> Markup:
    parts = {"seed": f"{session.seed}", "step": f"{len(session.log.rewards)}"}
    parts["return so far"] = f"{session.log.total_reward:,.4g}"
    if session.plans:
        planned = session.plans[-1]
        parts["last planning call"] = f"{planned.milliseconds:,.0f} ms"
        if np.isfinite(planned.value):
            parts["predicted return"] = f"{planned.value:,.4g}"
    if session.log.reports_success:
        first = session.log.first_success
        parts["success"] = "not yet" if first is None else f"at step {first}"
    if session.maze is not None:
        x, y = session.observation[session.maze.goal]
        parts["goal"] = f"({x:.2f}, {y:.2f})" + ", moved by you: reward and success are for it" * session.goal_moved
    if session.ended is not None:
        parts["ended"] = session.ended
    rows = [tag("div", tag("dt", name), tag("dd", text)) for name, text in parts.items()]
    return tag("dl", *rows, class_="status", role="status")
