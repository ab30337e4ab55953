"""Verbs that are killed: nothing of value is lost, and no process is left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
import tally

GROUP = "kills"


# ---------------------------------------------------------------- the demo and its children

DEMO = """
import sys
from pathlib import Path
from vgp_lightning import demo
folder = Path(sys.argv[1])
watch = demo._TRAINING.partition("from vgp_lightning")[0]
demo._TRAINING = watch + f'''
import os, pathlib, time
pathlib.Path({str(folder)!r}, f"child_{{os.getpid()}}").touch()
time.sleep(600)
'''
demo.train({"denoiser": [], "value": []}, folder)
"""


def is_running(number):
    """Return whether there is a process of this number that has not ended."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # ended, and nobody has asked for its code
    except FileNotFoundError:
        return False


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize(
    "name",
    ["SIGKILL", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"))],
)
def test_demo_that_a_signal_ends_takes_its_trainings_with_it(name, tmp_path):
    with tally.case(GROUP, f"demo, {name}"):
        demo = subprocess.Popen(
            [sys.executable, "-c", DEMO, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a signal to the demo alone, as from `kill`
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert wait_for(lambda: len(list(tmp_path.glob("child_*"))) == 2, 120), demo.communicate(timeout=5)
        children = [int(path.name.removeprefix("child_")) for path in tmp_path.glob("child_*")]
        assert all(map(is_running, children))
        demo.send_signal(getattr(signal, name))
        demo.communicate(timeout=60)
        assert demo.returncode != 0
        assert wait_for(lambda: not any(map(is_running, children)), 20)
