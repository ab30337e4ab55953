"""Artefacts that a stranger could send: nothing of theirs runs, and no file outside the named folders is touched.

Each artefact would leave a mark: a file that its code creates, or a changed or removed file of the user.
"""

import json
import math
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import warnings

import gymnasium
import h5py
import numpy as np
import pytest
import tally
import torch
import yaml
from fakes import write_tiny
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from trainings import last_of

from vgp_lightning.cli import main
from vgp_lightning.cli.verbs import VERBS as ALL_VERBS
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.shipped import CONFIGS

GROUP = "hostile artefacts"
SPEC = {
    "id": "MountainCarContinuous-v0",
    "entry_point": "gymnasium.envs.classic_control.continuous_mountain_car:Continuous_MountainCarEnv",
    "reward_threshold": 90.0,
    "nondeterministic": False,
    "max_episode_steps": 5,
    "order_enforce": True,
    "disable_env_checker": False,
    "kwargs": {},
    "additional_wrappers": [],
    "vector_entry_point": None,
}


class World:
    """The user's things, a stranger's code on the path, and the marks that it would leave."""

    def __init__(self, folder):
        self.folder = folder
        self.mark, self.precious = folder / "mark", folder / "home" / "precious"
        self.shell = f"touch {self.mark}"
        self.precious.parent.mkdir()
        self.precious.write_text("the user's")
        (folder / "code").mkdir()
        (folder / "code" / "strangers_module.py").write_text(
            f"open({str(self.mark)!r}, 'w').close()\nclass Env: pass\ndef make(*args, **kwargs): return Env()\n"
        )

    def hold(self):
        """Nothing ran, nothing was written over, nothing was removed."""
        assert not self.mark.exists()
        assert self.precious.read_text() == "the user's"
        assert [path.name for path in self.precious.parent.iterdir()] == ["precious"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield world
    sys.modules.pop("strangers_module", None)


def filled(value, world):
    """Return the value with the paths of this test in place of the words in capitals."""
    if isinstance(value, dict):
        return {key: filled(part, world) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, world) for part in value]
    if isinstance(value, str):
        for word, text in (("SHELL", world.shell), ("PRECIOUS", str(world.precious)), ("MARK", str(world.mark))):
            value = value.replace(word, text)
    return value


def refused(capfd, *args):
    """Run a verb, which has to refuse in one message, and return it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in args])
    message = capfd.readouterr().err
    assert ended.value.code == 2, message
    assert "Traceback" not in message
    assert "vgp: " in message
    return message


def some_slow(names, fast):
    """Return the names as parameters, of which all but some run in the slow run only."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def exit_code(*args):
    try:
        main(list(args))
    except SystemExit as ended:
        return ended.code
    return 0


# ---------------------------------------------------------------- pipeline folders: the environment


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("pristine") / "planner", task={"env_id": SPEC["id"], "env_spec": SPEC})


@pytest.fixture
def planner(pristine, world):
    """A folder of the stranger's, to be changed."""
    return shutil.copytree(pristine, world.folder / "planner")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


VERBS = {
    "evaluate": ["--episodes", "1", "--video", "false"],
    "tune": ["--episodes", "2", "--configurations", "2", "--holdout_episodes", "2"],
    "diagnose": ["--episodes", "1", "--starts", "1", "--video", "false"],
}
WRAPPER = {"name": "W", "entry_point": "os:system", "kwargs": {"command": "SHELL"}}
ENVIRONMENTS = {
    "entry point os:system": {"env_spec": SPEC | {"entry_point": "os:system", "kwargs": {"command": "SHELL"}}},
    "entry point subprocess": {"env_spec": SPEC | {"entry_point": "subprocess:run", "kwargs": {"args": "SHELL"}}},
    "entry point of a module beside": {"env_spec": SPEC | {"entry_point": "strangers_module:Env"}},
    "entry point runpy": {"env_spec": SPEC | {"entry_point": "runpy:run_path", "kwargs": {"path_name": "PRECIOUS"}}},
    "entry point of another environment": {"env_spec": SPEC | {"entry_point": "gymnasium.envs.mujoco:AntEnv"}},
    "entry point null": {"env_spec": SPEC | {"entry_point": None, "vector_entry_point": "strangers_module:make"}},
    "entry point a list": {"env_spec": SPEC | {"entry_point": ["os", "system"]}},
    "vector entry point": {
        "env_spec": SPEC
        | {
            "vector_entry_point": "os:system",
            "kwargs": {"vectorization_mode": "vector_entry_point", "command": "SHELL"},
        }
    },
    "wrapper": {"env_spec": SPEC | {"additional_wrappers": [WRAPPER]}},
    "wrapper that writes films": {
        "env_spec": SPEC
        | {
            "additional_wrappers": [
                {
                    "name": "RecordVideo",
                    "entry_point": "gymnasium.wrappers.rendering:RecordVideo",
                    "kwargs": {"video_folder": "PRECIOUS"},
                }
            ]
        }
    },
    "wrapper that is no wrapper": {"env_spec": SPEC | {"additional_wrappers": "os:system"}},
    "num_envs": {"env_spec": SPEC | {"kwargs": {"num_envs": 100000}}},
    "asynchronous processes": {"env_spec": SPEC | {"kwargs": {"vectorization_mode": "async"}}},
    "vector_kwargs": {"env_spec": SPEC | {"kwargs": {"vector_kwargs": {"worker": "os:system"}}}},
    "wrappers in kwargs": {"env_spec": SPEC | {"kwargs": {"wrappers": ["os:system"]}}},
    "max_episode_steps in kwargs": {"env_spec": SPEC | {"kwargs": {"max_episode_steps": 10**12}}},
    "max_episode_steps": {"env_spec": SPEC | {"max_episode_steps": 10**30}},
    "kwargs a list": {"env_spec": SPEC | {"kwargs": ["os:system"]}},
    "a model of MuJoCo": {
        "env_spec": SPEC
        | {
            "id": "Hopper-v5",
            "entry_point": "gymnasium.envs.mujoco.hopper_v5:HopperEnv",
            "kwargs": {"xml_file": "PRECIOUS"},
        }
    },
    "a model of MuJoCo by a relative path": {
        "env_spec": SPEC
        | {
            "id": "Hopper-v5",
            "entry_point": "gymnasium.envs.mujoco.hopper_v5:HopperEnv",
            "kwargs": {"xml_file": "../../x"},
        }
    },
    "a module before the id": {"env_spec": None, "env_id": "strangers_module:MountainCarContinuous-v0"},
    "a module before the specification's id": {"env_spec": SPEC | {"id": "strangers_module:MountainCarContinuous-v0"}},
    "an unknown id": {"env_spec": None, "env_id": "Nowhere-v0"},
    "an id that is no text": {"env_spec": None, "env_id": ["os", "system"]},
    "no id": {"env_spec": {"entry_point": "os:system", "kwargs": {"command": "SHELL"}}},
    "a text as specification": {"env_spec": "os:system"},
}


