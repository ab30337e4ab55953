"""Verbs in child processes, which are forked: a fresh one would take seconds to import torch."""

import json
import multiprocessing
import os
import signal
import sys
import time

import h5py
import numpy as np

import vgp_lightning.agent.collection
import vgp_lightning.diagnostics.diagnosis
import vgp_lightning.evaluation.evaluation
import vgp_lightning.tuning.search  # noqa: F401 (imported here, each child has them at once)
from vgp_lightning.cli import main

TRACK = "slow_track:SlowTrack-v0"
SPACE = '{"temperature": [0.0, 1.0], "replan_every": [1, 2], "num_inference_steps": [1, 2]}'  # of a search


def start(arguments, log, limit=None):
    """Start a verb in a process of its own, whose files may have at most ``limit`` bytes.

    Args:
        arguments: Verb and options.
        log: A path, or the descriptor of a pipe, for what it prints.
        limit: The most bytes of a file.
    """

    def run():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = log if isinstance(log, int) else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if limit is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            main([str(argument) for argument in arguments])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def limited(arguments, limit):
    """Run a verb whose files may have at most so many bytes, and return its exit code and what it printed."""
    reader, writer = os.pipe()  # a file would have the limit too
    process = start(arguments, writer, limit)
    os.close(writer)
    with os.fdopen(reader) as file:
        printed = file.read()
    return finish(process), printed


def finish(process, seconds=120):
    """Wait for a process, and return its exit code."""
    process.join(seconds)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def kill(arguments, log, seconds, number):
    """Start a verb, and send it a signal after some seconds."""
    process = start(arguments, log)
    process.join(seconds)
    if process.exitcode is None:
        os.kill(process.pid, number)
    process.join(60)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"signal {number} did not end it")


def kill_and_finish(arguments, log, drawn, check):
    """Start a verb again and again, kill it at the moments (seconds, signal), and let it finish in the end."""
    for seconds, number in drawn:
        kill(arguments, log, seconds, number)
        check()
    assert finish(start(arguments, log)) == 0, log.read_text()


def moments(rng, count, longest):
    """Draw moments and signals."""
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    return [(rng.uniform(0, longest), signals[i % 3]) for i in range(count)]


def without_times(value):
    """Return a report without what differs from run to run."""
    if isinstance(value, dict):
        drop = ("seconds", "plan_ms", "act_ms", "pipeline", "environments")
        return {key: without_times(part) for key, part in value.items() if key not in drop}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def read(path):
    return without_times(json.loads(path.read_text()))


def played(folder):
    """Return the episodes of all stores of a folder, in the order in which they were finished."""
    lines = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return [tuple(line["episode"]) for line in lines if "episode" in line]


def arrays(root, dataset):
    """Return {name: array} of a dataset's file."""
    found = {}

    def visit(name, part):
        if isinstance(part, h5py.Dataset):
            found[name] = part[()]
        found[f"{name}, seed"] = np.array(part.attrs.get("seed", -1))

    with h5py.File(root / dataset / "data" / "main_data.hdf5") as file:
        file.visititems(visit)
    return found


def same_arrays(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


def timed(arguments, log):
    """Run a verb to its end, and return the seconds that it took."""
    begin = time.monotonic()
    assert finish(start(arguments, log)) == 0, log.read_text()
    return time.monotonic() - begin
