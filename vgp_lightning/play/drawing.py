"""Drawing: the plans of a session as SVG pictures. Arrays in, markup out.

The page shows new pictures several times a second, which takes a few milliseconds as SVG and half a second with
Matplotlib. The classes of the lines (``plan``, ``many``, ``past``, ``wall``) get their colours, light and dark, from
the style sheet of the page.

Shapes: K candidates, H steps of a plan, L steps of the episode so far, D dimensions, P plans so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from vgp_lightning.agent.mazes import Maze
from vgp_lightning.report.markup import Markup, join, tag

_MOST_LINES = 64  # candidates; more would hide each other
_WIDTH, _HEIGHT = 320, 130  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 8, 20, 18  # margins of a panel
_MAZE_WIDTH = 400


# ---------------------------------------------------------------- a maze from above


def draw_maze(maze: Maze, path: ArrayLike, plan: ArrayLike, candidates: ArrayLike, goal: ArrayLike) -> Markup:
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
    size = {"width": f"{side:.1f}", "height": f"{side:.1f}"}
    corners = place(maze.walls) - side / 2
    walls = [tag("rect", class_="wall", x=f"{x:.1f}", y=f"{y:.1f}", **size) for x, y in corners]
    lines = [_line(place(line), "many") for line in np.asarray(candidates)[:_MOST_LINES]]
    walked, (star_x, star_y) = place(path), place(goal)
    parts = [*walls, *lines, _line(walked, "past"), _line(place(plan), "plan")]
    parts += [_dot(walked[-1], 6, "now"), _star(star_x, star_y, 13)]
    (x, y), (goal_x, goal_y) = np.asarray(path)[-1], np.asarray(goal)
    what = f"The maze from above, with the plans from ({x:.2f}, {y:.2f}) and the goal at ({goal_x:.2f}, {goal_y:.2f})"
    return _svg(parts, _MAZE_WIDTH, (top - bottom) * unit, what)


def locate(maze: Maze, across: float, down: float) -> tuple[float, float]:
    """Return the place (x, y) in a maze that ``draw_maze`` shows at these shares of the picture's width and height.

    Args:
        maze: The maze.
        across: 0 at the left edge, 1 at the right.
        down: 0 at the upper edge, 1 at the lower.
    """
    (left, bottom), (right, top) = maze.corners
    return left + across * (right - left), top - down * (top - bottom)


def _star(x: float, y: float, radius: float) -> Markup:
    angles = np.pi * (np.arange(10) / 5 - 0.5)
    radii = np.where(np.arange(10) % 2, 0.42 * radius, radius)
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    return tag("polygon", class_="goal", points=_points(points))


# ---------------------------------------------------------------- numbers over steps


def draw_steps(
    names: Sequence[str],
    realised: ArrayLike,
    plan: ArrayLike,
    candidates: ArrayLike,
    made_at: int,
    earlier: tuple[int, NDArray[np.floating]] | None,
) -> Markup:
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
    return join(panels)


def draw_values(
    values: Sequence[NDArray[np.floating]], chosen: ArrayLike, steps: ArrayLike, rewards: ArrayLike
) -> Markup:
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
    return join([now.draw(), then.draw(), summed.draw()])


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

    def draw(self) -> Markup:
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

        parts = [tag("text", self.title, class_="title", x=4, y=12)]
        for tick in _ticks(low, high, 3):
            y = float(down(tick))
            parts.append(_rule("grid", (_LEFT, right), (y, y)))
            parts.append(tag("text", _label(tick), x=_LEFT - 4, y=f"{y + 3:.1f}", text_anchor="end"))
        for tick in _ticks(begin, end, 5):
            if tick == int(tick):
                x = f"{float(across(tick)):.1f}"
                parts.append(tag("text", int(tick), x=x, y=_HEIGHT - 5, text_anchor="middle"))
        if self.marked is not None:
            x_marked = float(across(self.marked))
            parts.append(_rule("mark", (x_marked, x_marked), (_TOP, bottom)))
        for steps, line, kind in self.lines:
            points = np.stack([across(steps), down(line)], axis=1)
            parts += [_dot(point, 2.5, kind) for point in points] if "dots" in kind else [_line(points, kind)]
        return _svg(parts, _WIDTH, _HEIGHT, self.title)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return about so many round numbers in a range."""
    return [float(tick) for tick in MaxNLocator(count).tick_values(low, high) if low <= tick <= high]


def _label(tick: float) -> str:
    """Return a number of a scale as text."""
    return "0" if abs(tick) < 1e-12 else f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:.4g}"


def _svg(parts: Sequence[Markup], width: float, height: float, what: str) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {width:g} {height:.1f}", role="img", aria_label=what)


def _line(points: NDArray[np.float64], kind: str) -> Markup:
    """Return a line; of a single point, a dot, as the ends of lines are round."""
    points = np.repeat(points, 2, axis=0) if len(points) == 1 else points
    return tag("polyline", class_=kind, points=_points(points))


def _rule(kind: str, across: tuple[float, float], down: tuple[float, float]) -> Markup:
    ends = {"x1": across[0], "x2": across[1], "y1": down[0], "y2": down[1]}
    return tag("line", class_=kind, **{name: f"{end:.1f}" for name, end in ends.items()})


def _dot(place: NDArray[np.float64], radius: float, kind: str) -> Markup:
    return tag("circle", class_=kind, cx=f"{place[0]:.1f}", cy=f"{place[1]:.1f}", r=radius)


def _points(points: NDArray[np.float64]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points.tolist())