NAMED = {  # what the message names; of the others the entry point
    "entry point null": "entry_point None",
    "vector entry point": "vector_entry_point 'os:system'",
    "wrapper": "additional wrappers",
    "wrapper that writes films": "additional wrappers",
    "wrapper that is no wrapper": "additional wrappers",
    "num_envs": "num_envs 100000",
    "asynchronous processes": "vectorization_mode 'async'",
    "vector_kwargs": "vector_kwargs",
    "wrappers in kwargs": "wrappers ['os:system']",
    "max_episode_steps in kwargs": "max_episode_steps 1000000000000",
    "max_episode_steps": "max_episode_steps 1000",
    "kwargs a list": "keyword arguments ['os:system']",
    "a model of MuJoCo": "xml_file",
    "a model of MuJoCo by a relative path": "xml_file '../../x'",
    "a module before the id": "'strangers_module:MountainCarContinuous-v0'",
    "a module before the specification's id": "'strangers_module:MountainCarContinuous-v0'",
    "an unknown id": "'Nowhere-v0'",
    "an id that is no text": "['os', 'system']",
    "no id": "the environment None",
    "a text as specification": "'os:system'",
}
FAST = {"entry point os:system", "a module before the id"}  # with every verb; others with one in the fast run
SLOW = {  # each much like another one
    *("entry point subprocess", "entry point runpy", "entry point null", "entry point a list", "vector_kwargs"),
    *("wrapper that is no wrapper", "asynchronous processes", "max_episode_steps in kwargs", "kwargs a list"),
    *("a model of MuJoCo by a relative path", "an id that is no text", "a text as specification"),
}
EACH = [
    pytest.param(
        verb, name, marks=[] if name in FAST or (verb == "evaluate" and name not in SLOW) else pytest.mark.slow
    )
    for verb in VERBS
    for name in ENVIRONMENTS
]


@pytest.mark.parametrize(("verb", "name"), EACH)
def test_an_environment_that_is_not_the_registered_one_is_not_made(verb, name, planner, world, capfd):
    edit(planner / "model_index.json", task=filled(ENVIRONMENTS[name], world))
    with tally.case(GROUP, f"{verb}, folder: {name}") as verdict:
        message = refused(capfd, verb, planner, *VERBS[verb])
        assert str(planner) in message
        assert NAMED.get(name, "entry_point ") in message
        assert "--env_id" in message
        assert "--trust_environment true" in message
        world.hold()
        verdict.outcome = "clear"


PLAYED = ["evaluate", *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("tune", "diagnose"))]


@pytest.mark.parametrize("verb", PLAYED)
def test_a_folders_own_environment_is_used_with_its_own_limit(verb, planner, world):
    with tally.case(GROUP, f"{verb}, folder: registered environment"):
        main([verb, str(planner), *VERBS[verb], "--output_dir", "out"])
        world.hold()
    if verb == "evaluate":
        report = json.loads((world.folder / "work/out/evaluation.json").read_text())
        assert report["episodes"][0]["length"] == 5


def register(monkeypatch, name):
    """Register the mountain car with episodes of 5 steps."""
    spec = gymnasium.envs.registration.EnvSpec(name, SPEC["entry_point"], max_episode_steps=5)
    monkeypatch.setitem(gymnasium.registry, name, spec)


@pytest.mark.parametrize("verb", PLAYED)
def test_the_users_own_word_makes_any_environment(verb, planner, world, monkeypatch):
    register(monkeypatch, "Short-v0")
    edit(planner / "model_index.json", task=filled(ENVIRONMENTS["entry point of a module beside"], world))
    with tally.case(GROUP, f"{verb}, folder: --trust_environment true"):
        with pytest.raises(BaseException):  # noqa: B017, PT011 (what a stranger's class raises is not ours to say)
            main([verb, str(planner), *VERBS[verb], "--trust_environment", "true"])
        assert world.mark.exists()
    world.mark.unlink()
    with tally.case(GROUP, f"{verb}, folder: --env_id"):
        main([verb, str(planner), *VERBS[verb], "--env_id", "Short-v0"])
        world.hold()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("given", ["trust_environment: true", "env_id: strangers_module:MountainCarContinuous-v0"])
def test_a_config_cannot_give_the_users_word(verb, given, planner, world, capfd):
    edit(planner / "model_index.json", task=filled(ENVIRONMENTS["entry point of a module beside"], world))
    (world.folder / "trust_environment.yaml").write_text(given + "\n")
    with tally.case(GROUP, f"{verb}, config: {given}") as verdict:
        message = refused(capfd, verb, planner, "-c", world.folder / "trust_environment.yaml")
        assert given.split(":")[0] in message
        world.hold()
        verdict.outcome = "clear"


@pytest.mark.parametrize("verb", PLAYED)
def test_a_config_does_not_overrule_the_users_word(verb, planner, world, capfd):
    edit(planner / "model_index.json", task=filled(ENVIRONMENTS["entry point of a module beside"], world))
    (world.folder / "trust_environment.yaml").write_text("trust_environment: true\n")
    with tally.case(GROUP, f"{verb}, config: trust_environment: true after --trust_environment false") as verdict:
        refused(capfd, verb, planner, "--trust_environment", "false", "-c", world.folder / "trust_environment.yaml")
        world.hold()
        verdict.outcome = "clear"


ALSO_PLAYED = {
    "distill": ["--recorded_states", "0", "--planned_states", "2", "--visited_states", "2", "--max_steps", "1"],
    "play": ["--port", "0"],
}


@pytest.fixture
def no_page(monkeypatch):
    """The folder is opened before there is a page, for which Gradio is not needed then."""
    monkeypatch.setattr("vgp_lightning.play.server.load_gradio", lambda: None)


@pytest.mark.parametrize("verb", ALSO_PLAYED)
@pytest.mark.usefixtures("no_page")
def test_a_strangers_environment_is_refused_where_the_planner_is_taught_or_shown(verb, planner, world, capfd):
    edit(planner / "model_index.json", task=filled(ENVIRONMENTS["entry point of a module beside"], world))
    with tally.case(GROUP, f"{verb}, folder: entry point of a module beside") as verdict:
        assert "--trust_environment" in refused(capfd, verb, planner, *ALSO_PLAYED[verb])
        world.hold()
        verdict.outcome = "clear"


def test_a_behaviour_from_a_folder_needs_no_environment_of_it(planner, world):
    edit(planner / "model_index.json", task=filled(ENVIRONMENTS["entry point os:system"], world))
    with tally.case(GROUP, "collect --behaviour: entry point os:system"):
        words = ["--env_id", SPEC["id"], "--steps", "5", "--dataset_id", "test/x-v0", "--environments", "1"]
        main(["collect", "--behaviour", str(planner), *words])
        world.hold()


# ---------------------------------------------------------------- pipeline folders: files


def link(path, target):
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


HANDED_ON = {
    **ALSO_PLAYED,
    "critic": ["--max_steps", "1"],
    "program": ["onnx"],
    "publish": ["--push_to_hub", "me/planner"],
}


@pytest.mark.parametrize("verb", HANDED_ON)
@pytest.mark.usefixtures("no_page")
def test_a_link_out_of_a_folder_is_refused_by_the_verbs_that_write_into_it_or_hand_it_on(verb, planner, world, capfd):
    link(planner / "training" / "deep" / "notes.txt", world.precious)
    with tally.case(GROUP, f"{verb}, folder: a link out of it") as verdict:
        assert f"notes.txt is a link to {world.precious}" in refused(capfd, verb, planner, *HANDED_ON[verb])
        world.hold()
        verdict.outcome = "clear"


def break_index(text):
    return lambda planner, world: (planner / "model_index.json").write_text(text)


def break_json(name, **changes):
    return lambda planner, world: edit(planner / name, **changes)


def link_to_the_users(name):
    return lambda planner, world: link(planner / name, world.precious)


def link_subfolder(planner, world):
    shutil.move(planner / "unet", world.folder / "unet")
    (planner / "unet").symlink_to(world.folder / "unet")


