"""Findings: what a diagnosis has found so far."""

from dataclasses import dataclass, field
from pathlib import Path
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
        copies: GIFs that are written already.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    films: dict[str, tuple[Frames, float]] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)

    @property
    def pictures(self) -> list[str]:
        """File names of all pictures."""
        return [*(f"{part}.png" for part in self.figures), *(f"{part}.gif" for part in (*self.films, *self.copies))]

    def miss(self, name: str, reason: str) -> None:
        """Note that a part could not be measured, and why."""
        self.numbers[name] = None
        self.missing[name] = reason
