"""Write constraints.txt: the versions of requirements-all.lock without their hashes, and that of torch.

pip checks hashes for all requirements or for none. So a file with hashes cannot serve ``pip install --constraint``
beside requirements that have none, such as this package itself.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Exact versions that are known to work together (Python 3.11). pip install --constraint constraints.txt ...
# torch: the CPU build and the CUDA builds of this version both fit.
# Written by `make lock`; requirements-all.lock holds the same versions with the hashes of their files.
"""


def constraints(lock: str, project: str) -> str:
    """Return the text of constraints.txt.

    Args:
        lock: The text of requirements-all.lock.
        project: The text of pyproject.toml, which holds torch's version.
    """
    versions = re.findall(r"^([\w.-]+==[^\s;]+)", lock, re.MULTILINE)
    (torch,) = tomllib.loads(project)["tool"]["uv"]["dependency-metadata"]
    return HEAD + "".join(f"{line}\n" for line in sorted([*versions, f"torch=={torch['version']}"]))


if __name__ == "__main__":
    (ROOT / "constraints.txt").write_text(
        constraints((ROOT / "requirements-all.lock").read_text(), (ROOT / "pyproject.toml").read_text())
    )