DEEP = '{"a":' * 30000 + "1" + "}" * 30000
FOLDERS = {
    "model_index.json is a link": (link_to_the_users("model_index.json"), "model_index.json"),
    "README.md is a link": (link_to_the_users("README.md"), "README.md is a link to"),
    "pipeline.py is a link": (link_to_the_users("pipeline.py"), "pipeline.py is a link to"),
    "training/denoiser.yaml is a link": (link_to_the_users("training/denoiser.yaml"), "denoiser.yaml is a link to"),
    "unet/config.json is a link": (link_to_the_users("unet/config.json"), "config.json is a link to"),
    "weights are a link": (
        link_to_the_users("unet/diffusion_pytorch_model.safetensors"),
        "safetensors is a link to",
    ),
    "a subfolder is a link": (link_subfolder, "unet is a link to"),
    "the temporary file of 0.1 is a link": (link_to_the_users(".README.md.partial"), "partial is a link to"),
    "index: a list": (break_index("[]"), "holds a list"),
    "index: a number": (break_index("3"), "holds a int"),
    "index: nested deeply": (break_index(DEEP), "nested"),
    "index: no JSON": (break_index("{"), "is not JSON"),
    "index: 20 MB": (break_index(" " * 20_000_000 + "{}"), "20000002 bytes"),
    "index: bytes": (lambda planner, world: (planner / "model_index.json").write_bytes(b"\xff\xfe{"), "is not JSON"),
    "index: task a text": (break_json("model_index.json", task="x"), "task"),
    "index: references a text": (break_json("model_index.json", task={"reference_scores": "x"}), "reference_scores"),
    "index: references of text": (
        break_json("model_index.json", task={"reference_scores": {"name": "x", "min": "0", "max": "1"}}),
        "reference_scores",
    ),
    "index: equal references": (
        break_json("model_index.json", task={"reference_scores": {"name": "x", "min": 1, "max": 1}}),
        "reference_scores",
    ),
    "index: discount a text": (break_json("model_index.json", task={"discount": "x"}), "discount"),
    "index: planner a list": (break_json("model_index.json", planner=[]), "planner"),
    "index: NaN": (break_json("model_index.json", planner={"scale": float("nan")}), "planner.scale"),
    "index: infinite scale": (
        lambda planner, world: edit(planner / "model_index.json", normalization={"scale": [1.0, float("inf")]}),
        r"normalization.scale[1]",
    ),
    "index: subprocess.Popen as a part": (break_json("model_index.json", unet=["subprocess", "Popen"]), "unet"),
    "index: os.system as scheduler": (break_json("model_index.json", scheduler=["os", "system"]), "scheduler"),
    "index: a module beside": (break_json("model_index.json", unet=["strangers_module", "Env"]), "unet"),
    "index: an unknown part": (break_json("model_index.json", evil=["strangers_module", "Env"]), "evil"),
    "schedule: 1e12 levels": (break_json("scheduler/scheduler_config.json", num_train_timesteps=10**12), "timesteps"),
    "schedule: -1 levels": (break_json("scheduler/scheduler_config.json", num_train_timesteps=-1), "timesteps"),
    "schedule: levels a text": (break_json("scheduler/scheduler_config.json", num_train_timesteps="x"), "timesteps"),
    "schedule: a list": (lambda p, w: (p / "scheduler/scheduler_config.json").write_text("[]"), "scheduler_config"),
    "network: 1e9 channels": (break_json("unet/config.json", block_out_channels=[10**9, 10**9]), "block_out_channels"),
    "network: 1e6 channels": (break_json("unet/config.json", block_out_channels=[10**6, 10**6]), "weights"),
    "network: 1e6 layers": (break_json("unet/config.json", layers_per_block=10**6), "layers_per_block"),
    "network: 60 layers": (break_json("unet/config.json", layers_per_block=60), "weights"),
    "network: 1e5 blocks": (
        break_json("value_function/config.json", down_block_types=["DownResnetBlock1D"] * 10**5),
        "down_block_types",
    ),
    "network: 1e6 inputs": (break_json("value_function/config.json", in_channels=10**6), "value_function"),
    "network: unknown blocks": (break_json("unet/config.json", mid_block_type="os.system"), "describes no network"),
    "network: a pipe": (
        lambda planner, world: ((planner / "unet/config.json").unlink(), os.mkfifo(planner / "unet/config.json")),
        "is no file",
    ),
    "network: a list": (lambda planner, world: (planner / "unet/config.json").write_text("[1]"), "holds a list"),
}


@pytest.mark.parametrize("name", some_slow(FOLDERS, list(FOLDERS)[::2]))
def test_a_folder_that_reaches_elsewhere_or_for_too_much_is_refused(name, planner, world, capfd):
    change, words = FOLDERS[name]
    change(planner, world)
    with tally.case(GROUP, f"evaluate, folder: {name}") as verdict:
        assert words in refused(capfd, "evaluate", planner, *VERBS["evaluate"])
        world.hold()
        verdict.outcome = "clear"


def test_a_behaviours_folder_is_looked_at_as_well(planner, world, capfd):
    link(planner / "README.md", world.precious)
    with tally.case(GROUP, "collect --behaviour: a link") as verdict:
        words = ["--env_id", SPEC["id"], "--steps", "5", "--dataset_id", "test/x-v0", "--environments", "1"]
        assert "README.md is a link to" in refused(capfd, "collect", "--behaviour", planner, *words)
        world.hold()
        verdict.outcome = "clear"


def test_the_cache_of_the_hub_and_a_folder_that_is_itself_a_link_are_used(planner, world):
    repository = world.folder / "models--someone--planner"
    snapshot = repository / "snapshots" / "0123abc"
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in planner.rglob("*") if path.is_file())):
        place = snapshot / path.relative_to(planner)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, repository / "blobs" / str(number))
        place.symlink_to(os.path.relpath(repository / "blobs" / str(number), place.parent))
    (world.folder / "named").symlink_to(snapshot)
    for folder in (snapshot, world.folder / "named"):
        with tally.case(GROUP, f"evaluate, folder: {folder.name} of the hub's cache"):
            main(["evaluate", str(folder), *VERBS["evaluate"], "--output_dir", "out"])
    link(snapshot / "README.md", "../../../../home/precious")
    with tally.case(GROUP, "evaluate, folder: a link out of the hub's cache"), pytest.raises(SystemExit):
        main(["evaluate", str(snapshot), *VERBS["evaluate"], "--output_dir", "out"])
    world.hold()


def test_new_defaults_are_not_written_through_a_link(planner, world):
    from vgp_lightning.export.folder import update_defaults

    (planner / ".README.md.partial").symlink_to(world.precious)
    with tally.case(GROUP, "tune, folder: the temporary file of 0.1 as a link") as verdict:
        with pytest.raises(ValueError, match="partial is a link to"):
            update_defaults(planner, {"scale": 0.25})
        world.hold()
        verdict.outcome = "clear"


# ---------------------------------------------------------------- links in output folders

# What each verb writes at the top of its output folder, besides TensorBoard's events and the episodes.
OUTPUTS = {
    "evaluate": ["evaluation.json", "report.html", "rollout.png", "rollout.gif"],
    "tune": ["tuning.json", "report.html", "tuning.png"],
    "diagnose": [
        *("diagnostics.json", "report.html", "rollout.gif", "denoising.gif", "denoising_maze.gif"),
        *("calibration.png", "ranking.png", "choice.png", "choice_recorded.png", "horizon.png", "dynamics.png"),
        *("guidance.png", "denoising.png", "denoising_maze.png", "plans.png"),
    ],
}


