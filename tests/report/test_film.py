"""Videos: the right frames in the right order, and what is said where there are none."""

import io
import os
import re
import sys
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.behaviours import make_behaviour
from vgp_lightning.agent.environments import make_environments
from vgp_lightning.report.film import Recorder, draw_frame, log_gif, put_caption, shrink, write_film, write_gif


class Camera(gymnasium.Env):
    """Shows the number of its steps as a grey picture."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}  # noqa: RUF012
    observation_space = action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode="rgb_array", breaks_at=None):
        self.render_mode, self.breaks_at, self.t = render_mode, breaks_at, 0

    def render(self):
        if self.t == self.breaks_at:
            raise RuntimeError("no GL today")
        return np.full((30, 40, 3), self.t, np.uint8)


def grey_frames(count, height, width):
    return [np.full((height, width, 3), 20 * i, np.uint8) for i in range(count)]


def film(environment, steps, **kwargs):
    recorder = Recorder(environment, **kwargs)
    for environment.t in range(1, steps + 1):
        recorder.record(np.array([environment.t]), np.array([-environment.t], np.float32))
    return recorder


@pytest.mark.parametrize("size", [(10, 12), (11, 13)])
def test_a_gif_holds_every_frame_for_its_time_for_ever(tmp_path, size):
    write_gif(grey_frames(10, *size), tmp_path / "a.gif", fps=25)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size, image.info["duration"], image.info["loop"]) == (10, size[::-1], 40, 0)
        for i in range(10):
            image.seek(i)
            assert image.convert("RGB").getpixel((3, 3)) == (20 * i,) * 3


def test_a_video_of_nothing_or_of_mixed_sizes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there are 0"):
        write_gif([], tmp_path / "a.gif", fps=10)
    with pytest.raises(ValueError, match="there are 2"):
        write_gif([*grey_frames(1, 8, 8), *grey_frames(1, 9, 8)], tmp_path / "a.gif", fps=10)


def test_tensorboard_gets_the_gif_itself_beside_what_torch_writes(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("eval/return_mean", 7, 0)
        write_gif(grey_frames(5, 11, 13), tmp_path / "a.gif", fps=10)
        log_gif(writer, "eval/rollout", tmp_path / "a.gif")
        writer.add_scalar("eval/return_iqm", 8, 0)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"eval/return_mean", "eval/return_iqm"}
    (event,) = events.Images("eval/rollout")
    assert (event.step, event.height, event.width) == (0, 11, 13)
    assert event.wall_time == pytest.approx(time.time(), abs=60)
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        assert (image.format, image.n_frames) == ("GIF", 5)


def test_wide_frames_shrink_in_proportion_and_small_ones_stay():
    assert shrink(np.zeros((480, 640, 3), np.uint8), 240).shape == (180, 240, 3)
    frame = np.zeros((100, 200, 3), np.uint8)
    assert shrink(frame, 240) is frame


def test_step_return_and_seed_stand_below_the_picture(monkeypatch):
    said = []
    monkeypatch.setattr("vgp_lightning.report.film.put_caption", lambda frame, text: said.append(text) or frame)
    recorder = Recorder(Camera(), seed=7, fps=50)
    for reward in (1.5, 2.25, 200.0):
        recorder.record(np.zeros(1), np.zeros(1, np.float32), reward)
    assert [line.split() for line in said] == [
        ["step", "1", "return", "1.50", "seed", "7"],
        ["step", "3", "return", "204", "seed", "7"],
    ]


def test_a_caption_is_white_text_in_a_strip_that_hides_nothing():
    frame = np.full((300, 480, 3), 90, np.uint8)
    captioned = put_caption(frame, "step 12    return 34.5    seed 6")
    assert np.array_equal(captioned[:300], frame)
    strip = captioned[300:]
    written = np.argwhere((strip == 255).all(axis=2))
    assert 10 < np.ptp(written[:, 0]) < len(strip)  # letters of some height, whole within the strip
    assert 150 < np.ptp(written[:, 1]) < 470
    assert put_caption(frame[:, :100], "too small for text").shape == (300, 100, 3)


@pytest.mark.slow
def test_a_film_of_a_thousand_steps_of_hopper_is_small(tmp_path):
    environments = make_environments("Hopper-v5", 1, render_mode="rgb_array")
    behaviour = make_behaviour("hopper-linear", environments)
    environment = environments.envs[0]
    behaviour.reset([0])
    observation, _ = environment.reset(seed=0)
    recorder = Recorder(environment, seed=0)
    for _ in range(1000):
        action = behaviour.act(observation[None], np.array([True]))[0]
        before = observation
        observation, reward, terminated, _, _ = environment.step(action)
        recorder.record(before, action, reward)
        assert not terminated
    assert write_film(recorder, tmp_path / "a.gif") is None
    environments.close()
    with Image.open(tmp_path / "a.gif") as image:
        assert image.width == 480
        assert image.n_frames > 60
    assert (tmp_path / "a.gif").stat().st_size < 1_500_000


def test_frames_are_taken_at_the_asked_rate_of_the_environments_time():
    recorder = film(Camera(), 20, fps=25)  # 100 steps a second: every 4th
    assert [int(frame[0, 0, 0]) for frame in recorder.frames] == [1, 5, 9, 13, 17]
    assert recorder.fps == pytest.approx(25)
    assert recorder.error is None


def test_the_true_time_step_of_the_environment_goes_before_its_metadata():
    environment = Camera()
    environment.dt = 0.02
    recorder = film(environment, 20, fps=25)
    assert len(recorder.frames) == 10
    assert recorder.fps == pytest.approx(25)


def test_a_slow_environment_shows_every_step_at_its_own_rate():
    environment = Camera()
    environment.dt = 0.1
    recorder = film(environment, 6, fps=25)
    assert len(recorder.frames) == 6
    assert recorder.fps == pytest.approx(10)


def test_frames_stop_at_their_limit_but_actions_and_observations_do_not():
    recorder = film(Camera(), 20, fps=100, max_frames=3, width=20)
    assert [frame.shape for frame in recorder.frames] == [(15, 20, 3)] * 3
    assert np.ravel(recorder.observations).tolist() == list(range(1, 21))
    assert np.ravel(recorder.actions).tolist() == list(range(-1, -21, -1))


@pytest.mark.parametrize("breaks_at", [1, 9])
def test_a_camera_that_breaks_is_reported_and_leaves_no_half_video(breaks_at):
    recorder = film(Camera(breaks_at=breaks_at), 20, fps=25)
    assert recorder.frames == []
    assert len(recorder.actions) == 20
    assert "RuntimeError: no GL today" in recorder.error
    assert "libegl1" in recorder.error


@pytest.mark.skipif(sys.platform != "linux", reason="the other systems draw without a display by themselves")
@pytest.mark.parametrize(
    ("variables", "seen"),
    [({}, "egl"), ({"MUJOCO_GL": ""}, "egl"), ({"MUJOCO_GL": "osmesa"}, "osmesa"), ({"DISPLAY": ":0"}, None)],
)
def test_without_a_display_egl_is_asked_for_while_drawing_and_only_then(monkeypatch, variables, seen):
    class Witness(Camera):
        def render(self):
            self.seen = os.environ.get("MUJOCO_GL")
            return super().render()

    for name in ("MUJOCO_GL", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    environment = Witness()
    film(environment, 1)
    assert environment.seen == seen
    assert (os.environ.get("MUJOCO_GL") or None) == (variables.get("MUJOCO_GL") or None)


class Drawn(Camera):
    """Returns other frames than pictures of one size."""

    frame = None

    def render(self):
        return self.frame(self.t)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (lambda t: np.zeros((30, 40, 3), np.float32), "float32"),
        (lambda t: np.zeros((30, 40), np.uint8), r"\(30, 40\)"),
        (lambda t: np.zeros((30, 40, 4), np.uint8), r"\(30, 40, 4\)"),
        (lambda t: np.zeros((30 + t, 40, 3), np.uint8), r"\(35, 40, 3\), but the first one is \(31, 40, 3\)"),
        (lambda t: None, "NoneType"),
    ],
)
def test_frames_that_are_no_pictures_of_one_size_are_a_reason_for_no_video(monkeypatch, tmp_path, frame, words):
    monkeypatch.setattr(Drawn, "frame", staticmethod(frame))
    recorder = film(Drawn(), 9, fps=25)
    assert recorder.frames == []
    assert re.search(words, recorder.error)
    assert write_film(recorder, tmp_path / "a.gif") == recorder.error
    assert not (tmp_path / "a.gif").exists()


def test_a_camera_that_draws_into_one_array_again_and_again_gives_different_frames(monkeypatch):
    picture = np.zeros((30, 40, 3), np.uint8)

    def fill(t):
        picture[:] = t
        return picture

    monkeypatch.setattr(Drawn, "frame", staticmethod(fill))
    recorder = film(Drawn(), 9, fps=25)
    assert [int(frame[0, 0, 0]) for frame in recorder.frames] == [1, 5, 9]


@pytest.mark.parametrize("dt", [-1, 0, np.nan, np.inf, "fast"])
def test_a_time_step_that_is_no_time_is_a_reason_for_no_video(dt):
    environment = Camera()
    environment.dt = dt
    recorder = film(environment, 3)
    assert recorder.frames == []
    assert "dt is" in recorder.error


def test_a_film_that_cannot_be_written_is_a_reason_and_no_error(tmp_path):
    reason = write_film(film(Camera(), 3), tmp_path / "missing" / "a.gif")
    assert "FileNotFoundError" in reason


def test_an_environment_that_was_not_made_to_draw_gives_a_reason():
    recorder = film(Camera(render_mode=None), 3)
    assert recorder.frames == []
    assert "rgb_array" in recorder.error


@pytest.mark.parametrize("env_id", ["Hopper-v5", "HalfCheetah-v5"])
def test_the_camera_follows_the_body(env_id):
    environment = gymnasium.make(env_id, render_mode="rgb_array")
    environment.reset(seed=0)
    draw_frame(environment, 240)
    renderer = environment.unwrapped.mujoco_renderer
    assert renderer.camera_id == renderer.model.camera("track").id
    environment.close()
