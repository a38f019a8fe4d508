"""--detect-anomaly: reports what autograd's anomaly mode finds, with step, layer, samples, operation and source
line."""

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
    """Yield the events unchanged; with anomaly mode enabled, raise an anomaly as NonFinite."""
    return _explained(events, parts) if torch.is_anomaly_enabled() else events


def _explained(events: Iterator[Event], parts: Assembly) -> Iterator[Event]:
    with _recorded_warnings() as recorded:
        try:
            yield from events
        except RuntimeError as error:
            if not (found := _FOUND.search(str(error))):
                raise
            raise _named(parts, found[1], "".join(recorded[-1:])) from None


@contextmanager
def _recorded_warnings() -> Iterator[list[str]]:
    """Collect the warnings of autograd that name the forward operation; other warnings are shown as usual."""
    recorded: list[str] = []
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def record(message: Warning | str, *rest: Any, **more: Any) -> None:
            if "Error detected in" in str(message):
                recorded.append(str(message))
            else:
                usual(message, *rest, **more)

        warnings.filterwarnings("always", message="Error detected in")
        warnings.showwarning = record
        yield recorded


def _named(parts: Assembly, operation: str, warning: str) -> NonFinite:
    """Build the error for the current step, whose weights have not been updated."""
    setup, state = parts.setup, parts.state
    with torch.autograd.set_detect_anomaly(False):
        if parts.context.ranks > 1:  # a replay needs all processes, and the others may not have found an anomaly
            error = NonFinite(
                state.step + 1, state.step // parts.context.steps_per_epoch, "in the samples of this process"
            )
        else:
            error = diagnose(setup, state, parts.train, state.step, state.step + 1)
    advice = "; occasional overflow is normal in fp16, use bf16" if state.scaler else ""
    error.args = (f"{error}. Anomaly mode: the first NaN is in the gradient of {operation}{_place(warning)}{advice}",)
    return error


def _place(warning: str) -> str:
    """The source line that called the operation: the last line outside torch."""
    own = [found for found in _LINE.findall(warning) if "/torch/" not in found[0]]
    if not own:
        return ""
    file, line, function, text = own[-1]
    return f", called in {file}, line {line}, in {function}: {text.strip()}"