@pytest.mark.parametrize("verb", PLAYED)
def test_links_in_an_output_folder_are_replaced_and_their_targets_stay(verb, planner, world):
    out = world.folder / "out"
    out.mkdir()
    partial = f"{OUTPUTS[verb][0]}.partial"
    for name in (*OUTPUTS[verb], partial):
        (out / name).symlink_to(world.precious)
    with tally.case(GROUP, f"{verb}, output folder: {', '.join(OUTPUTS[verb])}, {partial} are links"):
        main([verb, str(planner), *VERBS[verb], "--output_dir", str(out)])
        world.hold()
        assert [path.name for path in out.iterdir() if path.is_symlink()] == [partial]
        written = {path.name for path in out.iterdir() if path.is_file() and not path.name.startswith("events.")}
        assert {*OUTPUTS[verb][:2], partial} <= written <= {*OUTPUTS[verb], partial}  # the lists above are complete


@pytest.mark.parametrize("verb", PLAYED)
def test_a_command_whose_episodes_all_fail_leaves_no_results(verb, planner, world, capfd, monkeypatch):
    step = Continuous_MountainCarEnv.step
    monkeypatch.setattr(
        Continuous_MountainCarEnv, "step", lambda *given: (*step(*given)[:1], math.nan, *step(*given)[2:])
    )
    with tally.case(GROUP, f"{verb}: every reward is NaN") as verdict:
        assert "reward" in refused(capfd, verb, planner, *VERBS[verb], "--output_dir", "out")
        left = {path.name for path in (world.folder / "work" / "out").iterdir()} & set(OUTPUTS[verb])
        assert left == ({"tuning.json"} if verb == "tune" else set())  # a search writes down each rung
        verdict.outcome = "clear"


@pytest.mark.parametrize("text", [DEEP, "[" * 100000, "[]", "", "\x00"])
def test_a_strangers_evaluation_is_read_within_bounds(text, world, capfd):
    path = world.folder / "evaluation.json"
    path.write_text(text)
    with tally.case(GROUP, f"compare: {text[:5]!r}...") as verdict:
        assert str(path) in refused(capfd, "compare", path, path)
        verdict.outcome = "clear"


@pytest.mark.slow
def test_a_comparison_does_not_write_through_a_link(planner, world):
    main(["evaluate", str(planner), *VERBS["evaluate"], "--output_dir", "out", "--episodes", "2"])
    (world.folder / "work" / "pair.json").symlink_to(world.precious)
    with tally.case(GROUP, "compare --json: a link"):
        main(["compare", "out", "out", "--json", "pair.json"])
        world.hold()
        assert json.loads((world.folder / "work" / "pair.json").read_text())["pairs"] == 2


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_an_exported_folder_has_the_access_that_the_users_umask_says(mask, world):
    before = os.umask(mask)
    try:
        with tally.case(GROUP, f"export, umask {mask:03o}"):
            folder = write_tiny(world.folder / "own")
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*")):
        access = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == access, path


# ---------------------------------------------------------------- datasets and runs


DATA = {"dataset_id": "test/tiny-v0", "horizon": 8, "discount": 0.9, "batch_size": 8, "validation_share": 0.2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset, a data config, and the run of a planner of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        environment.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        environment.chdir(folder)
        words = ["--env_id", "Pendulum-v1", "--behaviour", "random", "--steps", "120", "--max_episode_steps", "20"]
        main(["collect", *words, "--dataset_id", "test/tiny-v0"])
        (folder / "data.yaml").write_text(yaml.safe_dump({"data": DATA}))
        main(["fit", *options(folder, folder / "runs")])
    return folder


@pytest.fixture
def data(trained, world, monkeypatch):
    """A copy of all of it, to be changed."""
    shutil.copytree(trained, world.folder / "trained")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(world.folder / "trained" / "minari"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(world.folder / "trained" / "cache"))
    return world.folder / "trained"


def options(folder, runs, *more):
    names = [CONFIGS / "denoiser.yaml", folder / "data.yaml", CONFIGS / "smoke.yaml"]
    words = ["--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false", "--trainer.max_steps", "4"]
    words += ["--trainer.limit_val_batches", "0"]
    words += ["--trainer.logger.init_args.save_dir", str(runs), *more]
    return [word for name in names for word in ("-c", str(name))] + words


def run_of(folder):
    return folder / "runs" / "denoiser" / "version_0"


def checkpoint_of(folder):
    return run_of(folder) / "checkpoints" / "last.ckpt"


PENDULUM = {"id": "Pendulum-v1", "additional_wrappers": []}
EVIL = json.dumps(SPEC | {"entry_point": "os:system", "kwargs": {"command": "SHELL"}})
BOX = {"type": "Box", "dtype": "float64", "shape": [3], "low": [-1.0] * 3, "high": [1.0] * 3}
METADATA = {
    "no observation space, an evil environment": ({"observation_space": None, "env_spec": EVIL}, "observation_space"),
    "no action space, an evil environment": ({"action_space": None, "env_spec": EVIL}, "action_space"),
    "no space, a module beside": (
        {"observation_space": None, "env_spec": json.dumps(SPEC | {"entry_point": "strangers_module:Env"})},
        "observation_space",
    ),
    "a space as an object": ({"observation_space": {}}, "observation_space"),
    "a space that is no JSON": ({"observation_space": "{"}, "observation_space"),
    "a space of another type": ({"observation_space": json.dumps({"type": ["os", "system"]})}, "observation_space"),
    "a space of 1e10 numbers": ({"observation_space": json.dumps(BOX | {"shape": [10**10]})}, "observation_space"),
    "a space whose low is one number": ({"observation_space": json.dumps(BOX | {"low": -1.0})}, "low"),
    "a space of objects": ({"observation_space": json.dumps(BOX | {"dtype": "O"})}, "dtype"),
    "a space of text bounds": ({"observation_space": json.dumps(BOX | {"low": ["a"] * 3})}, "low"),
    "spaces nested deeply": ({"observation_space": DEEP}, "observation_space"),
    "a Dict that holds none": ({"observation_space": json.dumps({"type": "Dict"})}, "observation_space"),
    "1e10 episodes": ({"total_episodes": 10**10}, "total_episodes"),
    "-1 episodes": ({"total_episodes": -1}, "total_episodes"),
    "1e15 steps": ({"total_steps": 10**15}, "total_steps"),
    "steps as text": ({"total_steps": "120"}, "total_steps"),
    "another format": ({"data_format": "os.system"}, "data_format"),
    "no format": ({"data_format": None}, "data_format"),
    "no id": ({"dataset_id": None}, "dataset_id"),
    "no version": ({"minari_version": None}, "minari_version"),
    "an environment without id": ({"env_spec": "{}"}, "env_spec"),
    "an environment that is no JSON": ({"eval_env_spec": "os:system"}, "eval_env_spec"),
    "an environment as a list": ({"eval_env_spec": "[]"}, "eval_env_spec"),
    "a reference of NaN": ({"ref_min_score": float("nan")}, "ref_min_score"),
    "a reference as text": ({"ref_max_score": "1"}, "ref_max_score"),
}


def change_metadata(path, changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_a_dataset_are_checked_before_minari_reads_them(name, data, world):
    changes, words = METADATA[name]
    change_metadata(data / "minari/test/tiny-v0/data/metadata.json", filled(changes, world))
    with tally.case(GROUP, f"dataset: {name}") as verdict:
        with pytest.raises(ValueError, match=f"metadata.json.*{words}"):
            MinariDataModule(**DATA)
        world.hold()
        verdict.outcome = "clear"


METADATA_FILES = {
    "a list": "[]",
    "deep": DEEP,
    "empty": "",
    "20 MB": " " * 20_000_000,
}


@pytest.mark.parametrize("name", METADATA_FILES)
def test_a_file_of_metadata_that_is_none_is_refused(name, data, world):
    (data / "minari/test/tiny-v0/data/metadata.json").write_text(METADATA_FILES[name])
    with tally.case(GROUP, f"dataset: metadata.json is {name}") as verdict:
        with pytest.raises(ValueError, match=r"metadata\.json"):
            MinariDataModule(**DATA)
        world.hold()
        verdict.outcome = "clear"


@pytest.mark.parametrize("verb", some_slow(["fit", "validate"], ["fit"]))
@pytest.mark.parametrize("what", ["a space is missing", "the data are a link"])
def test_training_on_a_strangers_dataset_is_refused(verb, what, data, world, capfd):
    folder = data / "minari/test/tiny-v0/data"
    if what == "a space is missing":
        change_metadata(folder / "metadata.json", filled({"observation_space": None, "env_spec": EVIL}, world))
    else:
        shutil.move(folder / "main_data.hdf5", world.folder / "secret.hdf5")
        link(folder / "main_data.hdf5", world.folder / "secret.hdf5")
    with tally.case(GROUP, f"{verb}, dataset: {what}") as verdict:
        more = ["--ckpt_path", str(checkpoint_of(data))] if verb == "validate" else []
        message = refused(capfd, verb, *options(data, world.folder / "new", *more))
        assert ("metadata.json" if what == "a space is missing" else "main_data.hdf5 is a link") in message
        world.hold()
        verdict.outcome = "clear"


def test_the_hint_at_neighbours_of_a_missing_dataset_runs_none_of_them(data, world):
    path = data / "minari/test/tiny-v0/data/metadata.json"
    change_metadata(path, filled({"observation_space": None, "env_spec": EVIL}, world))
    with tally.case(GROUP, "dataset: an evil neighbour of a missing one") as verdict:
        with pytest.raises(ValueError, match=r"test/tinny-v0.*Did you mean test/tiny-v0"):
            MinariDataModule(**DATA | {"dataset_id": "test/tinny-v0"})
        world.hold()
        verdict.outcome = "clear"


def test_a_datasets_evaluation_environment_does_not_run_at_the_end_of_the_chain(data, world, capfd):
    change_metadata(data / "minari/test/tiny-v0/data/metadata.json", filled({"eval_env_spec": EVIL}, world))
    with tally.case(GROUP, "fit, export, evaluate, dataset: evil eval_env_spec") as verdict:
        main(["fit", *options(data, world.folder / "new")])
        checkpoint = world.folder / "new/denoiser/version_0/checkpoints/last.ckpt"
        main(["export", "--denoiser", str(checkpoint), "--output", "exported"])
        world.hold()
        assert "--trust_environment" in refused(capfd, "evaluate", "exported", *VERBS["evaluate"])
        world.hold()
        verdict.outcome = "clear"


# ---------------------------------------------------------------- checkpoints


def with_hyper(**changes):
    def change(checkpoint):
        checkpoint["hyper_parameters"] |= changes

    return change


def with_tensor(name, make):
    def change(checkpoint):
        checkpoint["state_dict"][name] = make(checkpoint["state_dict"].get(name))

    return change


def without(key):
    return lambda checkpoint: checkpoint.pop(key)


def with_key(**changes):
    return lambda checkpoint: checkpoint.update(changes)


def bomb(depth=9, width=9):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines) + "\n"


def mapping_bomb(depth=9, width=9):
    """The same of mappings, which a walk over options follows."""
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, depth):
        lines.append(f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(width))}}}")
    return "\n".join(lines) + "\n"


POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": "SHELL", "shell": True}}
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
FIRST = "network.time_mlp.linear_1.weight"
DAMAGED = {
    "no hyper_parameters": (without("hyper_parameters"), "hyper_parameters"),
    "no state_dict": (without("state_dict"), "state_dict"),
    "no global_step": (without("global_step"), "global_step"),
    "hyper_parameters a list": (with_key(hyper_parameters=[1]), "hyper_parameters"),
    "state_dict a list": (with_key(state_dict=[1]), "state_dict"),
    "state_dict empty": (with_key(state_dict={}), "state_dict"),
    "global_step a text": (with_key(global_step="x"), "global_step"),
    "global_step negative": (with_key(global_step=-3), "global_step"),
    "vgp_config a dict": (with_key(vgp_config={}), "vgp_config"),
    "vgp_module a list": (with_key(vgp_module=["DenoiserModule"]), "is not a checkpoint"),
    "vgp_module os.system": (with_key(vgp_module="os.system"), "is not a checkpoint"),
    "unknown hyper-parameter": (with_hyper(evil=1), "evil"),
    "horizon missing": (lambda checkpoint: checkpoint["hyper_parameters"].pop("horizon"), "horizon"),
    "horizon a text": (with_hyper(horizon="8"), "horizon"),
    "horizon 1e9": (with_hyper(horizon=10**9), "horizon"),
    "horizon -8": (with_hyper(horizon=-8), "horizon"),
    "widths 1e9": (with_hyper(widths=[10**9, 10**9]), "widths"),
    "widths larger than the file": (with_hyper(widths=[32768, 65536]), "bytes"),
    "widths a text": (with_hyper(widths="16"), "widths"),
    "widths odd": (with_hyper(widths=[17, 33]), "17"),
    "1e9 noise levels": (with_hyper(num_train_timesteps=10**9), "num_train_timesteps"),
    "true noise levels": (with_hyper(num_train_timesteps=True), "num_train_timesteps"),
    "schedule os.system": (with_hyper(beta_schedule="os.system"), "beta_schedule"),
    "prediction type": (with_hyper(prediction_type="foo"), "prediction_type"),
    "learning rate NaN": (with_hyper(learning_rate=float("nan")), "learning_rate"),
    "learning rate 10**400": (with_hyper(learning_rate=10**400), "learning_rate"),
    "task a text": (with_hyper(task="x"), "task"),
    "task with datasets that are numbers": (with_hyper(task={"dataset_id": [1]}), "task"),
    "task with an environment that is a list": (with_hyper(task={"env_id": ["os", "system"]}), "task"),
    "task with a tensor": (with_hyper(task={"x": torch.zeros(1)}), "task"),
    "tensor missing": (lambda checkpoint: checkpoint["state_dict"].pop(FIRST), FIRST),
    "tensor surplus": (with_tensor("evil", lambda _: torch.zeros(1)), "evil"),
    "tensor of another shape": (with_tensor(FIRST, lambda old: old[:-1].clone()), FIRST),
    "tensor of integers": (with_tensor(FIRST, lambda old: old.to(torch.int64)), FIRST),
    "tensor complex": (with_tensor(FIRST, lambda old: old.to(torch.complex64)), FIRST),
    "tensor sparse": (with_tensor(FIRST, lambda old: old.to_sparse()), FIRST),
    "tensor a number": (with_tensor(FIRST, lambda _: 1.0), FIRST),
    "tensor of 1e12 elements in 4 bytes": (with_tensor(FIRST, lambda _: torch.zeros(1).expand(10**6, 10**6)), FIRST),
    "weights NaN": (with_tensor(FIRST, lambda old: old * float("nan")), FIRST),
    "weights infinite": (with_tensor(FIRST, lambda old: old / 0), FIRST),
    "scale NaN": (with_tensor("scale", lambda old: old * float("nan")), "scale"),
    "action bound NaN": (with_tensor("action_low", lambda old: old * float("nan")), "action_low"),
}


