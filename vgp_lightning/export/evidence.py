"""Evidence: why a planner's defaults are what they are, as its folder and its card say it."""

from collections.abc import Mapping
from typing import Any

from vgp_lightning.pipeline.settings import ONE_PLAN, Settings


def describe_evidence(evidence: Mapping[str, Any] | None, settings: Settings) -> str:
    """Return in a sentence or two how a planner's defaults were chosen.

    Args:
        evidence: What ``vgp tune`` left in the folder's task; None: nothing was compared yet.
        settings: The defaults.
    """
    if evidence is not None:
        found = "; ".join(map(_say_compared, evidence["compared"])) or "the defaults before could not play to the end"
        verb = "kept" if evidence.get("kept") else "chose"  # before 0.2 it left evidence only for what it chose
        return (
            f"`vgp tune` {verb} these settings by returns in {evidence['env_id']}, on the held-out seeds "
            f"{evidence['first_seed']} to {evidence['last_seed']}: {found}."
        )
    if ONE_PLAN.items() <= settings.items():
        return (
            "One plan at a time, neither guided nor chosen among candidates: nothing else was compared with it yet. "
            "`vgp tune` does, and keeps what returns more."
        )
    return (
        "These settings were not compared with one plan that is neither guided nor chosen among candidates, and may "
        "return less than that: `vgp tune` compares them."
    )


def _say_compared(one: Mapping[str, Any]) -> str:
    """Return what a comparison found, such as ``+402 [63, 748] (50 pairs, p = 0.023) against one plan``."""
    ends = "" if one["ci95"] is None else " [{:.4g}, {:.4g}]".format(*one["ci95"])
    other = {"default": "the defaults before", "winner": "the search's winner"}.get(one["with"], one["with"])
    return f"{one['difference']:+.4g}{ends} ({one['pairs']} pairs, p = {one['permutation_p']:.2g}) against {other}"
