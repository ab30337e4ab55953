"""The machine that a measurement was made on, as the JSON of a benchmark holds it.

python -m benchmarks.machine
"""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vgp_lightning.agent.threads import count_cores

# What OpenMP reads of the environment.
ENVIRONMENT = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def describe_machine() -> dict[str, Any]:
    """Return the processor, its cores and vector instructions, how busy it is, and what is measured with."""
    processor = _read_processor()
    flags = processor.get("flags", "").split()
    return {
        "cpu": processor.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": sorted(flag for flag in flags if flag.startswith(("amx_", "avx"))),
        "cores": count_cores(),
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _read_processor() -> dict[str, str]:
    """Return what Linux says about the first processor; on another system nothing."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def main() -> None:
    """Print it."""
    print(json.dumps(describe_machine(), indent=2))


if __name__ == "__main__":
    main()