def damaged(data, world, change):
    checkpoint = torch.load(checkpoint_of(data), weights_only=True)
    change(checkpoint)
    path = world.folder / "strangers.ckpt"
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("name", some_slow(DAMAGED, list(DAMAGED)[::2]))
def test_a_checkpoint_that_no_training_writes_is_not_exported(name, data, world, capfd):
    change, words = DAMAGED[name]
    path = damaged(data, world, change)
    with tally.case(GROUP, f"export, checkpoint: {name}") as verdict:
        message = refused(capfd, "export", "--denoiser", path, "--output", "exported")
        assert words in message
        assert str(path) in message
        assert not os.path.lexists("exported")
        world.hold()
        verdict.outcome = "clear"


IGNORED = {
    "instantiator and a class in the task": lambda world: {
        "_instantiator": INSTANTIATOR,
        "task": filled({"env_id": "Pendulum-v1", "x": POPEN}, world),
    },
    "instantiator os.system": lambda world: {"_instantiator": "os.system"},
    "class path": lambda world: {"_instantiator": INSTANTIATOR, "_class_path": "subprocess.Popen"},
    "class of a module beside": lambda world: {"_instantiator": INSTANTIATOR, "_class_path": "strangers_module.Env"},
}


@pytest.mark.parametrize("name", some_slow(IGNORED, ["instantiator and a class in the task"]))
def test_what_a_checkpoint_would_have_called_is_ignored(name, data, world):
    path = damaged(data, world, with_hyper(**IGNORED[name](world)))
    with tally.case(GROUP, f"export, checkpoint: {name}"):
        main(["export", "--denoiser", str(path), "--output", "exported"])
        world.hold()
    plain = torch.load(checkpoint_of(data), weights_only=True)
    main(["export", "--denoiser", str(checkpoint_of(data)), "--output", "again"])
    for left, right in zip(
        *(sorted((world.folder / "work" / name).rglob("*.safetensors")) for name in ("exported", "again")), strict=True
    ):
        assert left.read_bytes() == right.read_bytes()
    assert plain["global_step"] > 0


