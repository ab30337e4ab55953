"""Account: what every page about played episodes says: the film, the worst of them, and how to repeat them."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from vgp_lightning.report.markup import Markup, command, details, figure, number, options, table, tag
from vgp_lightning.report.page import Section, picture

MOST_LISTED = 500  # episodes in a table
_WORST = 3
_STILL = "An early end, stumbling, jerks, or standing still far from the goal."
_WELL = "Steady motion up to the time limit, or straight to the goal."
# Options of several verbs that decide how an episode is played, beside its seeds and the settings.
HOW_PLAYED = (
    *("env_id", "trust_environment", "max_episode_steps"),
    *("habit", "reach_goal", "follow_states", "device", "delay"),
)
# How an episode that is listed was played, beside the settings: what a report has, and what it is by default.
_ORIGIN = ("pipeline", "weights_sha256", "critic", "habit", "device", "threads", "environments")


def show_film(path: Path, folder: Path, seed: object, error: object = None) -> Section:
    """Return the section with the film, or with the reason why there is none.

    Args:
        path: The film.
        folder: The page's.
        seed: Of the filmed episode.
        error: Why there is no film; None: there is one, or none was wanted.
    """
    shown = None if error else picture(path, folder, f"Film of the episode with seed {seed}", plot=False)
    if shown is None:
        return Section("Film", [tag("p", f"No film: {error}")] if error else [])
    return Section("Film", [figure(shown, f"The first episode, seed {seed}.", _WELL, _STILL)])


def say_end(episode: Mapping[str, Any]) -> str:
    """Return as text how an episode ended."""
    end = "the environment ended it" if episode.get("terminated") else "the time limit ended it"
    if episode.get("success") is None:
        return end
    first = episode.get("first_success")
    at = f" at step {first}" if first is not None else ""
    return f"{end}, {'with success' + at if episode['success'] else 'without success'}"


def list_episodes(episodes: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the table of episodes, to open."""
    rows = [(str(one["seed"]), one["return"], one["length"], say_end(one)) for one in episodes[:MOST_LISTED]]
    caption = f"{len(episodes)} episodes" if len(rows) == len(episodes) else f"The first {len(rows)} episodes"
    return details("All episodes", table(caption, ("seed", "return", "steps", "how it ended"), rows))


def show_worst(episodes: Sequence[Mapping[str, Any]], verb: str, report: Mapping[str, Any]) -> Section:
    """Return the section with the episodes of the lowest returns, and the command that plays each again.

    Args:
        episodes: Of the report.
        verb: Of the command line, such as evaluate.
        report: With ``pipeline`` and ``options``.
    """
    parts: list[Markup] = []
    for one in sorted(episodes, key=lambda one: one["return"])[:_WORST]:
        parts.append(tag("h3", f"Seed {one['seed']}: return {number(float(one['return']))}, {one['length']} steps"))
        parts.append(tag("p", f"{say_end(one).capitalize()}. Played again by:"))
        output = ("output_dir", f"runs/seed-{one['seed']}")
        parts.append(repeat(verb, report, ("episodes", 1), *name_seeds(one), output))
    title = "The worst episode" if len(episodes) == 1 else f"The worst {min(_WORST, len(episodes))} episodes"
    return Section(title, parts)


def name_seeds(played: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the options that name the seeds of an episode or an evaluation; the planner's only if it is another."""
    seed = played["seed"]
    sampler_seed = played.get("sampler_seed", seed)
    return [("seed", seed), *([("sampler_seed", sampler_seed)] if sampler_seed != seed else [])]


def find_given(
    function: Callable[..., Any], values: Mapping[str, Any], names: Sequence[str] = HOW_PLAYED
) -> dict[str, Any]:
    """Return the options that were given other than by default.

    Args:
        function: What was called.
        values: The values of its parameters, as its ``locals()``.
        names: Those of the options to look at; default: those that decide how episodes are played.
    """
    parameters = signature(function).parameters
    return {name: values[name] for name in names if name in parameters and values[name] != parameters[name].default}


def repeat(verb: str, report: Mapping[str, Any], *first: tuple[str, Any]) -> Markup:
    """Return the command that repeats a report's episodes, on its planner.

    Args:
        verb: Of the command line.
        report: With ``pipeline``, and ``options`` that were given in place of the defaults. A report of an earlier
            version names none: then all settings are given.
        first: Options that come before these.
    """
    given = report.get("options", report.get("settings")) or {}
    return command(["vgp", verb, report["pipeline"], *options([*first, *given.items()])])


def show_origin(
    report: Mapping[str, Any],
    settings: Mapping[str, Any],
    commands: Sequence[Markup],
    promise: str = "On a CPU the same command gives the same returns.",
) -> list[Section]:
    """Return the sections with the commands that repeat a report, its settings, seeds and versions.

    Args:
        report: As ``Deployment.describe`` begins it.
        settings: The planner's.
        commands: What repeats it.
        promise: What the commands will give.
    """
    origin = [(name, report[name]) for name in _ORIGIN if report.get(name) is not None]
    origin += [(f"checkpoint of the {name}", _say(one)) for name, one in (report.get("checkpoints") or {}).items()]
    spec = report.get("env_spec") or {}
    origin += [(f"environment, {name.replace('_', ' ')}", str(value)) for name, value in spec.items() if value]
    versions = [(name, value) for name, value in (report.get("versions") or {}).items() if value is not None]
    return [
        Section("To repeat it", [*commands, tag("p", promise)]),
        Section(
            "Settings, seeds and versions",
            [
                tag(
                    "div",
                    table("Settings of planning", (), list(settings.items())),
                    table("Versions", (), versions),
                    class_="pair",
                ),
                details("Planner, environment and machine", table("Planner, environment and machine", (), origin)),
            ],
        ),
    ]


def _say(checkpoint: Any) -> str:
    """Return which checkpoint a folder was exported from."""
    if not isinstance(checkpoint, Mapping):
        return str(checkpoint)
    return f"{checkpoint.get('file')}, step {checkpoint.get('step')}"
