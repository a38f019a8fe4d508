"""--detect-anomaly: what autograd's anomaly mode finds, in labbook's words: step, layer, samples, operation, line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from core.common.errors import NonFinite
from core.training.loop import Event
from core.training.nonfinite import diagnose

if TYPE_CHECKING:
    from core.training.assemble import Assembly

_FOUND = re.compile(r"Function '(\w+?)(?:Backward\d*)?' returned nan values")
_LINE = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)')


def explained(events: Iterator[Event], parts: Assembly) -> Iterator[Event]:
    """The same events, where anomaly mode is off; else an anomaly among them is raised as NonFinite."""
    return _explained(events, parts) if torch.is_anomaly_enabled() else events


def _explained(events: Iterator[Event], parts: Assembly) -> Iterator[Event]:
    with _heard() as said:
        try:
            yield from events
        except RuntimeError as error:
            if not (found := _FOUND.search(str(error))):
                raise
            raise _named(parts, found[1], "".join(said[-1:])) from None


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collects the warnings in which autograd tells where the operation was called; others go their usual way."""
    said: list[str] = []
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def hear(message: Warning | str, *rest: Any, **more: Any) -> None:
            if "Error detected in" in str(message):
                said.append(str(message))
            else:
                usual(message, *rest, **more)

        warnings.filterwarnings("always", message="Error detected in")
        warnings.showwarning = hear
        yield said


def _named(parts: Assembly, operation: str, said: str) -> NonFinite:
    """The error of the step under way, whose weights are as before it."""
    setup, state = parts.setup, parts.state
    with torch.autograd.set_detect_anomaly(False):
        if parts.context.ranks > 1:  # a replay needs all processes, and the others may have met nothing
            error = NonFinite(state.step + 1, state.step // parts.context.steps_per_epoch, "in this process's share")
        else:
            error = diagnose(setup, state, parts.train, state.step, state.step + 1)
    advice = "; under fp16 gradients overflow now and then, which is no error: look with bf16" if state.scaler else ""
    error.args = (f"{error}. Anomaly mode: NaN first in the gradient of {operation}{_place(said)}{advice}",)
    return error


def _place(said: str) -> str:
    """Where in the code the operation was called: the last line that is not torch's."""
    own = [found for found in _LINE.findall(said) if "/torch/" not in found[0]]
    if not own:
        return ""
    file, line, function, text = own[-1]
    return f", from {file}, line {line}, in {function}: {text.strip()}"