class Runs:
    """Pickled, it runs a command when it is loaded."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def pickled(world):
    path = world.folder / "strangers.ckpt"
    torch.save({"state_dict": Runs(world.shell)}, path)
    return path


def plain_pickle(world):
    path = world.folder / "strangers.ckpt"
    path.write_bytes(pickle.dumps(Runs(world.shell)))
    return path


@pytest.mark.parametrize("make", [pickled, plain_pickle])
@pytest.mark.parametrize("verb", ["export", "import", "fit", "validate"])
def test_pickled_code_does_not_run(verb, make, data, world, capfd):
    path = make(world)
    words = {
        "export": ["export", "--denoiser", path, "--output", "exported"],
        "import": ["import", path, "--statistics", world.precious, "--output", "exported"],
        "fit": ["fit", *options(data, world.folder / "new", "--ckpt_path", str(path))],
        "validate": ["validate", *options(data, world.folder / "new", "--ckpt_path", str(path))],
    }
    with tally.case(GROUP, f"{verb}, checkpoint: {make.__name__}") as verdict:
        assert str(path) in refused(capfd, *words[verb])
        world.hold()
        verdict.outcome = "clear"


FEW_RESUMED = ["a bomb of aliases in vgp_config", "an optimizer without groups", "a callback that removes another file"]
RESUMED = {
    "a bomb of aliases in vgp_config": (with_key(vgp_config=mapping_bomb()), "vgp_config"),
    "a deep vgp_config": (with_key(vgp_config="[" * 5000 + "]" * 5000), "vgp_config"),
    "a vgp_config that contains itself": (with_key(vgp_config="a: &a {b: *a}"), "vgp_config"),
    "a vgp_config with a tag": (with_key(vgp_config='!!python/object/apply:os.system ["SHELL"]'), "vgp_config"),
    "a vgp_config that is a list": (with_key(vgp_config="[]"), "vgp_config"),
    "no weights": (without("state_dict"), "state_dict"),
    "a tensor of 1e12 elements": (DAMAGED["tensor of 1e12 elements in 4 bytes"][0], FIRST),
    "NaN": (DAMAGED["weights NaN"][0], FIRST),
    "a list": (lambda checkpoint: checkpoint.update(callbacks=[]), "callbacks"),
    "an optimizer without groups": (with_key(optimizer_states=[{}]), "optimizer"),
    "an average without its number": (with_key(averaging_state={}), "averaging_state"),
    "an average without raw weights": (without("current_model_state"), "current_model_state"),
    "no loops": (with_key(loops={}), "loops"),
    "an EMA without its step": (with_key(callbacks={"EMA": {"latest_update_step": "x"}}), "EMA"),
    "a callback that removes a file of the user": (
        with_key(callbacks={"ModelCheckpoint{}": {"dirpath": "/d", "best_k_models": {"/d/../PRECIOUS": 1.0}}}),
        "lies outside",
    ),
    "a callback that climbs to another file": (
        with_key(callbacks={"ModelCheckpoint{}": {"dirpath": "/", "best_model_path": "runs/../../PRECIOUS"}}),
        "lies outside",
    ),
    "a callback that removes another file": (
        with_key(callbacks={"ModelCheckpoint{}": {"dirpath": "d", "kth_best_model_path": "PRECIOUS"}}),
        "lies outside",
    ),
}


@pytest.mark.parametrize("name", some_slow(RESUMED, FEW_RESUMED))
def test_training_does_not_go_on_from_a_hostile_checkpoint(name, data, world, capfd):
    change, words = RESUMED[name]

    def with_paths(checkpoint):
        change(checkpoint)
        for key in ("vgp_config", "callbacks"):
            checkpoint[key] = filled(rekeyed(checkpoint[key], world), world)

    path = damaged(data, world, with_paths)
    with tally.case(GROUP, f"fit --ckpt_path: {name}") as verdict:
        message = refused(capfd, "fit", *options(data, world.folder / "new", "--ckpt_path", str(path)))
        assert words in message
        world.hold()
        verdict.outcome = "clear"


def rekeyed(value, world):
    if isinstance(value, dict):
        return {filled(key, world): rekeyed(part, world) for key, part in value.items()}
    return value


@pytest.mark.parametrize("name", some_slow(["no weights", "NaN", "a tensor of 1e12 elements", "a list"], ["NaN"]))
def test_a_hostile_checkpoint_is_not_validated(name, data, world, capfd):
    change, words = RESUMED[name]
    path = damaged(data, world, change)
    with tally.case(GROUP, f"validate --ckpt_path: {name}") as verdict:
        message = refused(capfd, "validate", *options(data, world.folder / "new", "--ckpt_path", str(path)))
        assert words in message
        world.hold()
        verdict.outcome = "clear"


def test_a_strangers_run_is_resumed_without_its_classes(data, world):
    def change(checkpoint):
        checkpoint["hyper_parameters"] |= {"_instantiator": INSTANTIATOR, "_class_path": "subprocess.Popen"}
        checkpoint["hyper_parameters"]["task"]["x"] = filled(POPEN, world)

    shutil.copy(damaged(data, world, change), checkpoint_of(data))
    more = ["--ckpt_path", "last", "--trainer.max_steps", "6", "--may_differ", "[trainer.max_steps]"]
    with tally.case(GROUP, "fit --ckpt_path last: classes in hyper_parameters"):
        main(["fit", *options(data, data / "runs", *more)])
        world.hold()
    assert torch.load(checkpoint_of(data), weights_only=True)["global_step"] == 6


LINKED = ["config.yaml", "hparams.yaml", "checkpoints/last.ckpt", "checkpoints", "."]


@pytest.mark.parametrize("name", some_slow(LINKED, ["config.yaml", "checkpoints"]))
def test_a_strangers_run_with_links_is_not_resumed(name, data, world, capfd):
    run, outside = run_of(data), world.folder / "outside"
    if name in ("checkpoints", "."):
        shutil.move(run / name, outside)
        (run if name == "." else run / name).symlink_to(outside)
    elif name == "checkpoints/last.ckpt":
        shutil.move(run / name, outside)
        (run / name).symlink_to(outside)
    else:
        link(run / name, world.precious)
    with tally.case(GROUP, f"fit --ckpt_path last: {name} is a link") as verdict:
        message = refused(capfd, "fit", *options(data, data / "runs", "--ckpt_path", "last"))
        assert "link" in message
        world.hold()
        verdict.outcome = "clear"


def test_the_users_own_links_beside_a_run_are_no_concern_of_it(data, world):
    (world.folder / "work" / "scratch").symlink_to(world.precious.parent)
    with tally.case(GROUP, "fit without a logger: a link in the current folder"):
        main(["fit", *options(data, data / "runs")[:6], *quiet(data)])
        world.hold()


def quiet(data):
    words = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.limit_val_batches", "0"]
    return [*words, "--trainer.logger", "false", "--trainer.callbacks", "[]", "--trainer.enable_model_summary", "false"]


def test_a_job_that_slurm_requeues_does_not_remove_what_a_strangers_checkpoint_names(data, world, capfd, monkeypatch):
    for name, value in {"NTASKS": 1, "JOB_NAME": "fit", "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_ID": 7}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    state = {"ModelCheckpoint{}": {"dirpath": "d", "kth_best_model_path": str(world.precious)}}
    path = damaged(data, world, with_key(callbacks=state))
    shutil.move(path, world.folder / "work" / "hpc_ckpt_1.ckpt")  # which Lightning finds by itself on SLURM
    with tally.case(GROUP, "fit, requeued by SLURM: a callback that removes another file") as verdict:
        message = refused(capfd, "fit", *options(data, world.folder / "new"))
        assert "lies outside" in message
        world.hold()
        verdict.outcome = "clear"


def test_a_checkpoint_is_written_beside_a_link_of_the_old_temporary_name(data, world):
    part = run_of(data) / "checkpoints" / "last.ckpt.part"
    part.write_text("")
    inside = run_of(data) / "checkpoints" / "precious"
    inside.write_text("the user's")
    link(part, inside)  # within the folder, so that it is allowed
    more = ["--ckpt_path", "last", "--trainer.max_steps", "6", "--may_differ", "[trainer.max_steps]"]
    with tally.case(GROUP, "fit --ckpt_path last: last.ckpt.part is a link"):
        main(["fit", *options(data, data / "runs", *more)])
        assert inside.read_text() == "the user's"
        assert torch.load(checkpoint_of(data), weights_only=True)["global_step"] == 6


# ---------------------------------------------------------------- the original's pickles


def reduced(function, *arguments):
    class Call:
        def __reduce__(self):
            return function, arguments

    return pickle.dumps(Call())


PICKLES = {
    "os.system": lambda world: reduced(os.system, world.shell),
    "eval": lambda world: reduced(eval, f"open({str(world.mark)!r}, 'w')"),
    "subprocess.Popen": lambda world: reduced(subprocess.Popen, ["touch", str(world.mark)]),
    "a dotted name below diffuser": lambda world: b"cdiffuser.os\nsystem\n(S'" + world.shell.encode() + b"'\ntR.",
    "a memo of 2 GB": lambda world: b"\x80\x02}r\xff\xff\xff\x7f.",
    "a bytearray of 1 TB": lambda world: b"\x80\x05\x96" + struct.pack("<Q", 10**12) + b".",
    "bytes of 1 TB": lambda world: b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b".",
    "text of 1 TB": lambda world: b"\x80\x04\x8d" + struct.pack("<Q", 10**12) + b".",
    "a frame of 1 TB": lambda world: b"\x80\x04\x95" + struct.pack("<Q", 10**12) + b"}.",
    "nested deeply": lambda world: b"\x80\x02" + b"(" * 100000 + b"t" * 100000 + b".",
    "20 MB": lambda world: pickle.dumps(bytes(20_000_000)),
    "empty": lambda world: b"",
    "no pickle": lambda world: b"hello",
    "a persistent id": lambda world: b"\x80\x02X\x01\x00\x00\x00xQ.",
    "an extension": lambda world: b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickled_config_of_the_original_is_read_without_running_or_believing_it(name, world, capfd):
    betas = torch.linspace(0.1, 0.2, 4)
    torch.save({"step": 1, "ema": {"betas": betas}}, world.folder / "state_0.pt")
    (world.folder / "dataset_config.pkl").write_bytes(PICKLES[name](world))
    with tally.case(GROUP, f"import, pickle: {name}") as verdict:
        words = ["--statistics", world.precious, "--output", "imported"]
        message = refused(capfd, "import", world.folder / "state_0.pt", *words)
        assert "dataset_config.pkl" in message
        world.hold()
        verdict.outcome = "clear"


STATES = {
    "no state": [1],
    "weights a list": {"ema": [1]},
    "weights empty": {"ema": {}},
    "1e12 elements in 4 bytes": {
        "ema": {"model.downs.0.0.blocks.0.block.0.weight": torch.zeros(1).expand(10**12, 1, 1)}
    },
    "a sparse tensor": {"ema": {"x": torch.eye(2).to_sparse()}},
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_file_of_the_original_that_is_none_is_refused(name, world, capfd):
    path = world.folder / "state_0.pt"
    torch.save(STATES[name], path)
    with tally.case(GROUP, f"import, checkpoint: {name}") as verdict:
        words = ["--statistics", world.precious, "--output", "imported"]
        assert str(path) in refused(capfd, "import", path, *words)
        verdict.outcome = "clear"


def external_link(file, secret):
    file["terminals"] = h5py.ExternalLink(str(secret), "terminals")


def external_storage(file, secret):
    file.create_dataset("terminals", (4,), "u1", external=[(str(secret), 0, 4)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "terminals", (4,))
    file.create_virtual_dataset("terminals", layout)


def larger_than_the_file(file, secret):
    file.create_dataset("terminals", (10**13,), "u1", chunks=(10**6,))


@pytest.mark.parametrize("hide", [external_link, external_storage, virtual, larger_than_the_file])
def test_statistics_are_not_read_from_another_file(hide, world):
    from vgp_lightning.export.original import _read_statistics

    secret, path = world.folder / "secret.hdf5", world.folder / "d4rl.hdf5"
    with h5py.File(secret, "w") as file:
        file["terminals"] = np.ones(4, np.uint8)
    with h5py.File(path, "w") as file:
        for key in ("timeouts", "actions", "observations"):
            file[key] = np.ones((4, 1))
        hide(file, secret)
    with tally.case(GROUP, f"import --statistics: {hide.__name__}") as verdict:
        with pytest.raises(ValueError, match="terminals"):
            _read_statistics(path, "hopper")
        verdict.outcome = "clear"


# ---------------------------------------------------------------- configs

TAG = '!!python/object/apply:os.system ["SHELL"]'
CONFIG_TEXTS = {
    "a tag of Python": f"FIRST: {TAG}\n",
    "a bomb of aliases": bomb(),
    "a deep list": "FIRST: " + "[" * 300 + "]" * 300 + "\n",
}
WITH_CONFIG = {
    "collect": "env_id",
    "export": "denoiser",
    "import": "statistics",
    "evaluate": "pipeline_folder",
    "compare": "a",
    "tune": "space",
    "diagnose": "pipeline_folder",
    "demo": "output_dir",
    "fit": "data",
    "validate": "data",
    "import-data": "source",
    "describe": "dataset_id",
    "publish": "pipeline_folder",
    "distill": "pipeline_folder",
    "critic": "pipeline_folder",
    "play": "pipeline_folder",
    "program": "folder",
}


def test_each_verb_that_takes_a_config_is_tried():
    assert set(WITH_CONFIG) == set(ALL_VERBS) - {"configs"}


@pytest.mark.parametrize("text", CONFIG_TEXTS)
@pytest.mark.parametrize("verb", some_slow(WITH_CONFIG, ["collect", "export", "evaluate", "fit"]))
def test_a_strangers_config_runs_nothing_and_takes_no_memory(verb, text, world, capfd):
    content = filled(CONFIG_TEXTS[text], world).replace("FIRST", WITH_CONFIG[verb])
    (world.folder / "strangers.yaml").write_text(content)
    with tally.case(GROUP, f"{verb}, config: {text}") as verdict:
        refused(capfd, verb, "-c", world.folder / "strangers.yaml")
        world.hold()
        verdict.outcome = "clear"


FEW_CLASSES = ["a free value of a strategy", "callbacks", "os.system as logger", "strategy"]
CLASSES = {
    "a free value of a strategy": {
        "strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"ddp_comm_state": POPEN}}
    },
    "a free value in a list": {
        "strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"ddp_comm_state": [POPEN]}}
    },
    "a free argument of a strategy": {
        "strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy", "dict_kwargs": {"static_graph": POPEN}}
    },
    "callbacks": {"callbacks": [POPEN]},
    "one callback": {"callbacks": POPEN},
    "logger": {"logger": POPEN},
    "a list of loggers": {"logger": [POPEN]},
    "os.system as logger": {"logger": {"class_path": "os.system", "init_args": {"command": "SHELL"}}},
    "strategy": {"strategy": POPEN},
    "plugins": {"plugins": [POPEN]},
    "profiler": {"profiler": POPEN},
    "accelerator": {"accelerator": POPEN},
    "a callback's callable": {
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"setup": POPEN}},
        ]
    },
    "a hook of a strategy": {
        "strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"ddp_comm_hook": POPEN}}
    },
    "a strategy within a strategy": {
        "strategy": {
            "class_path": "lightning.pytorch.strategies.DDPStrategy",
            "init_args": {"cluster_environment": POPEN, "checkpoint_io": POPEN},
        }
    },
}


@pytest.mark.parametrize("name", some_slow(CLASSES, FEW_CLASSES))
def test_a_config_of_a_training_starts_no_program(name, data, world, capfd):
    (world.folder / "strangers.yaml").write_text(yaml.safe_dump({"trainer": filled(CLASSES[name], world)}))
    with tally.case(GROUP, f"fit, config: subprocess.Popen as {name}") as verdict:
        words = options(data, world.folder / "new", "--trainer.fast_dev_run", "true")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = exit_code("fit", *words, "-c", str(world.folder / "strangers.yaml"))
        assert code in (0, 2)
        verdict.outcome = "clear" if code else "right"
        world.hold()


@pytest.mark.parametrize("place", ["model", "data"])
def test_a_config_cannot_replace_the_module_or_the_data_by_a_program(place, data, world, capfd):
    (world.folder / "strangers.yaml").write_text(yaml.safe_dump({place: filled(POPEN, world)}))
    with tally.case(GROUP, f"fit, config: subprocess.Popen as {place}") as verdict:
        words = options(data, world.folder / "new", "-c", str(world.folder / "strangers.yaml"))
        refused(capfd, "fit", *words)
        world.hold()
        verdict.outcome = "clear"


@pytest.mark.parametrize("named", ["subprocess.Popen", "strangers_module.Env"])
@pytest.mark.parametrize("how", ["config", "option"])
@pytest.mark.parametrize("verb", ["collect", "tune"])
def test_a_free_value_of_a_verb_names_no_class_whose_module_would_be_imported(verb, how, named, planner, world, capfd):
    name, value = ("env_kwargs", {"x": POPEN}) if verb == "collect" else ("space", {"scale": [POPEN]})
    value = filled(json.loads(json.dumps(value).replace("subprocess.Popen", named)), world)
    (world.folder / "strangers.yaml").write_text(yaml.safe_dump({name: value}))
    words = {
        "collect": ["--env_id", SPEC["id"], "--behaviour", "random", "--steps", "5", "--dataset_id", "test/x-v0"],
        "tune": [planner, *VERBS["tune"]],
    }[verb]
    more = ["-c", world.folder / "strangers.yaml"] if how == "config" else [f"--{name}", json.dumps(value)]
    with tally.case(GROUP, f"{verb}, {how}: {named} in a free value") as verdict:
        refused(capfd, verb, *words, *more)
        world.hold()
        verdict.outcome = "clear"


# ---------------------------------------------------------------- the state of a training, damaged anywhere


def places(value, path=()):
    """Yield the paths to all parts of a checkpoint's state; of parts that have numbers, the first alone."""
    parts = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, part in parts[:1] if parts and isinstance(parts[0][0], int) else parts:
        yield (*path, key)
        yield from places(part, (*path, key))


