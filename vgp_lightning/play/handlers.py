"""Handlers: what the controls of the page do for the visitor who uses them, and what the page then shows."""

import traceback
from collections.abc import Callable, Iterator
from typing import Any

from vgp_lightning.agent.mazes import need_maze
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.play.drawing import locate
from vgp_lightning.play.view import View, show_message, view
from vgp_lightning.play.visitors import Visit, Visitors


def take_step(visit: Visit) -> None:
    """Execute one step, and stop a run."""
    visit.running = False
    visit.session.step()


def pause(visit: Visit) -> None:
    """Stop a run."""
    visit.running = False


def reset(visit: Visit, seed: int | None) -> None:
    """Begin the episode of a seed.

    Raises:
        ValueError: If there is none, or it is wrong.
    """
    if seed is None:
        raise ValueError("the seed is empty: a whole number from 0 on is needed")
    visit.session.reset(seed)


def set_pace(visit: Visit, pace: int) -> None:
    """Set how many steps a run takes from one picture to the next."""
    visit.pace = int(pace)


def steer(visit: Visit, reach_goal: bool, follow_states: bool) -> None:
    """Say how a maze is played, as ``Session.steer``."""
    visit.session.steer(reach_goal, follow_states)


def aim(visit: Visit, x: float | None, y: float | None) -> None:
    """Move the goal of the maze to a place.

    Raises:
        ValueError: If a number is missing, or the place is no free cell.
    """
    if x is None or y is None:
        raise ValueError("the goal needs two numbers: its x and its y in the maze")
    visit.session.aim(x, y)


def changing(name: str) -> Callable[[Visit, float], None]:
    """Return what changes a setting of planning."""

    def change(visit: Visit, value: float) -> None:
        settings: Settings = {name: value}  # type: ignore[misc]
        visit.session.change(**settings)

    return change


def showing(names: list[str]) -> Callable[[Visit, list[str]], None]:
    """Return what chooses the dimensions that are drawn, by their names."""

    def show(visit: Visit, chosen: list[str]) -> None:
        visit.dimensions = [names.index(name) for name in chosen]

    return show


class Handlers:
    """Gradio's handlers: each does something for the visitor who calls, and returns what the page then shows."""

    def __init__(self, gr: Any, visitors: Visitors) -> None:
        self._gr = gr
        self._visitors = visitors
        for handler in (self.load, self.run, self.click, self.leave):
            handler.__annotations__["request"] = gr.Request  # by these types Gradio knows what to give
        self.click.__annotations__["event"] = gr.EventData

    def make(self, act: Callable[..., None]) -> Callable[..., list[Any]]:
        """Return the handler that does something with a visit and the values of the inputs."""

        def handler(request: Any, *values: Any) -> list[Any]:
            return self._show(request.session_hash, lambda visit: act(visit, *values))[1]

        handler.__annotations__["request"] = self._gr.Request
        return handler

    def load(self, request: Any) -> list[Any]:
        """Begin the visit of somebody who has opened the page."""
        try:
            self._visitors.open(request.session_hash)
        except Exception as error:
            return self._say(error)
        return self._show(request.session_hash, lambda visit: None)[1]

    def run(self, request: Any) -> Iterator[list[Any]]:
        """Play on until the episode ends, somebody pauses it or the visitor leaves."""
        visitor, begun = request.session_hash, False

        def play_on(visit: Visit) -> None:
            if visit.running or not begun:
                visit.running = True
                for _ in range(visit.pace):
                    if visit.session.ended is None:
                        visit.session.step()
                visit.running = visit.session.ended is None

        while not begun or self._visitors.has(visitor):
            running, shown = self._show(visitor, play_on)
            begun = True
            yield shown
            if not running:
                return

    def click(self, request: Any, event: Any) -> list[Any]:
        """Move the goal of the maze to where the picture was clicked."""

        def aim_there(visit: Visit) -> None:
            maze = need_maze(visit.session.maze, "a goal", visit.session.deployed.env_id)
            visit.session.aim(*locate(maze, float(event.across), float(event.down)))

        return self._show(request.session_hash, aim_there)[1]

    def leave(self, request: Any) -> None:
        """Close the session of a visitor who has left."""
        self._visitors.leave(request.session_hash)

    def _show(self, visitor: str, act: Callable[[Visit], None]) -> tuple[bool, list[Any]]:
        """Do something for a visitor. What goes wrong is a message on the page; the server goes on.

        Returns:
            Whether the episode goes on by itself, and what the page shows: the outputs.
        """

        def use(visit: Visit) -> tuple[View, str]:
            try:
                act(visit)
                text = ""
            except Exception as error:  # environments and rewards raise any type
                visit.running = False
                text = _explain(error)
            return view(visit), text

        try:
            shown, text = self._visitors.call(visitor, use)
        except Exception as error:
            return False, self._say(error)
        buttons = [not (shown.running or shown.ended), not (shown.running or shown.ended), shown.running]
        return shown.running, [
            *(shown.frame, shown.plans, shown.values, shown.status, show_message(text)),
            *(self._gr.update(interactive=on) for on in buttons),
        ]

    def _say(self, error: Exception) -> list[Any]:
        """Return the outputs that show a message and leave all else as it is."""
        skip = self._gr.skip
        return [*(skip() for _ in range(4)), show_message(_explain(error)), *(skip() for _ in range(3))]


def _explain(error: Exception) -> str:
    """Return the message of an error; one that is not the visitor's is printed with its traceback too."""
    if isinstance(error, ValueError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error} (the terminal of vgp play has more)"
