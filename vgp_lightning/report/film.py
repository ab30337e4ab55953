"""Film: animated pictures, and the recorder of an episode.

Shapes: A action and O observation dimensions. A frame is an RGB picture (height, width, 3) of uint8.
"""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.report.board import add_summary
from vgp_lightning.report.files import replace_file
from vgp_lightning.report.folders import naming
from vgp_lightning.report.scene import Aerial, set_scene

Frames = Sequence[NDArray[np.uint8]]
_COLOURS = 64  # of a GIF: half as many bytes as with 256, and no difference that is seen
_SAMPLES = 16  # frames from which these colours are chosen
_SMALLEST = 160  # width in pixels from which a line of text below a frame can be read


# ---------------------------------------------------------------- animated pictures


def shrink(frame: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return the frame, scaled down to a width of ``width`` pixels if it is wider."""
    if frame.shape[1] <= width:
        return frame
    height = round(frame.shape[0] * width / frame.shape[1])
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))


def put_caption(frame: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Return the frame with a line of text in a strip below it; a frame that is too small for text stays as it is."""
    height, width = frame.shape[:2]
    if width < _SMALLEST:
        return frame
    size = max(11, width // 28)
    picture = Image.new("RGB", (width, height + 2 * size), (20, 24, 31))
    picture.paste(Image.fromarray(frame), (0, 0))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text((size // 2, height + size // 3), text, fill=(255, 255, 255), font=font)
    return np.asarray(picture)


def write_gif(frames: Frames, path: str | Path, fps: float) -> None:
    """Write frames of one size as a GIF that repeats for ever; Pillow merges equal consecutive frames.

    All frames have the same colours, without dithering, whose noise would double the size.

    Args:
        frames: The frames.
        path: The file.
        fps: Frames per second. A GIF stores durations in hundredths of a second, to which they are rounded.

    Raises:
        ValueError: If there are no frames, or their sizes differ.
        OSError: If the file cannot be written; the message names it.
    """
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1:
        raise ValueError(f"a video needs frames of one shape (height, width, 3), but there are {len(shapes)}: {shapes}")
    some = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _SAMPLES)).round().astype(int))
    palette = Image.fromarray(np.concatenate([frames[i] for i in some])).quantize(_COLOURS)
    pictures = (Image.fromarray(frame) for frame in frames)
    first, *others = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]
    stream = io.BytesIO()
    first.save(stream, format="GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0)
    with naming(Path(path)):
        replace_file(Path(path), lambda file: file.write(stream.getvalue()))


def log_gif(writer: SummaryWriter, tag: str, path: str | Path) -> None:
    """Write a GIF as a TensorBoard event that shows it as a moving picture at step 0.

    ``SummaryWriter.add_video`` does nothing with moviepy 2, and has no other public way to an animated image.
    """
    with Image.open(path) as gif:
        width, height = gif.size
    rgb = 3  # TensorBoard's number for this colour space
    image = Summary.Image(height=height, width=width, colorspace=rgb, encoded_image_string=Path(path).read_bytes())
    add_summary(writer, Summary(value=[Summary.Value(tag=tag, image=image)]))


# ---------------------------------------------------------------- episodes


def write_film(recorder: "Recorder", path: Path) -> str | None:
    """Write what a recorder has recorded as a GIF.

    Returns:
        Why there is none; None: there is one. It is not an error: an episode is worth more than its film.
    """
    if not recorder.frames:
        return recorder.error or "no frame was rendered"
    try:
        path.unlink(missing_ok=True)  # a link as well, so that its target is not written
        write_gif(recorder.frames, path, recorder.fps)
    except Exception as error:  # Pillow raises any type
        path.unlink(missing_ok=True)
        return f"writing failed with {type(error).__name__}: {error}"
    return None


class Recorder:
    """Records an episode: its observations and actions, and frames of it if the environment can render.

    Attributes:
        observations: (O,) each, before the action.
        actions: (A,) each.
        frames: The frames; empty if there are none.
        fps: Frames per second of the environment's time.
        error: Why there are no frames; None if there are.
    """

    def __init__(
        self,
        environment: gymnasium.Env[Any, Any],
        *,
        seed: int | None = None,
        fps: float = 9,
        max_frames: int = 80,
        width: int = 480,
    ) -> None:
        """Prepare to render if the environment was made with ``render_mode="rgb_array"``.

        With these defaults 1000 steps of hopper, whose floor moves, are 1.3 MB.

        Args:
            environment: The environment of the episode.
            seed: Of the episode, for the line below the picture; None: it does not say so.
            fps: Approximate frames per second of the environment's time: every n-th step is rendered.
            max_frames: Maximum number of frames.
            width: Width in pixels to which wider frames are scaled down.
        """
        self._environment = environment
        self.error: str | None = None
        step_seconds = self._step_seconds(fps)
        self._every = max(1, round(1 / (fps * step_seconds)))
        self._max_frames = max_frames
        self._width = width
        self._seed = seed
        self._total = 0.0
        self.fps = 1 / (self._every * step_seconds)
        self.observations: list[NDArray[np.floating]] = []
        self.actions: list[NDArray[np.float32]] = []
        self.frames: list[NDArray[np.uint8]] = []
        self.error = self.error or _find_mode_fault(environment)

    def _step_seconds(self, fps: float) -> float:
        """Return the seconds of a step of the environment."""
        rate = self._environment.metadata.get("render_fps", fps)
        for name, seconds in (("dt", getattr(self._environment.unwrapped, "dt", None)), ("render_fps", rate)):
            if seconds is None:
                continue
            if isinstance(seconds, int | float | np.number) and 0 < seconds < np.inf:
                return float(seconds) if name == "dt" else 1 / float(seconds)
            self.error = f"the environment's {name} is {seconds!r}: a number above 0 is needed"
        return 1 / fps

    def record(
        self,
        observation: NDArray[np.floating],
        action: NDArray[np.float32],
        reward: float = 0.0,
        aerial: Aerial | None = None,
    ) -> None:
        """Record a step; call it after each step, before the environment is reset.

        Args:
            observation: (O,), before the action.
            action: (A,).
            reward: Of the step.
            aerial: What is seen from above, and the plan that is marked; None: the environment's own camera is used.
        """
        self._total += reward
        if self.error is None and len(self.actions) % self._every == 0 and len(self.frames) < self._max_frames:
            self._draw(aerial)
        self.observations.append(np.array(observation))  # a copy, as the caller may reuse the array
        self.actions.append(np.array(action))

    def _say_progress(self, aerial: Aerial | None) -> str:
        seed = "" if self._seed is None else f"    seed {self._seed}"
        dots = "    dots: the plan" if aerial is not None and len(aerial.points) else ""
        total = f"{self._total:,.0f}" if abs(self._total) >= 100 else f"{self._total:.2f}"
        return f"step {len(self.actions) + 1}    return {total}{seed}{dots}"

    def _draw(self, aerial: Aerial | None) -> None:
        """Keep a frame of the present state, or the reason why there is none."""
        frame, self.error = draw_frame(self._environment, self._width, aerial)
        if frame is not None:
            frame = put_caption(frame, self._say_progress(aerial))
            if not self.frames or frame.shape == self.frames[0].shape:
                self.frames.append(frame)
                return
            self.error = f"rendering failed: a frame is {frame.shape}, but the first one is {self.frames[0].shape}"
        self.frames.clear()


def draw_frame(
    environment: gymnasium.Env[Any, Any], width: int, aerial: Aerial | None = None
) -> tuple[NDArray[np.uint8], None] | tuple[None, str]:
    """Draw the present state of an environment that was made with ``render_mode="rgb_array"``.

    Args:
        environment: The environment.
        width: Width in pixels to which a wider frame is scaled down.
        aerial: What is seen from above, and marked; None: the environment's own camera is used.

    Returns:
        The frame and None; or None and why there is none.
    """
    if (fault := _find_mode_fault(environment)) is not None:
        return None, fault
    # gymnasium reads MUJOCO_GL when it first renders, and without it looks for a display. The variable is unset
    # again afterwards: if EGL is missing, it would make the import of mujoco fail.
    headless = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("MUJOCO_GL"))
    if headless:
        os.environ["MUJOCO_GL"] = "egl"
    hook = sys.unraisablehook
    # A viewer of gymnasium that failed in its constructor fails again when it is deleted, and prints a traceback.
    sys.unraisablehook = lambda _: None
    try:
        with set_scene(environment, aerial):
            frame: Any = environment.render()
        if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,)):
            found = (frame.shape, frame.dtype) if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ValueError(f"a frame is {found}: an array (height, width, 3) of uint8 is needed")
        return shrink(frame.copy(), width), None  # a copy: the environment may draw into it again
    except Exception as error:  # drivers raise any type; the error is reported
        reason = f"rendering failed with {type(error).__name__}: {error}"
        # These two have a message of their own that says what is missing.
        if not isinstance(error, gymnasium.error.DependencyNotInstalled | ValueError):
            reason += (
                ". Without a display MuJoCo renders with EGL: apt-get install libegl1 libgl1-mesa-dri, or set "
                "MUJOCO_GL to egl, osmesa or glfw"
            )
        return None, reason
    finally:
        sys.unraisablehook = hook
        if headless:
            del os.environ["MUJOCO_GL"]


def _find_mode_fault(environment: gymnasium.Env[Any, Any]) -> str | None:
    """Return why an environment cannot render as it was made; None: it can."""
    if environment.render_mode == "rgb_array":
        return None
    modes = environment.metadata.get("render_modes", [])
    return f"the environment has render_mode {environment.render_mode}, of {modes}: rgb_array is needed"