def put(checkpoint, path, value):
    *above, key = path
    for one in above:
        checkpoint = checkpoint[one]
    if value is None:
        del checkpoint[key]
    else:
        checkpoint[key] = value


STATE = ("loops", "callbacks", "averaging_state", "optimizer_states", "lr_schedulers", "vgp_position")


@pytest.mark.parametrize("step", [151, pytest.param(3, marks=pytest.mark.slow)])  # of hundreds of damages
def test_a_training_whose_state_is_damaged_goes_on_or_is_refused_by_name(step, data, world, capfd):
    whole = torch.load(checkpoint_of(data), weights_only=True)
    found = list(places({key: whole[key] for key in STATE}))
    more = ["--trainer.max_steps", "6", "--may_differ", "[trainer.max_steps]", "--trainer.enable_progress_bar", "false"]
    for i, (path, value) in enumerate((path, value) for path in found for value in (None, "text", [], -(2**70))):
        if i % step:
            continue
        changed = damaged(data, world, lambda checkpoint, path=path, value=value: put(checkpoint, path, value))
        name = f"fit --ckpt_path, {'.'.join(map(str, path))} is {'missing' if value is None else repr(value)}"
        with tally.case(GROUP, name) as verdict, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runs = world.folder / f"new{i}"
            try:
                main(["fit", *map(str, options(data, runs, "--ckpt_path", changed, *more))])
            except SystemExit as ended:
                message = capfd.readouterr().err
                verdict.outcome = "clear"
                assert ended.code == 2, message  # noqa: PT017 (it may also go on)
                assert "Traceback" not in message
                assert "checkpoint" in message or str(changed) in message, message
            else:
                assert last_of(runs)["global_step"] == 6
            world.hold()
