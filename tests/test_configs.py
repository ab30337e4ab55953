"""Every file in configs/ fits its base. The datasets are not needed: printing a config loads none."""

import functools
import inspect
import re
import runpy
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from vgp_lightning import shipped
from vgp_lightning.cli import main
from vgp_lightning.cli.verbs import VERBS
from vgp_lightning.shipped import CONFIGS

BASES = ["denoiser.yaml", "value.yaml", "planner.yaml"]
DATA = sorted(f"data/{path.name}" for path in (CONFIGS / "data").glob("*.yaml"))
HARDWARE = sorted(f"hardware/{path.name}" for path in (CONFIGS / "hardware").glob("*.yaml"))
CPU = sorted(f"cpu/{path.name}" for path in (CONFIGS / "cpu").glob("*.yaml"))
GPU = sorted(f"gpu/{path.name}" for path in (CONFIGS / "gpu").glob("*.yaml"))
INPAINTING = sorted(f"inpainting/{path.name}" for path in (CONFIGS / "inpainting").glob("*.yaml"))


def merged(capsys, *names):
    """Return what ``vgp fit`` makes of the files."""
    with pytest.raises(SystemExit) as ended:
        main(["fit", *(word for name in names for word in ("-c", str(CONFIGS / name))), "--print_config"])
    printed = capsys.readouterr()
    assert ended.value.code in (0, None), printed.err
    return yaml.safe_load(printed.out)


def leaves(tree, path=()):
    """Return (path, value) of every number and name in a config; a list counts as one."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def test_every_file_is_tried_here():
    found = {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")}
    evaluations = {name for name in found if name.startswith("evaluate/")}
    critics = {name for name in found if name.startswith("critic/")}
    rest = {"smoke.yaml", "demo.yaml", "habit.yaml"}
    assert found == {*BASES, *DATA, *HARDWARE, *CPU, *GPU, *INPAINTING, *evaluations, *critics, *rest}
    assert all((DATA, HARDWARE, CPU, GPU, INPAINTING, evaluations, critics))


def test_the_first_line_of_every_file_says_what_it_is_for():
    for path in CONFIGS.rglob("*.yaml"):  # `vgp configs` lists these lines
        assert re.fullmatch("# [A-Z0-9].{15,110}[^,:;]", path.read_text().splitlines()[0]), path


def test_an_installed_package_finds_its_own_configs_and_not_a_folder_of_that_name_beside_it(tmp_path):
    package = tmp_path / "vgp_lightning"
    for folder in (package / "configs", tmp_path / "configs"):  # the second belongs to another distribution
        folder.mkdir(parents=True)
    shutil.copy(shipped.__file__, package)
    assert runpy.run_path(str(package / "shipped.py"))["CONFIGS"] == package / "configs"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("overlay", [*DATA, *HARDWARE, *CPU, *GPU, "smoke.yaml", "demo.yaml"])
def test_an_overlay_fits_each_base_and_every_line_of_it_counts(base, overlay, capsys):
    data = [] if overlay.startswith("data/") or overlay == "demo.yaml" else [DATA[0]]
    config = merged(capsys, base, *data, overlay)
    for path, value in leaves(yaml.safe_load((CONFIGS / overlay).read_text())):
        assert at(config, path) == value, path
    # What the overlay leaves out is still the base's.
    assert config["model"]["class_path"] == yaml.safe_load((CONFIGS / base).read_text())["model"]["class_path"]
    assert config["trainer"]["gradient_clip_val"] == 1.0


@pytest.mark.parametrize("overlay", [*DATA, "demo.yaml"])
def test_the_horizon_of_an_overlay_fits_the_networks_it_is_meant_for(overlay, capsys):
    from vgp_lightning.pipeline.networks import check_horizon

    for base in BASES:
        config = merged(capsys, base, overlay)
        widths = config["model"]["init_args"]["widths"]
        networks = ["denoiser", "value"] if base == "planner.yaml" else [Path(base).stem]
        check_horizon(config["data"]["horizon"], **{f"{network}_widths": widths for network in networks})


@pytest.mark.parametrize("data", DATA)
def test_each_dataset_has_one_overlay_for_a_cpu_whose_horizon_fits_both_networks(data, capsys):
    from vgp_lightning.pipeline.networks import check_horizon

    (overlay,) = [name for name in CPU if Path(data).stem.startswith(Path(name).stem)]
    init = (config := merged(capsys, "planner.yaml", data, overlay))["model"]["init_args"]
    check_horizon(config["data"]["horizon"], denoiser_widths=init["widths"], value_widths=init["widths"])


@pytest.mark.parametrize("overlay", INPAINTING)
@pytest.mark.parametrize(
    ("sizes", "changed"), [("cpu/pointmaze.yaml", {}), ("gpu/pointmaze.yaml", {("data", "batch_size"): 256})]
)
def test_an_inpainting_overlay_fits_the_denoiser_alone(overlay, sizes, changed, capsys):
    from vgp_lightning.pipeline.networks import check_horizon

    data = f"data/pointmaze-{Path(overlay).name}"
    config = merged(capsys, "denoiser.yaml", data, overlay, sizes)
    for path, value in leaves(yaml.safe_load((CONFIGS / overlay).read_text())):
        assert at(config, path) == changed.get(path, value), path
    init = config["model"]["init_args"]
    assert init["stride"] > 1
    check_horizon(config["data"]["horizon"], denoiser_widths=init["widths"], stride=init["stride"])


def test_denoiser_and_value_function_have_the_same_noise_schedule(capsys):
    schedules = [
        {name: config["model"]["init_args"][name] for name in ("num_train_timesteps", "beta_schedule")}
        for config in (merged(capsys, base, DATA[0]) for base in BASES)
    ]
    assert schedules[0] == schedules[1] == schedules[2]


OPTIONS = {"evaluate": "evaluate", "export": "evaluate", "critic": "critic"}  # verb: folder of configs


@pytest.mark.parametrize(
    ("verb", "path"),
    [(verb, path) for verb, folder in OPTIONS.items() for path in sorted((CONFIGS / folder).glob("*.yaml"))],
    ids=lambda value: getattr(value, "stem", value),
)
def test_a_planner_s_settings_are_options_of_the_verbs_that_take_them(path, verb, tmp_path, monkeypatch):
    given = {}
    module, name = import_module(f"vgp_lightning.{VERBS[verb].module}"), VERBS[verb].function

    # The parser reads the signature; the body is not run.
    @functools.wraps(getattr(module, name))
    def recorded(*args, **options):
        given.update(options)

    monkeypatch.setattr(module, name, recorded)
    main([verb, *(["--denoiser=a", "--output=b"] if verb == "export" else [str(tmp_path)]), "-c", str(path)])
    for name, value in yaml.safe_load(path.read_text()).items():
        assert given[name] == value


def test_the_config_of_a_habit_holds_the_defaults_of_the_verb():
    parameters = inspect.signature(import_module("vgp_lightning.distillation.distillation").distill).parameters
    given = yaml.safe_load((CONFIGS / "habit.yaml").read_text())
    assert given.pop("widths") == [512, 512, 512]
    assert given == {name: parameters[name].default for name in given}
    own = set(parameters) - {"pipeline_folder", "output_dir", "dataset_id", "device", "widths", "settings"}
    assert set(given) == own - {"env_id", "trust_environment", "environments", "max_episode_steps"}


def test_the_settings_of_a_planner_are_named_as_the_dataset_they_are_for():
    settings = {path.stem for path in (CONFIGS / "evaluate").glob("*.yaml")}
    assert settings <= {Path(name).stem for name in DATA}
