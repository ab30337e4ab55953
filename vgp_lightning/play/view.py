"""View: what the page shows of a visit, as HTML.

Shapes: L steps of the episode so far, H steps of a plan, A action and O observation dimensions, T = A + O.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from vgp_lightning.agent.deployment import Deployment
from vgp_lightning.play.drawing import draw_maze, draw_steps, draw_values
from vgp_lightning.play.session import Session
from vgp_lightning.play.visitors import Visit
from vgp_lightning.report.names import name_dimensions

_PANELS, _ACTIONS = 6, 2  # dimensions that are shown first, and how many of them are actions


@dataclass(frozen=True)
class View:
    """What the page shows.

    Attributes:
        frame: The environment; this and the next three are HTML.
        plans: The plans in the maze, or the dimensions over the steps.
        values: Predicted returns, and the return so far.
        status: Step, return and the duration of the last planning call.
        running: Whether the session plays on by itself.
        ended: Whether the episode has ended.
    """

    frame: str
    plans: str
    values: str
    status: str
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


def show_message(text: str) -> str:
    """Return a message for the visitor; of no text, nothing."""
    return f'<p class="message" role="alert">{escape(text)}</p>' if text else ""


def _show_frame(session: Session) -> str:
    frame, error = session.draw_frame()
    if frame is None:
        return f'<p class="notice">There is no picture of the environment: {escape(error or "")}.</p>'
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, format="JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="The environment at step {len(session.log.rewards)}" src="data:image/jpeg;base64,{data}">'


def _show_plans(session: Session, dimensions: Sequence[int]) -> str:
    if not session.plans:
        return '<p class="notice">There is no plan yet.</p>'
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
        return '<p class="notice">No dimension is chosen.</p>'
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


def _show_values(session: Session) -> str:
    if not session.plans:
        return ""
    plans = session.plans
    return draw_values(
        [planned.values for planned in plans],
        [planned.value for planned in plans],
        [planned.step for planned in plans],
        session.log.rewards,
    )


def _show_status(session: Session) -> str:
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
    if session.goal_moved:
        parts["goal"] = "moved by you: reward and success are for it"
    if session.ended is not None:
        parts["ended"] = session.ended
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in parts.items())
    return f'<dl class="status" role="status">{rows}</dl>'
