"""Plan with an exported program. It needs numpy and onnxruntime, not torch: python plan.py FOLDER/program"""

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime


class Program:
    """A program beside its note, which says what shapes it was made for."""

    def __init__(self, path, threads=1):
        path = Path(path)
        self.name, self.note = path.name, json.loads(path.with_name(path.name + ".json").read_text())
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.note["program_sha256"]:
            raise ValueError(f"{self.name} is not the program that its note describes: make both by vgp program")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def shape(self, name):
        return tuple(self.note["inputs"][name]["shape"])

    def __call__(self, **inputs):
        if set(inputs) != set(self.note["inputs"]):
            raise ValueError(f"inputs {list(self.note['inputs'])} are needed, not {list(inputs)}")
        arrays = {name: np.asarray(given, dtype=np.float32) for name, given in inputs.items()}
        for name, array in arrays.items():
            if array.shape != self.shape(name):
                raise ValueError(
                    f"{name} has shape {array.shape}, but {self.name} was made for {self.shape(name)}"
                    + ". Another is made by vgp program FOLDER onnx --batch_size K --planning_horizon H"
                    * (name != "observation")
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
        outputs = dict(zip(self.note["outputs"], self.session.run(None, arrays), strict=True))
        if not np.isfinite(outputs["actions"]).all():
            raise ValueError("the actions are not finite: is the observation far from the training data?")
        return outputs


def main(folder, steps=5):
    cold = Program(Path(folder) / "plan.onnx")
    warm = Program(Path(folder) / "warm.onnx") if (Path(folder) / "warm.onnx").exists() else None
    random, plan = np.random.default_rng(0), None
    observation = np.zeros(cold.shape("observation"))  # your robot's, in the environment's units
    for _ in range(steps):
        program, inputs, start = cold, {}, time.perf_counter()
        if warm is not None and plan is not None:  # begin from the last plan, moved on by the step that was executed
            last = np.concatenate([plan["actions"], plan["observations"]], axis=1)
            program, inputs = warm, {"previous": np.concatenate([last[1:], last[-1:]])}
        noise = random.standard_normal(program.shape("noise"), dtype=np.float32)
        plan = program(observation=observation, noise=noise, **inputs)
        print(plan["actions"][0], plan["value"], f"{(time.perf_counter() - start) * 1e3:.1f} ms")
        observation = plan["observations"][1]  # in place of a robot that does as it was told


if __name__ == "__main__":
    main(sys.argv[1])
