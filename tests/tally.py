"""Counts the cases of the suites in tests/faults, for docs/reliability.md."""

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass

GROUPS = (
    "hostile artefacts",
    "planning calls",
    "damaged folders",
    "malformed datasets",
    "command lines",
    "mistakes in training",
    "kills",
    "full disks",
    "two at once",
)


@dataclass
class Verdict:
    """How a case ended: ``right`` (the result is what it should be) or ``clear`` (refused in clear words)."""

    outcome: str = "right"


@contextmanager
def case(group, name):
    """Count a case: ``with case("kills", "evaluate, SIGTERM") as verdict: ...; verdict.outcome = "clear"``.

    It has failed if the block raises, as a test does that fails.
    """
    assert group in GROUPS
    verdict = Verdict()
    try:
        yield verdict
    except BaseException:
        verdict.outcome = "failed"
        raise
    finally:
        assert verdict.outcome in ("right", "clear", "failed")
        if path := os.environ.get("VGP_TALLY"):  # docs/reliability.py asks for it
            with open(path, "a") as file:
                file.write(json.dumps({"group": group, "case": str(name), "outcome": verdict.outcome}) + "\n")
