"""Held-out seeds: what the contenders of a search have returned there, and which shall be the folder's default.

The contenders are the defaults before the search (``default``), the ``winner``, and ``one plan``, which is neither
guided nor chosen among candidates; each only where it differs from those before it.
"""

from collections.abc import Mapping, Sequence, Set
from itertools import combinations
from typing import Any

from vgp_lightning.evaluation.comparison import describe_pairs

_NAMES = {"default": "the default", "winner": "the winner", "one plan": "one plan"}


def compare_contenders(results: Mapping[str, Mapping[str, Any] | None], seeds: Sequence[int]) -> dict[str, Any]:
    """Return the paired differences of the contenders, by names such as ``winner - default``.

    Args:
        results: Their evaluations; None where there is no such contender.
        seeds: Those that each of them played to its end.
    """
    returns = {
        name: {one["seed"]: one["return"] for one in result["episodes"]}
        for name, result in results.items()
        if result is not None
    }
    differences: dict[str, Any] = {}
    for earlier, later in combinations(returns, 2):
        # One plan is what the others are compared with, else the defaults.
        a, b = (later, earlier) if later == "one plan" else (earlier, later)
        found = describe_pairs([returns[b][seed] - returns[a][seed] for seed in seeds], (_NAMES[a], _NAMES[b]))
        differences[f"{b} - {a}"] = found
    return differences


def judge(
    differences: Mapping[str, Mapping[str, Any]], contenders: Set[str], slow: Set[str], failed: Set[str]
) -> tuple[str, str]:
    """Return what was found, in a word or two for tuning.json, and which contender shall be the folder's default.

    Args:
        differences: Between the contenders ``default``, ``winner`` and ``one plan`` on the held-out seeds, by names
            such as ``winner - default``; only between those that differ in their settings.
        contenders: Their names; there is no ``winner`` where the defaults have won, and no ``one plan`` where one of
            the others is it.
        slow: Those that take too long.
        failed: Those that could not play an episode to its end; not all of them.
    """

    def told(pair: str, sign: int) -> bool:
        one = differences.get(pair)
        return one is not None and one["told"] and sign * one["difference"] > 0

    other = "winner" in contenders
    if "default" in failed:
        outcome, chosen = "default failed", "winner" if other and "winner" not in failed else "one plan"
    elif "winner" in failed:
        outcome, chosen = "winner failed", "default"
    elif "default" in slow and other:
        outcome, chosen = "default too slow", "winner"
    elif not other:
        outcome, chosen = "default won", "default"
    elif told("winner - default", 1):
        outcome, chosen = "better", "winner"
    else:
        outcome, chosen = "not better", "default"
    if "one plan" not in slow and told(f"{chosen} - one plan", -1):
        outcome, chosen = "one plan better", "one plan"
    return outcome, chosen


def seen_from(name: str, pair: str, difference: Mapping[str, Any]) -> dict[str, Any]:
    """Return a difference as evidence for one of a pair: by how much it returns more than the other.

    Args:
        name: The one.
        pair: The names of both, as in ``differences``.
        difference: That of the first of the pair from the second.
    """
    first, second = pair.split(" - ")
    ends, sign = difference["ci95"] or [], 1 if name == first else -1
    zero = 0.0  # added, because it makes -0.0, which an equal pair would have from the other side, 0.0
    return {
        "with": second if name == first else first,
        "pairs": difference["pairs"],
        "difference": sign * difference["difference"] + zero,
        "ci95": sorted(sign * end + zero for end in ends) or None,
        "permutation_p": difference["permutation_p"],
    }
