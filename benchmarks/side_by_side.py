"""Film the same seeds side by side, unguided and guided, as README shows them.

    vgp demo
    python -m benchmarks.side_by_side runs/demo/pipeline docs/guided.gif

On the left one plan at a time, as it is sampled; on the right the folder's defaults. The seeds are the first ones of
an evaluation, not chosen. An episode that ends stays with its last frame, and its numbers.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from vgp_lightning.agent.deployment import FIRST_SEED, Deployment
from vgp_lightning.agent.environments import environment_of, rollout
from vgp_lightning.pipeline.settings import ONE_PLAN
from vgp_lightning.report.film import Recorder

UNGUIDED: dict[str, Any] = {**ONE_PLAN, "warm_start_strength": 1.0}


def film(folder: str, seed: int, fps: float, width: int, settings: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Play an episode and return its frames as (picture, step, return so far, whether it fell there)."""
    deployed = Deployment(folder)
    with deployed.environments(1, video=True) as environments:
        environment = environment_of(environments, 0)
        environment.unwrapped.model.mat_texrepeat[:] /= 8  # larger squares: a GIF stores each edge in each frame
        recorder = Recorder(environment, fps=fps, width=width)
        numbers: list[tuple[int, float, bool]] = []
        total = 0.0
        for step in rollout(deployed.agent(**settings), environments, [seed]):
            drawn = len(recorder.frames)
            total += step.rewards[0]
            recorder.record(step.observations[0], step.actions[0])
            if len(recorder.frames) > drawn:
                numbers.append((len(recorder.actions), total, False))
            if step.terminated[0] or step.truncated[0]:
                numbers[-1] = (len(recorder.actions), total, bool(step.terminated[0]))
        if recorder.error:
            raise ValueError(f"there is no film: {recorder.error}")
        return [(picture, *number) for picture, number in zip(recorder.frames, numbers, strict=True)]


def compose(halves: list[list[list[tuple[Any, ...]]]], seeds: list[int], colours: int) -> list[Image.Image]:
    """Return the frames of the whole film: a row for each seed, a column for each planner."""
    heading, small = ImageFont.load_default(15), ImageFont.load_default(11)
    height, width = halves[0][0][0][0].shape[:2]
    gap, top = 4, 24
    frames = []
    for index in range(max(len(episode) for half in halves for episode in half)):
        image = Image.new("RGB", (2 * width + gap, top + len(seeds) * (height + gap) - gap), "white")
        draw = ImageDraw.Draw(image)
        for column, (name, half) in enumerate(zip(("unguided", "guided"), halves, strict=True)):
            left = column * (width + gap)
            draw.text((left + 4, 3), name, fill="black", font=heading)
            for row, episode in enumerate(half):
                picture, step, total, fell = episode[min(index, len(episode) - 1)]
                place, shown = (left, top + row * (height + gap)), Image.fromarray(picture)
                over = fell and index >= len(episode) - 1
                image.paste(Image.blend(shown, Image.new("RGB", shown.size, "white"), 0.5) if over else shown, place)
                words = f"seed {seeds[row]}   step {step}   return {total:.0f}"
                draw.rectangle((left, place[1], left + width - 1, place[1] + 17), fill="white")
                draw.text((left + 4, place[1] + 1), words, fill="black", font=small)
                if over:
                    draw.text((left + 8, place[1] + 24), "fell", fill="#b00020", font=heading)
        frames.append(image)
    sample = Image.new("RGB", (frames[0].width, 2 * frames[0].height))
    for place, frame in enumerate((frames[0], frames[-1])):
        sample.paste(frame, (0, place * frame.height))
    palette = sample.quantize(colours, method=Image.Quantize.MAXCOVERAGE)  # few pixels are the robot
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def main() -> None:
    """Write the film."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a pipeline folder with a value function")
    parser.add_argument("output", type=Path, help="the GIF")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=FIRST_SEED)
    parser.add_argument("--fps", type=float, default=6.0)
    parser.add_argument("--width", type=int, default=216, help="of a half, in pixels")
    parser.add_argument("--crop", type=float, nargs=2, default=(0.12, 0.86), help="top and bottom of what is shown")
    parser.add_argument("--colours", type=int, default=24)
    given = parser.parse_args()
    seeds = list(range(given.first_seed, given.first_seed + given.seeds))
    # One thread each: with more they would wait for one another.
    with ProcessPoolExecutor(len(seeds) * 2, get_context("fork"), torch.set_num_threads, (1,)) as pool:
        jobs = [
            [pool.submit(film, given.folder, seed, given.fps, given.width, settings) for seed in seeds]
            for settings in (UNGUIDED, {})
        ]
        halves = [[job.result() for job in half] for half in jobs]
    for half in halves:
        for episode in half:
            for i, (picture, *numbers) in enumerate(episode):
                top, bottom = (round(share * picture.shape[0]) for share in given.crop)
                episode[i] = (picture[top:bottom], *numbers)
    first, *others = compose(halves, seeds, given.colours)
    first.save(given.output, save_all=True, append_images=others, duration=1000 / given.fps, loop=0, optimize=True)
    print(f"{given.output}: {1 + len(others)} frames, {given.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
