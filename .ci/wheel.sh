#!/usr/bin/env bash
# The wheel and the sdist as a user gets them: built, installed without extras outside the clone, and used there.
# PYTHON makes the fresh environment; VENV is the clone's, with pytest (make install). Takes a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
clone=$PWD
venv_python=$(realpath --no-symlinks "${VENV:-.venv}")/bin/python
trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT

# step NAME COMMAND...: run a command and say that it passed, or show its output and stop.
step() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >"$trial/log" 2>&1; then
    echo "wheel: $name ($((SECONDS - start)) s)"
  else
    cat "$trial/log"
    echo "wheel: FAILED: $name"
    exit 1
  fi
}

# as_user COMMAND...: run it in a working folder and a home of its own, with nothing of this shell's environment.
mkdir "$trial/home" "$trial/work"
as_user() (
  cd "$trial/work"
  env -i HOME="$trial/home" PATH="$trial/env/bin:$PATH" LANG=C.UTF-8 HF_HUB_OFFLINE=1 \
    ${MUJOCO_GL:+MUJOCO_GL="$MUJOCO_GL"} "$@"
)

# ---------------------------------------------------------------- build

step "a fresh environment" "${PYTHON:-python3}" -m venv "$trial/env"
step "the build tool" "$trial/env/bin/pip" install build
# Builds the sdist from the clone, and the wheel from the sdist.
step "sdist and wheel are built" "$trial/env/bin/python" -m build --outdir "$trial/dist" "$clone"
if grep -i "warn" "$trial/log"; then
  echo "wheel: FAILED: the build warns"
  exit 1
fi
cat >"$trial/contents.py" <<'PYTHON'
"""Compare the files of the wheel with those of the clone, and its version with the package's."""
import re, sys, zipfile
from pathlib import Path

dist, clone = map(Path, sys.argv[1:])
(wheel,) = dist.glob("*.whl")
packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
places = {clone / "vgp_lightning": "vgp_lightning"} | {
    clone / name: f"vgp_lightning/{name}" for name in ("configs", "planners")
}
expected = {
    f"{name}/{path.relative_to(folder).as_posix()}"
    for folder, name in places.items()
    for path in folder.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
assert packed == expected, f"in the wheel or in the clone alone: {packed ^ expected}"
assert {"vgp_lightning/py.typed", "vgp_lightning/__init__.pyi", "vgp_lightning/configs/planner.yaml"} <= packed
version = re.search(r'__version__ = "(.*)"', (clone / "vgp_lightning/__init__.py").read_text())[1]
assert wheel.name == f"vgp_lightning-{version}-py3-none-any.whl", wheel.name
assert wheel.stat().st_size < 2_000_000, f"the wheel has {wheel.stat().st_size} bytes"
PYTHON
step "the wheel holds the package and its configs" "$trial/env/bin/python" "$trial/contents.py" "$trial/dist" "$clone"

mkdir "$trial/sdist"
tar -xzf "$trial"/dist/*.tar.gz -C "$trial/sdist" --strip-components=1
collect() (
  cd "$1"
  env -u PYTHONPATH "$venv_python" -m pytest --collect-only -q -p no:cacheprovider | grep "::" | sort >"$2"
)
step "the clone's tests are collected" collect "$clone" "$trial/in_clone"
step "the sdist's tests are collected" collect "$trial/sdist" "$trial/in_sdist"
step "the sdist has all tests of the clone" diff "$trial/in_clone" "$trial/in_sdist"

# ---------------------------------------------------------------- install and use

step "the wheel is installed without extras" \
  "$trial/env/bin/pip" install --constraint constraints.txt "$trial"/dist/*.whl
step "pip check" "$trial/env/bin/pip" check
step "vgp --version" as_user vgp --version
step "vgp configs" as_user vgp configs
step "the planner that ships acts" as_user vgp evaluate hopper-example --episodes 1 --max_episode_steps 20 --output_dir runs/example
step "vgp collect" as_user vgp collect --env_id Hopper-v5 --behaviour hopper-linear --weight_noise 0.1 \
  --action_noise 0.5 --steps 3000 --dataset_id trial/hopper-v0
step "vgp fit, with configs named from the wheel" as_user vgp fit -c planner.yaml -c data/hopper-medium.yaml \
  -c smoke.yaml --data.dataset_id trial/hopper-v0 --trainer.accelerator cpu
step "vgp export" as_user vgp export --denoiser runs/planner/version_0/checkpoints/last.ckpt --output exports/hopper
step "vgp evaluate" as_user vgp evaluate exports/hopper --episodes 1 --output_dir runs/eval
cat >"$trial/video.py" <<'PYTHON'
"""Say whether the evaluation has a film, or why it has none."""
import json
from pathlib import Path

error = json.loads(Path("runs/eval/evaluation.json").read_text())["video_error"]
film = Path("runs/eval/rollout.gif")
assert film.is_file() == (error is None), f"video_error is {error!r}, and {film} exists: {film.is_file()}"
assert error is None or error.strip(), "video_error is empty"
print(f"a film was drawn, {film.stat().st_size} bytes" if error is None else f"NO film on this machine: {error}")
PYTHON
step "a film, or the reason why there is none" as_user python "$trial/video.py"
sed 's/^/wheel:   /' "$trial/log"
cat >"$trial/load.py" <<'PYTHON'
"""Load the exported folder with the package, and with diffusers alone: the plans are the same."""
import sys

import numpy as np
import torch

if "alone" in sys.argv:
    sys.modules["vgp_lightning"] = None  # any import of it fails
    from diffusers import DiffusionPipeline

    folder = "exports/hopper"
    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
else:
    from vgp_lightning import ValueGuidedPlannerPipeline

    pipeline = ValueGuidedPlannerPipeline.from_pretrained("exports/hopper")
plan = pipeline(np.zeros(pipeline.observation_dim), generator=torch.Generator().manual_seed(0))
assert plan.actions.shape == (1, 32, 3) and plan.actions.isfinite().all(), plan.actions
torch.save(plan.actions, sys.argv[1])
if "alone" in sys.argv:
    assert torch.equal(torch.load("package.pt"), torch.load("alone.pt"))
PYTHON
step "the folder is loaded by the package" as_user python "$trial/load.py" package.pt
step "the folder is loaded by diffusers alone, and plans the same" as_user python "$trial/load.py" alone.pt alone
echo "wheel: passed"
