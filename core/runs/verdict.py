"""What a decision has found out about a pair of settings, as a sentence and as an object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.compare.sequential import FIRST, Look
from core.compare.table import format_value, in_percent


@dataclass(frozen=True)
class Pair:
    """A setting against the one that it is compared with. look: None before the first look.  better: 1 if larger values
    of the metric are better, -1 if smaller ones are."""

    setting: str
    against: str
    look: Look | None
    better: int
    metric: str

    @property
    def verdict(self) -> str:
        """shown, not as large, undecided, or open."""
        return (self.look and self.look.verdict) or "open"

    @property
    def winner(self) -> str | None:
        """The setting that is shown to be better."""
        if self.look is None or self.verdict != "shown":
            return None
        return self.setting if self.look.mean * self.better > 0 else self.against

    def sentence(self, least: float | None) -> str:
        """What is decided. least: the smallest difference of interest."""
        pair, found = f"{self.setting} against {self.against}", self.look
        if found is None:
            return f"{pair}: fewer than {FIRST} seeds in common"
        if self.winner:
            loser = self.against if self.winner == self.setting else self.setting
            low, high = (format_value(self.metric, end) for end in sorted((abs(found.low), abs(found.high))))
            size = self._amount(abs(found.mean))
            return f"{self.winner} beats {loser} by {size} (95 % interval {low} to {high}, {found.n} seeds)"
        low, high = (format_value(self.metric, end) for end in (found.low, found.high))
        over = f"{self._amount(found.mean)}, 95 % interval {low} to {high}, {found.n} seeds"
        if self.verdict == "not as large" and least is not None:
            return f"{pair}: the difference is smaller than {self._amount(least)} ({over})"
        return f"{pair}: {'undecided at the budget' if self.verdict == 'undecided' else 'not decided yet'} ({over})"

    def _amount(self, value: float) -> str:
        text = format_value(self.metric, value)
        return f"{text} points" if in_percent(self.metric) else text

    def as_object(self) -> dict[str, Any]:
        """The pair as JSON, with unrounded numbers; they are null before the first look."""
        found = self.look
        return {
            "setting": self.setting,
            "against": self.against,
            "verdict": self.verdict,
            "better": self.winner,
            "n": found.n if found else 0,
            "difference": found.mean if found else None,
            "low": found.low if found else None,
            "high": found.high if found else None,
        }
