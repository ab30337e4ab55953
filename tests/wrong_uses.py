"""Wrong uses of the command line, each with the message that it has to end in: a table.

``tests/faults/test_command_lines.py`` tries each, and docs/troubleshooting.md lists those that have a cure. In a row,
a word in capitals at the beginning of an argument stands for one of the ``NAMES``.
"""

from dataclasses import dataclass

NAMES = {
    "PIPE": "a pipeline folder, of a planner for Track-v0, with a value function",
    "BARE": "another, without a value function and without an environment",
    "RUN": "the folder of a run",
    "RUNS": "the folder of two runs",
    "CKPT": "the run's checkpoint, of a denoiser with 20 noise levels",
    "FILE": "a text file",
    "DIR": "a folder with a text file",
    "ART": "the folder of the configs and other files that the rows name",
}


@dataclass(frozen=True)
class Row:
    """A wrong use.

    Attributes:
        arguments: The command line, words separated by blanks; a mapping or list in braces or brackets is one word.
        message: What the message has to contain.
        cure: What to do, for docs/troubleshooting.md.
        code: The exit code.
    """

    arguments: str
    message: str
    cure: str | None = None
    code: int = 2


# ---------------------------------------------------------------- values of another type

WHOLE, NUMBER, BOOL = "a whole number is needed", "a number is needed", "true or false is needed"
# What each verb needs besides the option that is wrong, and its options by their type.
VERBS = {
    "evaluate": "evaluate PIPE",
    "tune": "tune PIPE",
    "diagnose": "diagnose PIPE",
    "play": "play PIPE",
    "distill": "distill PIPE",
    "critic": "critic PIPE",
    "collect": "collect --env_id Track-v0 --behaviour random --steps 5 --dataset_id test/new-v0",
    "export": "export --denoiser CKPT --output new",
    "import": "import FILE --statistics FILE --output new",
    "compare": "compare FILE FILE",
    "demo": "demo",
    "import-data": "import-data ART/flat.npz --dataset_id test/new-v0",
    "describe": "describe test/nothing-v0",
}
SETTINGS_WHOLE = (
    "batch_size",
    "planning_horizon",
    "n_guide_steps",
    "t_stopgrad",
    "replan_every",
    "num_inference_steps",
)
SETTINGS_NUMBER = ("scale", "choice_temperature", "temperature", "warm_start_strength", "max_grad_norm")
TYPED = {
    "evaluate": {
        WHOLE: ("episodes", "seed", "sampler_seed", "environments", "delay", *SETTINGS_WHOLE),
        NUMBER: ("ref_min_score", "ref_max_score", *SETTINGS_NUMBER),
        BOOL: ("video", "habit", "reach_goal", "follow_states"),
    },
    "distill": {
        WHOLE: ("chunk", "recorded_states", "rounds", "visited_states", "max_steps", "samples_per_step", "seed"),
        NUMBER: ("action_noise", "value_temperature", "learning_rate", "weight_decay", "validation_share"),
    },
    "critic": {
        WHOLE: ("state_values", "networks", "max_steps", "samples_per_step", "warmup_steps", "seed"),
        NUMBER: ("learning_rate", "weight_decay"),
    },
    "tune": {
        WHOLE: ("episodes", "configurations", "seed", "holdout_episodes", "environments"),
        NUMBER: ("latency_ms",),
        BOOL: ("write",),
    },
    "diagnose": {
        WHOLE: ("episodes", "seed", "starts", "choice_steps", "recorded_episodes", *SETTINGS_WHOLE[:2]),
        BOOL: ("video", "reach_goal"),
    },
    "play": {
        WHOLE: ("seed", "max_episode_steps", "port", "visitors", *SETTINGS_WHOLE[:2]),
        NUMBER: SETTINGS_NUMBER[:1],
        BOOL: ("open_browser",),
    },
    "collect": {
        WHOLE: ("steps", "seed", "environments", "max_episode_steps"),
        NUMBER: ("weight_noise", "action_noise", "ref_min_score", "ref_max_score"),
    },
    "import-data": {BOOL: ("no_rewards",)},
    "export": {WHOLE: SETTINGS_WHOLE, NUMBER: SETTINGS_NUMBER},
    "import": {WHOLE: SETTINGS_WHOLE[:2], NUMBER: ("discount", "scale"), BOOL: ("predict_epsilon", "normed")},
    "demo": {WHOLE: ("episodes", "steps", "denoiser_steps", "value_steps", "seed")},
}
WRONG = {WHOLE: ("many", "1.5"), NUMBER: ("many",), BOOL: ("maybe",)}
OTHER_TYPES = [
    Row(f"{VERBS[verb]} --{option} {value}", f"--{option} is {value!r}: {needed}")
    for verb, kinds in TYPED.items()
    for needed, options in kinds.items()
    for option in options
    for value in WRONG[needed]
]
CHOICES = [
    Row(f"{VERBS[verb]} --{option} nonsense", f"--{option} is 'nonsense': one of {choices} is needed")
    for verb, option, choices in (
        ("evaluate", "sampler", "ddpm, ddim, dpmsolver, unipc"),
        ("evaluate", "guide_scaling", "variance, std, none, stock"),
        ("evaluate", "guide_on", "noisy, clean"),
        ("evaluate", "rank_by", "value, critic"),
        ("critic", "truncation", "cut, continue"),
        ("diagnose", "sampler", "ddpm, ddim, dpmsolver, unipc"),
        ("export", "sampler", "ddpm, ddim, dpmsolver, unipc"),
        ("export", "guide_on", "noisy, clean"),
        ("export", "program", "onnx, pt2"),
        ("import", "weights", "ema, model"),
        ("import-data", "format", "auto, d4rl, robomimic, npz, ogbench, csv, parquet, lerobot"),
        ("import-data", "last_observation", "drop, repeat"),
        ("compare", "metric", "return, normalized_score, length, success"),
    )
]
MAPPINGS = [
    Row(f"{VERBS['tune']} --space {value}", f"--space is {value!r}: a mapping such as '{{name: value}}' is needed")
    for value in ("4", "[4]", "batch_size", "{batch_size:4}")
] + [
    Row(
        f"{VERBS['collect']} --env_kwargs {value}",
        f"--env_kwargs is {value!r}: a mapping such as '{{name: value}}' is needed",
    )
    for value in ("4", "[4]", "slow")
]

