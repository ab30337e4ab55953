"""With how many threads the program ``vgp`` plans, and how these wait for each other.

torch divides each operation among its threads, and by default they wait for each other without giving up their cores.
Beside a busy process that costs up to a hundred times: the thread that is waited for has no core, because those that
wait for it have them. Two things prevent that. The threads of ``vgp`` give up their cores when they wait
(``OMP_WAIT_POLICY=passive``, which OpenMP reads when torch is loaded), and there are only as many of them as a
measurement has found to be faster than one.

Only the program does so, and only where the user has not chosen: a process that calls this package as a library keeps
its threads. Plans do not depend on the choice.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_WAITING_CHOSEN_BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Besides one. With 3 or 8 threads MKL divides small products so that they round otherwise; with more than 4 another
# process of the same command gains more.
_NUMBERS = (2, 4)
_SECONDS, _FEWEST, _MOST = 0.5, 3, 9  # of the measurement: how long, and pairs of calls
_WORTH = 0.9  # the share of one thread's time below which more of them are used
_HOPELESS = 3.0  # the multiple of one thread's time after which they are not tried again

_ours = False  # whether this process is the program, with threads that nobody else has chosen


def own_threads() -> None:
    """Let threads give up their cores when they wait, and ``use_fastest`` set their number; unless the user has chosen.

    Does nothing in a process that has loaded torch: that is not the program's own, and OpenMP is set up already.
    """
    global _ours
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in _WAITING_CHOSEN_BY_USER):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    _ours = not any(name in os.environ for name in _CHOSEN_BY_USER)


def use_fastest(plan: Callable[[], "torch.Tensor"]) -> None:
    """Set torch's threads to the number with which a call is fastest; one, unless more are clearly faster.

    Does nothing unless ``own_threads`` has been called and the user has chosen no number.

    Args:
        plan: A planning call that is repeatable: it returns the same plans each time.
    """
    if not _ours:
        return
    import torch

    def run(threads: int) -> tuple[float, torch.Tensor]:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        plans = plan()
        return time.perf_counter() - start, plans

    shares = {}
    with suppress(ValueError):  # what cannot be planned is reported where an episode needs it
        run(1)  # which prepares what later calls use again
        shares = {threads: compare(run, threads) for threads in _NUMBERS if threads <= count_cores()}
    torch.set_num_threads(best(shares))


def best(shares: Mapping[int, float]) -> int:
    """Return the number of threads to use, of the share of one thread's time that each needs."""
    worth = {threads: share for threads, share in shares.items() if share < _WORTH}
    return min(worth, key=worth.__getitem__, default=1)


def compare(run: Callable[[int], "tuple[float, torch.Tensor]"], threads: int) -> float:
    """Return the share of one thread's time that several threads need: the median of alternating calls.

    Args:
        run: Plans with so many threads, and returns the seconds and the plans.
        threads: How many.

    Returns:
        The share; infinity where the plans differ, or a call has taken far too long.
    """
    run(threads)  # which starts them
    shares: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(shares) < _FEWEST or (len(shares) < _MOST and time.perf_counter() < end):
        (alone, expected), (together, plans) = run(1), run(threads)
        if together > _HOPELESS * alone or not plans.equal(expected):
            return float("inf")
        shares.append(together / alone)
    return statistics.median(shares)


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
