"""Estimates: how long work would take, by a short part of it, and the memory that this process has used."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

_ENOUGH = 4.0  # seconds of the longest trial
_GROWTH = 4  # of the work from one trial to the next


@dataclass(frozen=True)
class Estimate:
    """How long work takes that grows in proportion to its amount, after a beginning that does not.

    Attributes:
        beginning: Seconds of what happens once.
        each: Seconds for each unit.
        tried: Units of the longest trial.
    """

    beginning: float
    each: float
    tried: int

    def seconds(self, amount: float) -> float:
        """Return the seconds that an amount takes."""
        return self.beginning + self.each * amount


def estimate(work: Callable[[int], object], first: int, most: int) -> Estimate:
    """Do a small amount of work, then more and more until it takes some seconds.

    Args:
        work: Does an amount of it.
        first: The smallest amount that makes sense.
        most: No more than this.
    """

    def timed(amount: int) -> float:
        start = time.perf_counter()
        work(amount)
        return time.perf_counter() - start

    first = min(first, most)
    initial = timed(first)  # with all that happens once: imports, compilers, caches
    amount, seconds = first, timed(first)
    each = seconds / first
    while seconds < _ENOUGH and amount < most:
        larger = min(_GROWTH * amount, most)
        taken = timed(larger)
        # Where the difference is lost in the noise, the whole trial is an upper bound.
        each = (taken - seconds) / (larger - amount) if taken > seconds else taken / larger
        amount, seconds = larger, taken
    return Estimate(max(initial - each * first, 0.0), each, amount)


def say_estimate(what: str, seconds: float, note: str) -> None:
    """Print what would be done, how long it would take, and the memory that the trial took.

    Args:
        what: What would be done.
        seconds: How long.
        note: By which measurement, and what the estimate leaves out.
    """
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # bytes
    print(f"dry run: nothing is kept\nwould {what}")
    print(f"time:    about {timedelta(seconds=round(max(seconds, 1)))} (hours:minutes:seconds) on this machine; {note}")
    print(f"memory:  {size / 2**30:.1f} GiB of this process{_of_gpu()}")


def _of_gpu() -> str:
    """Return the GPU's memory that was used, if there is one in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return ""
    return f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the GPU"