# ---------------------------------------------------------------- names of options

SHORT, NEAR = "options are not abbreviated; did you mean", "did you mean"
UNKNOWN = [
    Row(f"{VERBS[verb]} --{wrong} 1", f"unknown option --{wrong}: {guess} --{right}?", cure)
    for verb, wrong, guess, right, cure in (
        ("evaluate", "episode", SHORT, "episodes", "Write the option in full."),
        ("evaluate", "n_guide", SHORT, "n_guide_steps", None),
        ("evaluate", "sampler_s", SHORT, "sampler_seed", None),
        ("evaluate", "max_grad", SHORT, "max_grad_norm", None),
        ("evaluate", "output", SHORT, "output_dir", None),
        ("evaluate", "env", f"{SHORT} one of", "env_id, --environments", None),
        ("tune", "conf", f"{SHORT} one of", "config, --configurations", None),
        ("tune", "hold", SHORT, "holdout_episodes", None),
        ("tune", "latency", SHORT, "latency_ms", None),
        ("diagnose", "start", SHORT, "starts", None),
        ("diagnose", "reach", SHORT, "reach_goal", None),
        ("collect", "weight", SHORT, "weight_noise", None),
        ("collect", "max", SHORT, "max_episode_steps", None),
        ("collect", "step", SHORT, "steps", None),
        ("export", "val", SHORT, "value", None),
        ("export", "warm", SHORT, "warm_start_strength", None),
        ("import", "stat", SHORT, "statistics", None),
        ("import", "predict", SHORT, "predict_epsilon", None),
        ("compare", "met", SHORT, "metric", None),
        ("demo", "den", SHORT, "denoiser_steps", None),
        ("evaluate", "n_guidesteps", NEAR, "n_guide_steps", "Use the name that the message gives."),
        ("evaluate", "epsiodes", NEAR, "episodes", None),
        ("evaluate", "batchsize", NEAR, "batch_size", None),
        ("evaluate", "vidoe", NEAR, "video", None),
        ("tune", "confgurations", NEAR, "configurations", None),
        ("collect", "enviroments", NEAR, "environments", None),
        ("collect", "behavior", NEAR, "behaviour", None),
        ("export", "out_put", NEAR, "output", None),
        ("export", "nguide_steps", NEAR, "n_guide_steps", None),
        ("import", "statstics", NEAR, "statistics", None),
        ("compare", "metrics", NEAR, "metric", None),
        ("demo", "epsodes", NEAR, "episodes", None),
    )
]
OF_OTHER_VERBS = [
    Row(f"{VERBS['evaluate']} --trainer.max_steps 5", "unknown option --trainer.max_steps: it is an option of vgp fit"),
    Row(f"{VERBS['evaluate']} --starts 5", "unknown option --starts: it is an option of vgp diagnose"),
    Row(f"{VERBS['evaluate']} --space {{}}", "unknown option --space: it is an option of vgp tune"),
    Row(f"{VERBS['evaluate']} --denoiser CKPT", "unknown option --denoiser: it is an option of vgp export, import"),
    Row(f"{VERBS['compare']} --scale 1", "unknown option --scale: it is an option of vgp export, import, evaluate"),
    Row(
        f"{VERBS['demo']} --device cpu",
        "unknown option --device: it is an option of vgp evaluate, distill, tune, diagnose",
    ),
    Row(f"{VERBS['collect']} --ckpt_path x", "unknown option --ckpt_path: it is an option of vgp fit, validate"),
]
NO_VALUE = [
    Row(f"{VERBS[verb]} --{option}", f"--{option} needs a value; one that begins with '-' is given as --{option}=VALUE")
    for verb, option in (
        *(("evaluate", "episodes"), ("evaluate", "output_dir"), ("evaluate", "scale"), ("tune", "space")),
        *(("diagnose", "starts"), ("collect", "seed"), ("export", "value"), ("import", "env_id")),
        *(("compare", "json"), ("demo", "steps"), ("evaluate", "config")),
    )
]
TOO_MANY = [
    Row(f"{VERBS['evaluate']} more", "unexpected argument 'more': vgp evaluate takes pipeline_folder without a name"),
    Row(f"{VERBS['tune']} 300", "unexpected argument '300': vgp tune takes pipeline_folder without a name"),
    Row(f"{VERBS['diagnose']} more", "unexpected argument 'more': vgp diagnose takes pipeline_folder without a name"),
    Row(f"{VERBS['compare']} FILE", "unexpected argument "),
    Row(f"{VERBS['import']} more", "unexpected argument 'more': vgp import takes denoiser without a name"),
    Row(f"{VERBS['collect']} more", "unexpected argument 'more': vgp collect takes options only"),
    Row(f"{VERBS['export']} more", "unexpected argument 'more': vgp export takes options only"),
    Row(f"{VERBS['demo']} more", "unexpected argument 'more': vgp demo takes options only"),
    Row("configs planner.yaml more", "unexpected argument 'more': vgp configs takes name without a name"),
    Row("configs --all", "unknown option --all"),
]
MISSING = [
    Row("evaluate", "vgp evaluate needs pipeline_folder"),
    Row("tune --episodes 5", "vgp tune needs pipeline_folder"),
    Row("diagnose", "vgp diagnose needs pipeline_folder"),
    Row("compare FILE", "vgp compare needs b"),
    Row("compare", "vgp compare needs a and b"),
    Row("collect", "vgp collect needs --env_id and --behaviour and --steps and --dataset_id"),
    Row("collect --env_id Track-v0 --steps 5", "vgp collect needs --behaviour and --dataset_id"),
    Row("export --output new", "vgp export needs --denoiser"),
    Row("export --denoiser CKPT", "vgp export needs --output"),
    Row("program PIPE", "vgp program needs program"),
    Row("import-data ART/flat.npz", "vgp import-data needs --dataset_id"),
    Row("import-data --dataset_id test/new-v0", "vgp import-data needs source"),
    Row("describe", "vgp describe needs dataset_id"),
    Row("play", "vgp play needs pipeline_folder"),
    Row("import FILE", "vgp import needs --statistics and --output"),
]
NO_VERB = [
    Row(
        "evalute",
        "unknown verb 'evalute': choose from collect, import-data, describe",
        "Write the verb as `vgp --help` does.",
    ),
    Row("train", "unknown verb 'train': choose from"),
    Row("FIT", "unknown verb 'FIT': choose from"),
    Row("--episodes 5", "unknown verb '--episodes': choose from"),
    Row("-v", "unknown verb '-v': choose from"),
]

