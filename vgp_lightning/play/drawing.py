"""Drawing: the plans of a session as SVG pictures. Arrays in, markup out.

The page shows new pictures several times a second, which takes a few milliseconds as SVG and half a second with
Matplotlib. The classes of the lines (``plan``, ``many``, ``past``, ``wall``) get their colours, light and dark, from
the style sheet of the page.

Shapes: K candidates, H steps of a plan, L steps of the episode so far, D dimensions, P plans so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from vgp_lightning.agent.mazes import Maze

_MOST_LINES = 64  # candidates; more would hide each other
_WIDTH, _HEIGHT = 320, 130  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 8, 20, 18  # margins of a panel
_MAZE_WIDTH = 400


# ---------------------------------------------------------------- a maze from above


def draw_maze(maze: Maze, path: ArrayLike, plan: ArrayLike, candidates: ArrayLike, goal: ArrayLike) -> str:
    """Draw a maze with the path so far, the plan, the candidates and the goal (a star), without a margin.

    Args:
        maze: The maze.
        path: (L + 1, 2), positions so far.
        plan: (H, 2).
        candidates: (K, H, 2).
        goal: (2,).
    """
    (left, bottom), (right, top) = maze.corners
    unit = _MAZE_WIDTH / (right - left)

    def place(points: ArrayLike) -> NDArray[np.float64]:
        xy = np.asarray(points, dtype=np.float64)
        return np.stack([(xy[..., 0] - left) * unit, (top - xy[..., 1]) * unit], axis=-1)

    side = maze.width * unit
    corners = place(maze.walls) - side / 2
    walls = "".join(f'<rect class="wall" x="{x:.1f}" y="{y:.1f}" {_square(side)}/>' for x, y in corners)
    lines = "".join(_line(place(line), "many") for line in np.asarray(candidates)[:_MOST_LINES])
    walked, (star_x, star_y) = place(path), place(goal)
    x, y = walked[-1]
    height = (top - bottom) * unit
    return (
        f'<svg viewBox="0 0 {_MAZE_WIDTH} {height:.1f}" role="img" aria-label="The maze from above, with the plans">'
        f"{walls}{lines}{_line(walked, 'past')}{_line(place(plan), 'plan')}"
        f'<circle class="now" cx="{x:.1f}" cy="{y:.1f}" r="6"/>{_star(star_x, star_y, 13)}</svg>'
    )


def locate(maze: Maze, across: float, down: float) -> tuple[float, float]:
    """Return the place (x, y) in a maze that ``draw_maze`` shows at these shares of the picture's width and height.

    Args:
        maze: The maze.
        across: 0 at the left edge, 1 at the right.
        down: 0 at the upper edge, 1 at the lower.
    """
    (left, bottom), (right, top) = maze.corners
    return left + across * (right - left), top - down * (top - bottom)


def _square(side: float) -> str:
    return f'width="{side:.1f}" height="{side:.1f}"'


def _star(x: float, y: float, radius: float) -> str:
    angles = np.pi * (np.arange(10) / 5 - 0.5)
    radii = np.where(np.arange(10) % 2, 0.42 * radius, radius)
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    return f'<polygon class="goal" points="{_points(points)}"/>'


# ---------------------------------------------------------------- numbers over steps


def draw_steps(
    names: Sequence[str],
    realised: ArrayLike,
    plan: ArrayLike,
    candidates: ArrayLike,
    made_at: int,
    earlier: tuple[int, NDArray[np.floating]] | None,
) -> str:
    """Draw dimensions over the steps of the episode: as they were, as they are planned, and as they were planned.

    Args:
        names: Names of the D dimensions.
        realised: (L + 1, D), the last row of the present step; NaN for what is not known yet.
        plan: (H, D).
        candidates: (K, H, D).
        made_at: The step that the plan and the candidates begin at.
        earlier: Step and numbers (H, D) of an earlier plan, drawn dashed; None: there is none.
    """
    past, planned, others = np.asarray(realised), np.asarray(plan), np.asarray(candidates)[:_MOST_LINES]
    horizon, now = len(planned), len(past) - 1
    first = max(0, now - horizon)
    ahead, before = np.arange(made_at, made_at + horizon), np.arange(first, now + 1)
    panels = []
    for i, name in enumerate(names):
        panel = _Panel(name, (first, max(now + 1, made_at + horizon)), marked=now)
        for line in others[:, :, i]:
            panel.add(ahead, line, "many")
        if earlier is not None:
            panel.add(np.arange(earlier[0], earlier[0] + horizon), earlier[1][:, i], "plan earlier")
        panel.add(before, past[first:, i], "past")
        panel.add(ahead, planned[:, i], "plan")
        panels.append(panel.draw())
    return "".join(panels)


def draw_values(values: Sequence[NDArray[np.floating]], chosen: ArrayLike, steps: ArrayLike, rewards: ArrayLike) -> str:
    """Draw the candidates' predicted returns now, those of all plans so far, and the return so far.

    Args:
        values: Predicted returns (K,) of each plan's candidates, P arrays; NaN without a value function.
        chosen: (P,), those of the plans.
        steps: (P,), the steps that the plans were made for.
        rewards: (L,).
    """
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(rewards, dtype=np.float64))])
    summed = _Panel("return so far", (0, max(1, len(sums) - 1)))
    summed.add(np.arange(len(sums)), sums, "past")
    if not np.isfinite(values[-1]).any():
        return summed.draw()
    last, plans, made = np.asarray(values[-1]), np.asarray(chosen), np.asarray(steps)
    now = _Panel("predicted return of the candidates, best first", (0.5, len(last) + 0.5))
    now.add(np.arange(1, len(last) + 1), last, "many dots")
    now.add(np.array([0.5, len(last) + 0.5]), np.repeat(plans[-1], 2), "plan")
    then = _Panel("predicted return: the plan, best and worst candidate", (0, max(1, len(sums) - 1)))
    then.add(made, np.array([np.nanmin(each) for each in values]), "many")
    then.add(made, np.array([np.nanmax(each) for each in values]), "many")
    then.add(made, plans, "plan")
    return now.draw() + then.draw() + summed.draw()


@dataclass
class _Panel:
    """Lines over steps, with a title, a scale and a grid.

    Attributes:
        title: Above the lines.
        span: The steps at its left and right edge.
        marked: A step that is marked by a vertical line; None: none is.
        lines: Steps (n,), numbers (n,) and class of each line.
    """

    title: str
    span: tuple[float, float]
    marked: float | None = None
    lines: list[tuple[NDArray[np.float64], NDArray[np.float64], str]] = field(default_factory=list)

    def add(self, steps: NDArray[np.number], numbers: NDArray[np.floating], kind: str) -> None:
        """Add a line, without what is outside the span or not finite."""
        inside = (steps >= self.span[0]) & (steps <= self.span[1]) & np.isfinite(numbers)
        if inside.any():
            self.lines.append((steps[inside].astype(np.float64), numbers[inside].astype(np.float64), kind))

    def draw(self) -> str:
        """Return the panel as SVG."""
        numbers = np.concatenate([line for _, line, _ in self.lines] or [np.zeros(1)])
        low, high = float(numbers.min()), float(numbers.max())
        slack = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
        low, high = low - slack, high + slack
        begin, end = self.span
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

        def across(steps: ArrayLike) -> NDArray[np.float64]:
            return _LEFT + (np.asarray(steps) - begin) / (end - begin) * (right - _LEFT)

        def down(heights: ArrayLike) -> NDArray[np.float64]:
            return bottom - (np.asarray(heights) - low) / (high - low) * (bottom - _TOP)

        parts = [f'<text class="title" x="4" y="12">{escape(self.title)}</text>']
        for tick in _ticks(low, high, 3):
            y = float(down(tick))
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{_label(tick)}</text>')
        for tick in _ticks(begin, end, 5):
            if tick == int(tick):
                x = float(across(tick))
                parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 5}" text-anchor="middle">{int(tick)}</text>')
        if self.marked is not None:
            x = float(across(self.marked))
            parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        for steps, line, kind in self.lines:
            points = np.stack([across(steps), down(line)], axis=1)
            if "dots" in kind:
                parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points]
            else:
                parts.append(_line(points, kind))
        label = escape(self.title, quote=True)
        return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return about so many round numbers in a range."""
    return [float(tick) for tick in MaxNLocator(count).tick_values(low, high) if low <= tick <= high]


def _label(tick: float) -> str:
    """Return a number of a scale as text."""
    return "0" if abs(tick) < 1e-12 else f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:.4g}"


def _line(points: NDArray[np.float64], kind: str) -> str:
    """Return a line; of a single point, a dot, as the ends of lines are round."""
    points = np.repeat(points, 2, axis=0) if len(points) == 1 else points
    return f'<polyline class="{kind}" points="{_points(points)}"/>'


def _points(points: NDArray[np.float64]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points.tolist())
