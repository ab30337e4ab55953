"""Findings: what a diagnosis has found so far."""

from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from vgp_lightning.report.film import Frames


@dataclass(frozen=True)
class Findings:
    """Numbers and pictures of a diagnosis, by the names of its parts.

    Attributes:
        numbers: The part's entry in diagnostics.json; None: it could not be measured.
        missing: For each part that could not be measured, the reason.
        figures: Pictures.
        films: Frames, and frames per second.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    films: dict[str, tuple[Frames, float]] = field(default_factory=dict)

    def miss(self, name: str, reason: str) -> None:
        """Note that a part could not be measured, and why."""
        self.numbers[name] = None
        self.missing[name] = reason