# ---------------------------------------------------------------- config files

CONFIGS = {  # name: (content, message)
    "twice.yaml": ("seed: 1\nepisodes: 2\nseed: 3\n", "twice.yaml has seed twice, in line 1 and in line 3: remove one"),
    "syntax.yaml": ("seed: [1\nepisodes: 2\n", "syntax.yaml, line 2: this is not YAML: "),
    "tab.yaml": ("seed: 1\n\tepisodes: 2\n", "tab.yaml, line 2: this is not YAML: "),
    "list.yaml": ("- seed\n- 1\n", "list.yaml holds a list, not options: write one a line, such as 'seed: 0'"),
    "text.yaml": ("only words\n", "text.yaml holds the text 'only words', not options"),
    "empty.yaml": ("", "empty.yaml is empty: a config holds options, one a line"),
    "binary.yaml": (bytes(range(256)), "binary.yaml is not a text file: a config is YAML"),
    "code.yaml": ("seed: !!python/object/apply:os.getpid []\n", "code.yaml, line 1: seed has the tag "),
    "two.yaml": ("seed: 1\n---\nseed: 2\n", "two.yaml, line 2: this is not YAML: "),
    "deep.yaml": ("seed: " + "[" * 200 + "]" * 200, "deep.yaml is nested too deeply to be a config"),
    "bomb.yaml": (
        "a: &a [0,0,0,0,0,0,0,0,0]\n"
        + "".join(
            f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "bomb.yaml has more than 10000 values: write a config without so many aliases",
    ),
    "loop.yaml": ("seed: &a [*a]\n", "loop.yaml, line 1: an alias stands for what it is a part of"),
}
CURES = {
    "twice.yaml": "Remove one of the two lines.",
    "empty.yaml": "Name another file, or write options into this one.",
    "code.yaml": "Remove the tag. A config from somebody else that has one may be hostile.",
}
ANY_CONFIG = [
    Row(f"{VERBS['evaluate']} -c ART/{name}", message, CURES.get(name)) for name, (_, message) in CONFIGS.items()
] + [
    Row(f"{VERBS[verb]} -c ART/good.yaml -c ART/{name}", CONFIGS[name][1])
    for verb in ("tune", "collect", "export", "demo")
    for name in ("twice.yaml", "syntax.yaml", "list.yaml", "empty.yaml", "binary.yaml")
]
KEYS = [
    Row(f"{VERBS[verb]} -c ART/{name}.yaml", f"{name}.yaml, line {line}: {message}", cure)
    for verb, name, line, message, cure in (
        ("evaluate", "epsiodes", 2, "unknown option epsiodes: did you mean --episodes?", None),
        ("tune", "epsiodes", 2, "unknown option epsiodes: did you mean --episodes?", None),
        ("demo", "epsiodes", 2, "unknown option epsiodes: did you mean --episodes?", None),
        (
            "evaluate",
            "many",
            1,
            "seed is 'many': a whole number is needed",
            "Correct the value in that line of the file.",
        ),
        ("tune", "many", 1, "seed is 'many': a whole number is needed", None),
        ("diagnose", "many", 1, "seed is 'many': a whole number is needed", None),
        ("collect", "many", 1, "seed is 'many': a whole number is needed", None),
        ("demo", "many", 1, "seed is 'many': a whole number is needed", None),
        *(
            (
                *(verb, "training", 1, "unknown option data.horizon: it is an option of vgp fit, validate"),
                "Give a config to the verb that it is for: the first line of each says which." * (verb == "evaluate")
                or None,
            )
            for verb in ("evaluate", "tune", "diagnose", "collect", "export", "demo")
        ),
        ("collect", "space", 1, "unknown option space.batch_size: it is an option of vgp tune", None),
        ("evaluate", "space", 1, "unknown option space.batch_size: it is an option of vgp tune", None),
    )
]
NO_CONFIG = [
    row
    for verb in ("evaluate", "tune", "collect", "export", "compare")
    for row in (
        Row(f"{VERBS[verb]} -c nothing.yaml", "there is no config 'nothing.yaml': looked in the current folder ("),
        Row(f"{VERBS[verb]} -c DIR", "is a folder, and -c takes a file; `vgp configs` lists the packaged ones"),
        Row(f"{VERBS[verb]} -c planer.yaml", "Did you mean planner.yaml?"),
    )
] + [
    Row("configs planer.yaml", "there is no config 'planer.yaml'", "Choose one that `vgp configs` lists."),
    Row("configs ../pyproject.toml", "there is no config '../pyproject.toml'"),
    Row(f"{VERBS['evaluate']} -c {{seed:", "there is no config '{seed:'"),
    Row(f"{VERBS['evaluate']} -c [1,2]", "there is no config '[1,2]'"),
]

# ---------------------------------------------------------------- values out of range

SEEDS = [
    Row(f"{VERBS[verb]} --{option} {value}", f"{option} is {value}: a whole number from 0 to ")
    for verb, option in (
        *(("evaluate", "seed"), ("evaluate", "sampler_seed"), ("tune", "seed"), ("diagnose", "seed")),
        *(("collect", "seed"), ("demo", "seed"), ("play", "seed")),
    )
    for value in ("-1", "99999999999999999999")
]
ADDRESSES = [
    Row(
        f"{VERBS['play']} --port 70000",
        "port is 70000: a whole number between 0 and 65535 is needed",
        "Give another port; 0 takes a free one.",
    ),
    Row(
        f"{VERBS['play']} --host 203.0.113.7",
        "--host 203.0.113.7 --port 7860 cannot be listened at: ",
        "Give an address of this machine, such as 127.0.0.1, and a port that is free: another `vgp play` may have it.",
    ),
]
COUNTS = [
    Row(f"{VERBS[verb]} --{option} {value}", f"{option} is {value}: at least ")
    for verb, option in (
        *(("evaluate", "episodes"), ("diagnose", "episodes"), ("diagnose", "starts"), ("collect", "steps")),
        *(("collect", "max_episode_steps"), ("tune", "holdout_episodes"), ("tune", "configurations")),
        *(("demo", "episodes"), ("demo", "steps"), ("demo", "denoiser_steps"), ("demo", "value_steps")),
    )
    for value in ("0", "-3")
] + [
    Row(f"{VERBS['tune']} --latency_ms -1", "latency_ms is -1.0: milliseconds above 0 are needed"),
    Row(f"{VERBS['tune']} --episodes 10", "episodes is 10: halving 27 configurations needs at least 39"),
    Row(f"{VERBS['evaluate']} --environments 0", "0 environments: at least 1 is needed"),
    Row(f"{VERBS['collect']} --environments 0", "0 environments: at least 1 is needed"),
]
RANGES = [
    # YAML writes nan and inf with a dot.
    Row(f"{VERBS[verb]} --{option} {value}", f"{option} is {value.removeprefix('.')}")
    for verb in ("evaluate", "diagnose")
    for option, value in (
        *(
            ("batch_size", "0"),
            ("planning_horizon", "0"),
            ("num_inference_steps", "0"),
            ("num_inference_steps", "1000"),
        ),
        *(("n_guide_steps", "-1"), ("t_stopgrad", "-1"), ("max_grad_norm", "-1.0"), ("temperature", "-1.0")),
        *(("warm_start_strength", "1.5"), ("replan_every", "-1"), ("scale", ".nan"), ("temperature", ".inf")),
    )
] + [
    Row("evaluate PIPE --delay -1", "delay is -1: a whole number of steps from 0 on is needed"),
    Row(
        "evaluate PIPE --delay 2",
        "delay is 2, but replan_every is 1: the next plan would be started before this one is there",
        "Add the `--replan_every` that the message gives.",
    ),
    Row("evaluate PIPE --delay 1 --replan_every 0", "delay is 1, but replan_every is 0"),
]
SPACES = [
    Row(f"{VERBS['tune']} --space {{nonsense: [1]}}", "space names unknown settings ['nonsense']"),
    Row(f"{VERBS['tune']} --space {{batch_size: []}}", "space has no values for ['batch_size']"),
    Row(f"{VERBS['tune']} --space {{batch_size: [null]}}", "space has null for ['batch_size']"),
    Row(f"{VERBS['tune']} --space {{batch_size: 4}}", "a list such as '[1, 2]' is needed"),
    Row(f"{VERBS['tune']} --space {{batch_size: [0]}}", "batch_size is 0"),
]
DEVICES = [
    Row(
        f"{VERBS[verb]} --device {device}",
        f"--device {device}: there is none on this machine; it has cpu",
        cure if verb == "evaluate" else None,
    )
    for verb in ("evaluate", "tune", "diagnose")
    for device, cure in (
        ("nonsense", "Choose a device that the message lists, or leave the option out."),
        ("meta", None),
        ("cuda:99", "torch finds no such GPU: check `python -c 'import torch; print(torch.cuda.device_count())'`."),
    )
]
ENVIRONMENTS = [
    Row(
        f"{VERBS[verb]} --env_id {name}",
        f"environment {name!r} cannot be made: {why}",
        cure if verb == "evaluate" else None,
    )
    for verb in ("evaluate", "diagnose")
    for name, why, cure in (
        ("Hoper-v5", "Environment `Hoper` doesn't exist. Did you mean Hopper-v5?", "Use the id that gymnasium has."),
        ("Hopper-v99", "Environment version `v99` for environment `Hopper` doesn't exist", None),
        ("nosuchpackage:Foo-v0", "No module named 'nosuchpackage'", "Install the package that registers it."),
        ("nonsense", "Environment `nonsense` doesn't exist", None),
        ("a:b:c", "", None),
    )
] + [
    Row(
        f"{VERBS['evaluate']} --env_id Pendulum-v1",
        "Pendulum-v1 has 3 observation and 1 action dimensions, but ",
        "Give the environment that the planner was trained for.",
    ),
    Row(f"{VERBS['evaluate']} --env_id CartPole-v1", "has actions Discrete(2): only Box is supported"),
    Row("evaluate BARE", "does not name the environment it was trained for: give one, such as --env_id Hopper-v5"),
    Row(f"{VERBS['diagnose']} --reach_goal true", "reach_goal is for mazes, and Track-v0 is none: leave it out"),
    Row(f"{VERBS['diagnose']} --recorded_episodes -1", "recorded_episodes is -1: a whole number from 0 on is needed"),
    Row(f"{VERBS['evaluate']} --reach_goal true", "reach_goal is for mazes, and Track-v0 is none: leave it out"),
    Row(f"{VERBS['evaluate']} --follow_states true", "follow_states is for mazes, and Track-v0 is none: leave it out"),
    Row(f"{VERBS['evaluate']} --ref_min_score 1", "ref_min_score is 1.0 and ref_max_score None: give both or neither"),
    Row(
        f"{VERBS['evaluate']} --ref_min_score 1 --ref_max_score 1", "ref_min_score 1.0 must lie below ref_max_score 1.0"
    ),
]

# ---------------------------------------------------------------- one thing in place of another

FOLDERS = [
    Row(f"{verb} {given}", f"is not a pipeline folder: {message}", cure if verb == "evaluate" else None)
    for verb in ("evaluate", "tune", "diagnose")
    for given, message, cure in (
        ("nothing", "it has no model_index.json; make one: vgp export", "Check the path, or export a checkpoint."),
        ("DIR", "it has no model_index.json; make one: vgp export", None),
        ("FILE", "it is a file. A checkpoint becomes a folder by vgp export --denoiser ", None),
        (
            "CKPT",
            "it is a file. A checkpoint becomes a folder by vgp export --denoiser ",
            "Export the checkpoint first.",
        ),
        ("RUN", "it is a run of vgp fit, which becomes one by vgp export --denoiser ", "Export the run first."),
        ("planner.yaml", "it is a config, which is given as -c planner.yaml", None),
    )
]
HABITS = [
    Row(
        "evaluate PIPE --habit true",
        "has no habit: make one by vgp distill ",
        "Distil the planner, as the message says ([habit.md](habit.md)).",
    ),
    Row(
        "program PIPE onnx --habit true --scale 1",
        "scale is 1.0, but a habit's program does not plan: leave it out",
        "Leave the settings out: they are those of the habit's teacher.",
    ),
    Row("publish PIPE", "there is nothing to do: give --evaluation, --push_to_hub or both"),
    Row("publish DIR --push_to_hub me/planner", "is not a pipeline folder: it has no model_index.json"),
    Row(
        "publish PIPE --evaluation DIR",
        "has no evaluation.json: evaluate the planner first, vgp evaluate ",
        "Evaluate the planner, and give the folder of the results.",
    ),
    Row("distill DIR", "is not a pipeline folder: it has no model_index.json"),
    Row("distill PIPE --chunk 99", "chunk is 99: a number between replan_every, which is 1, and planning_horizon"),
    Row("distill PIPE --replan_every 0", "replan_every is 0, one plan per episode, but a habit answers with the first"),
    Row("distill PIPE --recorded_states 0 --planned_states 0", "recorded_states and planned_states are 0: a habit"),
    Row("distill PIPE --networks 0", "networks is 0: a number between 1 and 100 is needed"),
    Row("distill PIPE --widths [0]", "widths are [0]: a list of 1 to 64 whole numbers"),
    Row("distill PIPE --learning_rate -1", "learning_rate is -1.0: a number between 0 and 1000 is needed"),
    Row("distill PIPE --dataset_id [no/such-v0]", "dataset 'no/such-v0' is not in "),
]
CRITICS = [
    Row(
        "evaluate PIPE --rank_by critic",
        "has no critic: make one by vgp critic ",
        "Train one, as the message says ([strength.md](strength.md)).",
    ),
    Row("program PIPE onnx --rank_by critic", "has no critic: make one by vgp critic "),
    Row("critic DIR", "is not a pipeline folder: it has no model_index.json"),
    Row("critic PIPE --networks 0", "networks is 0: a whole number between 1 and 64 is needed"),
    Row("critic PIPE --widths [0]", "widths are [0]: a list of 1 to 64 whole numbers"),
    Row("critic PIPE --max_steps 0", "max_steps is 0: a number between 1 and "),
    Row("critic PIPE --dataset_id [no/such-v0]", "does not name the discount of its returns: export it from a value"),
]
EXPORTS = [
    Row("export --denoiser nothing.ckpt --output new", "nothing.ckpt does not exist: train one with vgp fit"),
    Row("export --denoiser FILE --output new", "cannot be read as a checkpoint"),
    Row("export --denoiser ART/code.ckpt --output new", "cannot be read as a checkpoint"),
    Row("export --denoiser DIR --output new", "is a folder without checkpoints/last.ckpt: give a checkpoint, or "),
    Row("export --denoiser PIPE --output new", "is a pipeline folder, not a checkpoint"),
    Row(
        "export --denoiser RUNS --output new",
        "holds 2 runs: give one of them, such as --denoiser ",
        "Name one of them.",
    ),
    Row("export --denoiser CKPT --value CKPT --output new", "holds a DenoiserModule: give it as --denoiser"),
    Row("export --denoiser CKPT --value nothing.ckpt --output new", "nothing.ckpt does not exist"),
    Row("export --denoiser CKPT --value DIR --output new", "is a folder without checkpoints/last.ckpt"),
    Row("export --denoiser CKPT --output PIPE", "exists already: choose another --output, or remove it first"),
    Row("export --denoiser CKPT --output FILE/new", "file.txt: "),
    Row(
        "export --denoiser CKPT --output new --n_guide_steps 2",
        "n_guide_steps is 2, but there is no value function to guide with: give its checkpoint as --value",
        "Train a value function, or export without guidance.",
    ),
    Row(
        "export --denoiser CKPT --output new --num_inference_steps 1000",
        "num_inference_steps is 1000",
        "Give at most the number of noise levels of the training (num_train_timesteps).",
    ),
    Row("export --denoiser CKPT --output new --planning_horizon 7", "planning_horizon"),
    Row("export --denoiser CKPT --output new --replan_every 9", "replan_every is 9"),
    Row("export --denoiser CKPT --output new --warm_start_strength 2", "warm_start_strength is 2"),
    Row("import nothing --statistics FILE --output new", "nothing"),
    Row("import FILE --statistics FILE --output new", "file.txt"),
    Row("import DIR --statistics FILE --output new", "dir"),
    Row("import FILE --statistics FILE --output DIR", "exists already: choose another --output"),
    Row("compare nothing FILE", "nothing does not exist: give two files of evaluations"),
    Row(
        "compare FILE FILE",
        "file.txt is not JSON (",
        "Give the evaluation.json that `vgp evaluate` wrote, or its folder.",
    ),
    Row("compare DIR FILE", "evaluation.json does not exist"),
    Row("compare ART/list.json ART/list.json", "list.json is not an evaluation"),
    Row("demo --output_dir DIR", "exists and was not made by vgp demo: choose another --output_dir"),
    Row("demo --output_dir FILE", "file.txt: a part of the path is a file, not a folder"),
]
COLLECTS = [
    Row(f"{VERBS['collect']} {more}", message, cure)
    for more, message, cure in (
        ("--behaviour nonsense", "unknown behaviour 'nonsense': choose random, waypoint", None),
        ("--behaviour ART/syntax.json", "syntax.json is not JSON: ", None),
        ("--behaviour ART/list.json", "list.json holds a list: a JSON object", None),
        ("--behaviour waypoint", "the waypoint behaviour is for PointMaze_*-v3", None),
        ("--dataset_id new", "dataset id 'new' is malformed", "Give an id such as mine/hopper-v0."),
        ("--dataset_id ../new-v0", "dataset id '../new-v0' is malformed", None),
        ("--dataset_id a/new-v0", "dataset id 'a/new-v0' is malformed", None),
        ("--weight_noise 1", "weight_noise is 1.0, but behaviour 'random' has no weights to perturb", None),
        ("--action_noise 1", "action_noise is 1.0, but behaviour 'random' has none", None),
        ("--action_noise -1", "finite numbers are needed, none negative", None),
        ("--action_noise .nan", "finite numbers are needed, none negative", None),
        ("--weight_noise .inf", "finite numbers are needed, none negative", None),
        ("--ref_min_score 0", "ref_min_score 0.0 and ref_max_score None: give both or neither", None),
        ("--ref_max_score 0", "ref_min_score None and ref_max_score 0.0: give both or neither", None),
        ("--env_id CartPole-v1", "has actions Discrete(2): only Box is supported", None),
        ("--env_id Nobody-v0", "environment 'Nobody-v0' cannot be made: Environment `Nobody` doesn't exist", None),
        (
            *("--env_kwargs {slip: 1}", "--env_kwargs has slip, which it does not take; it takes render_mode"),
            "Use the names that the message lists.",
        ),
        (
            "--env_id Pendulum-v1 --env_kwargs {gravity: 9}",
            "--env_kwargs has gravity, which it does not take; it takes",
            None,
        ),
    )
]

IMPORTS = [
    Row(f"import-data {given} --dataset_id test/new-v0", message, cure)
    for given, message, cure in (
        ("nothing.npz", "nothing.npz does not exist: give a .hdf5 file", "Check the path."),
        ("FILE", "file.txt has no format that is known: give ", None),
        ("FILE --format npz", "file.txt cannot be read as npz: ", None),
        ("FILE --format d4rl", "file.txt cannot be read as HDF5: ", None),
        ("DIR", "dir has no format that is known: give ", None),
        ("DIR --format d4rl", "dir is a folder, but --format d4rl is one file", None),
        (
            *("ART/endless.npz", "endless.npz: nothing says where an episode ends. Name a key: --terminals KEY"),
            "Name the key, or write the episodes one by one ([data.md](data.md#from-python)).",
        ),
        (
            *("ART/flat.npz", "flat.npz: no key holds rewards. Name it: --rewards KEY; or --no_rewards true"),
            "Name the key; without rewards only a denoiser can be trained.",
        ),
        (
            *("ART/flat.npz --observations xs", "--observations xs: "),
            "Name a key that the message lists.",
        ),
        ("ART/flat.npz --rewards observations", "observations has the shape (4, 2): the rewards are one number", None),
        ("ART/flat.npz --no_rewards true --env_id Hopper-v5", "Hopper-v5 has observations of 11 numbers, the", None),
    )
] + [
    Row("import-data ART/flat.npz --dataset_id new", "dataset id 'new' is malformed"),
    Row("describe test/nothing-v0", "dataset 'test/nothing-v0' is not in "),
    Row("describe test/nothing-v0 --output FILE", "file.txt exists: choose another, or remove it first"),
    Row("describe test/nothing-v0 --output new", "--output new is the name of a config: it must end in .yaml"),
]

# ---------------------------------------------------------------- training

FIT = "fit -c planner.yaml -c ART/data.yaml -c smoke.yaml"
FITS = [
    Row(
        "fit",
        "vgp fit needs --data.dataset_id and --model: name configs that have them",
        "Name a config of each with -c.",
    ),
    Row("fit -c planner.yaml", "vgp fit needs --data.dataset_id: name configs that have them"),
    Row(f"{FIT} more", "unexpected argument 'more': vgp fit takes options only"),
    Row(f"{FIT} --data.horizont 5", "unknown option --data.horizont: did you mean --data.horizon?"),
    Row(
        f"{FIT} --data.hori 5", "unknown option --data.hori: options are not abbreviated; did you mean --data.horizon?"
    ),
    Row(f"{FIT} --trainer.max_step 5", "unknown option --trainer.max_step: options are not abbreviated"),
    Row(f"{FIT} --horizon 5", "unknown option --horizon: did you mean --data.horizon?"),
    Row(f"{FIT} --learning_rate 1", "unknown option --learning_rate: did you mean --model.init_args.learning_rate?"),
    Row(f"{FIT} --episodes 5", "unknown option --episodes: it is an option of vgp evaluate"),
    Row(f"{FIT} --model.init_args.lerning_rate 1", "did you mean --model.init_args.learning_rate?"),
    Row(f"{FIT} --model.init_args.nonsense 1", "unknown option --model.init_args.nonsense"),
    Row(f"{FIT} -c ART/epsiodes.yaml", "epsiodes.yaml, line 1: unknown option seed"),
    Row(
        f"{FIT} -c ART/lerning_rate.yaml",
        "lerning_rate.yaml, line 3: unknown option model.init_args.lerning_rate: did ",
    ),
    Row(f"{FIT} -c ART/lots.yaml", "lots.yaml, line 2: trainer.max_steps is 'lots': a whole number is needed"),
    Row(f"{FIT} -c ART/twice.yaml", CONFIGS["twice.yaml"][1]),
    Row(f"{FIT} -c ART/syntax.yaml", CONFIGS["syntax.yaml"][1]),
    Row(f"{FIT} -c ART/empty.yaml", CONFIGS["empty.yaml"][1]),
    Row(f"{FIT} -c DIR", "is a folder, and -c takes a file"),
    Row(f"{FIT} --trainer.max_steps lots", "--trainer.max_steps is 'lots': a whole number is needed"),
    Row(f"{FIT} --trainer.max_steps 1e3", "--trainer.max_steps is '1e3': a whole number is needed"),
    Row(f"{FIT} --trainer.max_steps", "--trainer.max_steps needs a value"),
    Row(
        f"{FIT} --trainer.enable_progress_bar maybe",
        "--trainer.enable_progress_bar is 'maybe': true or false is needed",
    ),
    Row(f"{FIT} --data.normalizer none", "--data.normalizer is 'none': one of gaussian, limits is needed"),
    Row(f"{FIT} --data.padding some", "--data.padding is 'some': one of none, terminated, all is needed"),
    Row(f"{FIT} --ema.decay high", "--ema.decay is 'high': a number is needed"),
    Row(
        f"{FIT} --model Nonsense",
        "--model is 'Nonsense': the name of a class is needed, such as vgp_lightning.training.",
    ),
    Row(f"{FIT} --model.init_args.widths 16", "--model.init_args.widths is '16': a list such as '[1, 2]' is needed"),
    Row(f"{FIT} --seed_everything some", "--seed_everything is 'some': true or false or a whole number is needed"),
    Row(f"{FIT} --seed_everything -1", "seed_everything is -1: a whole number from 0 to 4294967295 is needed"),
    Row(
        f"{FIT} --model.init_args.horizon 16",
        "model.init_args.horizon is 16: it follows from the data, so leave it out",
    ),
    Row(f"{FIT} --model.class_path nonsense", "--model.class_path is 'nonsense': the name of a class is needed"),
    Row(f"{FIT} --ema 3", "--ema is '3': a mapping or the path of a config is needed, or options such as --ema.NAME"),
    Row(f"{FIT} --data.dataset_id", "--data.dataset_id needs a value; one that begins with"),
    Row(f"{FIT} --ckpt_path nothing.ckpt", "nothing.ckpt does not exist: train one with vgp fit"),
    Row(f"{FIT} --ckpt_path FILE", "cannot be read as a checkpoint"),
    Row(f"{FIT} --ckpt_path DIR", "is a folder without checkpoints/last.ckpt"),
    Row(f"{FIT} --ckpt_path CKPT", "the checkpoint holds a DenoiserModule, but the config asks for a PlannerModule"),
    Row(f"{FIT} --ckpt_path PIPE", "is a pipeline folder, not a checkpoint"),
    Row(
        FIT,
        "dataset 'test/nothing-v0' is not in ",
        "Download or collect the dataset, or set MINARI_DATASETS_PATH to the folder where it is.",
    ),
    Row(
        FIT.replace("fit", "validate", 1),
        "vgp validate needs --ckpt_path, the checkpoint to measure",
        "Name the checkpoint to measure.",
    ),
    Row(f"{FIT.replace('fit', 'validate', 1)} --ckpt_path last", "--ckpt_path last: this logger has no "),
    Row(f"{FIT.replace('fit', 'validate', 1)} --ckpt_path ART/code.ckpt", "code.ckpt cannot be read as a checkpoint"),
]

EMPTY = [
    Row(f"{VERBS[verb]} --{option}=", f"{option} is empty: give a value, or leave it out", cure)
    for verb, option, cure in (
        *(("evaluate", "output_dir", "Quote variables of the shell, and see that they are set."),),
        *(("evaluate", "env_id", None), ("evaluate", "device", None), ("tune", "output_dir", None)),
        *(("diagnose", "output_dir", None), ("collect", "env_id", None), ("collect", "dataset_id", None)),
        *(("export", "output", None), ("export", "value", None), ("import", "value", None), ("compare", "json", None)),
        ("demo", "output_dir", None),
    )
]
PLACES = [
    Row(f"{VERBS['evaluate']} --pipeline_folder PIPE", "unknown option --pipeline_folder: pipeline_folder is given by"),
    Row("import --denoiser FILE", "unknown option --denoiser: denoiser is given by its place, without a name"),
    Row(f"{VERBS['tune']} --space {{batch_size: [1], batch_size: [2]}}", "--space has batch_size twice: remove one"),
    Row(f"{VERBS['evaluate']} -c {{episodes: many}}", "the text after -c, line 1: episodes is 'many': a whole number"),
]
FLAGS = [
    Row(
        "export --denoiser CKPT --output new --json -",
        "vgp export has no report for --json: it is for vgp evaluate, compare, ",
        "Leave it out, or give it to one of these verbs.",
    ),
    Row(f"{FIT} --json report.json", "vgp fit has no report for --json: it is for vgp evaluate, compare, "),
    Row(f"{VERBS['evaluate']} --json", "--json needs a value; one that begins with '-' is given as --json=VALUE"),
    Row(f"{VERBS['evaluate']} --json=", "json is empty: give a value, or leave it out"),
    Row(
        f"{VERBS['diagnose']} --dry_run",
        "vgp diagnose has no --dry_run: it is for vgp collect, fit, evaluate, ",
        "These can be measured on a small part of their work. The others cannot know beforehand how much they have.",
    ),
    Row("play DIR --dry-run", "vgp play has no --dry_run: it is for vgp collect, fit, evaluate, "),
    Row("configs --dry_run", "vgp configs has no --dry_run: it is for vgp collect, fit, evaluate, "),
    Row(f"{VERBS['evaluate']} --quiet=maybe", "--quiet is 'maybe': true or false is needed"),
    Row(f"{VERBS['evaluate']} --quite", "unknown option --quite: did you mean --quiet?"),
    Row(f"{VERBS['evaluate']} --dry", "unknown option --dry: options are not abbreviated; did you mean --dry_run?"),
    Row(f"{VERBS['evaluate']} --quiet --episodes many", "--episodes is 'many': a whole number is needed"),
    Row("evaluate DIR --dry_run", "is not a pipeline folder: it has no model_index.json"),
    Row("critic DIR --dry_run", "is not a pipeline folder: it has no model_index.json"),
    Row("distill DIR --dry_run", "is not a pipeline folder: it has no model_index.json"),
    Row(f"{VERBS['demo']} --episodes 0 --dry_run", "episodes is 0: at least 1 is needed"),
    Row(f"{VERBS['collect']} --dry_run --behaviour nonsense", "unknown behaviour 'nonsense': choose random, waypoint"),
    Row(f"{FIT} --dry_run", "dataset 'test/nothing-v0' is not in "),
    Row(f"{FIT} --output_dir=", "output_dir is empty: give a value, or leave it out"),
    Row(f"{VERBS['collect']} --output_dir=", "output_dir is empty: give a value, or leave it out"),
    Row(f"{FIT} --output-dirs x", "unknown option --output_dirs: did you mean --output_dir?"),
    Row("--print-completion dos", "--print_completion is 'dos': one of bash, zsh, tcsh", "Give one of these shells."),
    Row("--print-completion", "--print_completion is '': one of bash, zsh, tcsh"),
]
ROWS = [
    *FLAGS,
    *(*OTHER_TYPES, *CHOICES, *MAPPINGS, *UNKNOWN, *OF_OTHER_VERBS, *NO_VALUE, *TOO_MANY, *MISSING),
    *(*NO_VERB, *ANY_CONFIG, *KEYS, *NO_CONFIG, *SEEDS, *COUNTS, *RANGES, *SPACES, *DEVICES, *ENVIRONMENTS, *FOLDERS),
    *ADDRESSES,
    *HABITS,
    *CRITICS,
    *(*EXPORTS, *COLLECTS, *IMPORTS, *FITS, *EMPTY, *PLACES),
]
