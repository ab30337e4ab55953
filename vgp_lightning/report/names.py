"""Names of the dimensions of well-known environments, as their documentation has them.

https://gymnasium.farama.org/environments/mujoco/ and https://robotics.farama.org/envs/maze/point_maze/
"""

import re
from typing import NamedTuple


class Names(NamedTuple):
    """Names of dimensions, in the order of the environment's actions and flat observations."""

    actions: tuple[str, ...]
    observations: tuple[str, ...]


def _of_body(root: tuple[str, ...], joints: tuple[str, ...], moves: tuple[str, ...]) -> Names:
    """Return the names of a planar body: where its root is, its joints' angles, and the velocities of both."""
    angles, velocities = (tuple(f"{joint} {what}" for joint in joints) for what in ("angle", "angular velocity"))
    return Names(tuple(f"{joint} torque" for joint in joints), (*root, *angles, *moves, *velocities))


_TORSO = ("torso height", "torso angle"), ("torso velocity x", "torso velocity z", "torso angular velocity")
_LEG = ("thigh", "leg", "foot")
_LEGS = ("front left", "front right", "back left", "back right")
_ANT = tuple(f"{leg} {joint}" for leg in _LEGS for joint in ("hip", "ankle"))
_NAMES = {
    "Hopper": _of_body(_TORSO[0], _LEG, _TORSO[1]),
    "Walker2d": _of_body(_TORSO[0], (*_LEG, *(f"left {joint}" for joint in _LEG)), _TORSO[1]),
    "HalfCheetah": _of_body(
        ("tip height", "tip angle"),
        tuple(f"{end} {joint}" for end in ("back", "front") for joint in ("thigh", "shin", "foot")),
        ("tip velocity x", "tip velocity z", "tip angular velocity"),
    ),
    "Swimmer": _of_body(
        ("tip angle",),
        ("first rotor", "second rotor"),
        ("tip velocity x", "tip velocity y", "tip angular velocity"),
    ),
    "InvertedPendulum": Names(
        ("cart force",), ("cart position", "pole angle", "cart velocity", "pole angular velocity")
    ),
    "Reacher": Names(
        ("first joint torque", "second joint torque"),
        (
            *("first arm cosine", "second arm cosine", "first arm sine", "second arm sine", "target x", "target y"),
            *("first arm angular velocity", "second arm angular velocity", "fingertip to target x"),
            "fingertip to target y",
        ),
    ),
    # Its action begins with the right back leg. Contact forces follow after the velocities: see name_dimensions.
    "Ant": Names(
        tuple(f"{leg} {joint} torque" for leg in (_LEGS[3], *_LEGS[:3]) for joint in ("hip", "ankle")),
        (
            *("torso height", *(f"torso orientation {part}" for part in "wxyz")),
            *(f"{joint} angle" for joint in _ANT),
            *(f"torso velocity {axis}" for axis in "xyz"),
            *(f"torso angular velocity {axis}" for axis in "xyz"),
            *(f"{joint} angular velocity" for joint in _ANT),
        ),
    ),
    "PointMaze": Names(
        ("force x", "force y"),
        ("position x", "position y", "goal x", "goal y", "point x", "point y", "velocity x", "velocity y"),
    ),
}
_WITH_MORE = ("Ant",)  # whose further observations are numbered
_ID = re.compile(r"([A-Za-z0-9]+?)(?:_\w+)?-v\d+")  # PointMaze_UMaze-v3: PointMaze


def name_dimensions(env_id: str | None, actions: int, observations: int) -> Names:
    """Return the names of an environment's dimensions; where they are not known, their numbers.

    Args:
        env_id: Such as Hopper-v5; None: it is not known.
        actions: Number of action dimensions.
        observations: Number of flat observation dimensions. If one of the two numbers is another than the
            documentation's, a wrapper has changed the environment, and its names are not used.
    """
    numbered = Names(
        tuple(f"action {i}" for i in range(actions)), tuple(f"observation {i}" for i in range(observations))
    )
    match = _ID.fullmatch(env_id or "")
    known = _NAMES.get(match[1]) if match else None
    if match is None or known is None or len(known.actions) != actions:
        return numbered
    count = len(known.observations)
    if count != observations and not (match[1] in _WITH_MORE and observations > count):
        return numbered
    return Names(known.actions, known.observations + numbered.observations[count:])
