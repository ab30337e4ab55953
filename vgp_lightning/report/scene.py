"""Scene: where MuJoCo's camera looks from, and the points that are marked in its picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

_BLUE = (0.34, 0.71, 0.91, 1.0)  # Okabe and Ito's sky blue, seen on the walls and on the floor of a maze
_MOST_MARKS = 200  # a scene of gymnasium holds 1000 shapes, those of the environment included
_MARGIN = 1.04  # of what the camera sees over what it is to see
_DOT = 0.009  # radius of a dot, as a share of the rectangle's longer side
_ANGLE = 10.0  # degrees that it sees: so few that what stands high is hardly displaced


@dataclass(frozen=True)
class Aerial:
    """A rectangle of the world, seen from above with x to the right, and points in it.

    Attributes:
        low: (2,), its corner with the smallest x and y.
        high: (2,), the opposite corner.
        top: Height of what stands in it.
        points: (n, 2), marked by dots above all that stands there.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    top: float
    points: NDArray[np.floating] = field(default_factory=lambda: np.zeros((0, 2)))


@contextmanager
def set_scene(environment: gymnasium.Env[Any, Any], aerial: Aerial | None) -> Iterator[None]:
    """Place the camera for a picture of an environment of MuJoCo; any other environment draws as it does.

    Args:
        environment: The environment, which is to draw one picture inside this context.
        aerial: What is seen from above; None: the camera follows the body, if the model has a camera that does.
    """
    renderer = _find_renderer(environment)
    if renderer is None or aerial is None:
        if renderer is not None:
            _follow(renderer)
        yield
        return
    if renderer.viewer is None:
        environment.render()  # which makes the viewer
    camera, visual, selected = renderer.viewer.cam, renderer.model.vis.global_, renderer.camera_id
    before = camera.lookat.copy(), camera.distance, camera.azimuth, camera.elevation, visual.fovy
    try:
        renderer.camera_id = -1  # the camera that can be moved
        visual.fovy = _ANGLE
        _look_down(renderer.viewer, aerial)
        _mark(renderer.viewer, aerial)
        yield
    finally:
        camera.lookat[:], camera.distance, camera.azimuth, camera.elevation, visual.fovy = before
        renderer.camera_id = selected


def _find_renderer(environment: gymnasium.Env[Any, Any]) -> Any:
    """Return gymnasium's renderer of MuJoCo, which in a maze belongs to the body's own environment; None: no MuJoCo."""
    inmost = environment.unwrapped
    for part in (inmost, *vars(inmost).values()):
        if (renderer := getattr(part, "mujoco_renderer", None)) is not None:
            return renderer
    return None


def _follow(renderer: Any) -> None:
    """Let the camera follow the body: gymnasium 1.4 uses the model's tracking camera only if it is selected."""
    names = [renderer.model.camera(i).name for i in range(renderer.model.ncam)]
    if "track" in names and renderer.camera_id == -1:
        renderer.camera_id = names.index("track")


def _look_down(viewer: Any, aerial: Aerial) -> None:
    """Place the camera above the middle of the rectangle, so high that all of it is in the picture."""
    wide, deep = (aerial.high - aerial.low) / 2
    half = max(deep, wide * viewer.viewport.height / viewer.viewport.width)
    viewer.cam.lookat[:] = *((aerial.low + aerial.high) / 2), aerial.top
    viewer.cam.distance = _MARGIN * half / np.tan(np.radians(_ANGLE / 2))
    viewer.cam.azimuth, viewer.cam.elevation = 90.0, -90.0


def _mark(viewer: Any, aerial: Aerial) -> None:
    """Add the dots to the next picture."""
    count, radius = len(aerial.points), _DOT * float(max(aerial.high - aerial.low))
    for i in np.linspace(0, count - 1, min(count, _MOST_MARKS)).round().astype(int).tolist():
        place = np.append(aerial.points[i], aerial.top + radius)
        viewer.add_marker(pos=place, size=np.full(3, radius), rgba=np.array(_BLUE))
