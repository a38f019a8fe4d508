"""Whether a loss keeps the contract of losses: what `labbook check_loss` prints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import nn
from torch.autograd.gradcheck import GradcheckError

from core.common.errors import UserError
from core.common.factory import said
from core.context import Context
from core.declare.part import Part
from core.losses.base import Loss
from core.losses.cross_entropy import CrossEntropy

EXAMPLES = 6
EXTREME = 1e4  # in half precision; the exponential of it overflows in any
HALVES = (torch.bfloat16, torch.float16)
NO_GRADIENT = "it has no gradient with respect to the logits (a detached tensor, or an argmax?)"


class LossCheck(Part):
    """A loss to check: its gradient by torch.autograd.gradcheck, its values as core.losses.Loss defines them."""

    loss: Loss = Field(CrossEntropy(), description="loss to check")
    classes: int = Field(5, ge=2, le=10_000, description="number of classes of the logits it is checked with")


class Finding(NamedTuple):
    """wrong: what does not hold, empty if all is well.  note: what a user should know although nothing is wrong."""

    what: str
    wrong: str = ""
    note: str = ""


def check_loss(asked: LossCheck) -> Iterator[Finding]:
    """Check a loss with random logits, and yield what was found, one Finding for each property.

    Checked are one value for each example, which depends on no other example; targets that are mixed; gradients against
    finite differences (torch.autograd.gradcheck) in float64, or float32 if the loss computes in it; and finite values
    and gradients of logits of 10,000 in half precision. Raises UserError if the loss cannot be built.
    """
    loss = _built(asked)
    logits = 3 * torch.randn(EXAMPLES, asked.classes, generator=torch.Generator().manual_seed(0))
    targets = _targets(asked)
    if not asked.loss.per_example and _is_mean(loss, logits, targets["hard"]):
        text = "it gives the mean over a batch: ClassBalanced cannot weigh it, and images that fail are not named"
        yield Finding("one value for each example", note=text)
    else:
        shape = _found("one value for each example", _shape, loss, logits, targets["hard"])
        yield shape
        if not shape.wrong:
            yield _found("values that depend on no other example", _alone, loss, logits, targets["hard"])
    mixed = _found("mixed targets", _mixed, loss, logits, targets)
    yield mixed
    for kind, one in targets.items():
        if kind != "mixed" or not mixed.wrong:
            yield _found(f"gradients, {kind} targets", _gradient, loss, logits, one)
            for dtype in HALVES:
                yield _found(f"finite in {str(dtype)[6:]}, {kind} targets", _finite, loss, one, asked.classes, dtype)


def _built(asked: LossCheck) -> Any:
    try:
        for part in (asked.loss, *(part for _, part in asked.loss.parts())):
            part.check()
        return asked.loss.build(_context(asked.classes))
    except UserError:
        raise
    except ValueError as error:
        raise UserError([str(error)]) from None


def _found(what: str, check: Callable[..., str], *given: Any) -> Finding:
    try:
        return Finding(what, check(*given))
    except Exception as error:  # whatever the code of a user raises
        return Finding(what, said(error))


def _context(classes: int) -> Context:
    counts = tuple(range(10, 10 + classes))
    names = tuple(map(str, range(classes)))
    return Context(names, counts, (8, 8, 3), sum(counts), 4, 3, 16, torch.device("cpu"))


def _targets(asked: LossCheck) -> dict[str, torch.Tensor]:
    """Targets of each kind that the loss takes."""
    hard = torch.arange(EXAMPLES) % asked.classes
    chance = torch.Generator().manual_seed(1)
    soft = torch.randn(EXAMPLES, asked.classes, generator=chance).softmax(dim=1)
    several = (torch.rand(EXAMPLES, asked.classes, generator=chance) < 0.4).float()
    return {"hard": hard, "mixed": soft} | ({"multi-label": several} if asked.loss.multi_label else {})


def _is_mean(loss: Any, logits: torch.Tensor, targets: torch.Tensor) -> bool:
    try:
        return bool((loss(logits, targets).diff() == 0).all())
    except Exception:  # which the checks report
        return False


def _shape(loss: Any, logits: torch.Tensor, targets: torch.Tensor) -> str:
    values = loss(logits, targets)
    if not isinstance(values, torch.Tensor):
        return f"it gives an object of type {type(values).__name__}; expected a tensor {[len(logits)]}"
    if values.shape == (len(logits),):
        return "" if values.is_floating_point() else f"it gives {values.dtype}"
    hint = "; leave out the mean, or declare it as TorchLoss" if values.ndim == 0 else ""
    return f"it gives the shape {list(values.shape)} for {list(logits.shape)}; expected {[len(logits)]}{hint}"


def _alone(loss: Any, logits: torch.Tensor, targets: torch.Tensor) -> str:
    together = loss(logits, targets)
    alone = torch.cat([loss(logits[i : i + 1], targets[i : i + 1]) for i in range(len(logits))])
    if torch.allclose(together, alone, rtol=1e-4, atol=1e-5):
        return ""
    return f"the loss of an example is {together[0]:.6g} in a batch and {alone[0]:.6g} alone"


def _mixed(loss: Any, logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> str:
    loss(logits, targets["mixed"])
    one_hot = torch.nn.functional.one_hot(targets["hard"], logits.shape[1]).float()
    hard, same = loss(logits, targets["hard"]), loss(logits, one_hot)
    if torch.allclose(hard, same, rtol=1e-4, atol=1e-5):
        return ""
    return f"a target of 1 for one class gives {same[0]:.6g}, the class itself {hard[0]:.6g}"


def _gradient(loss: Any, logits: torch.Tensor, targets: torch.Tensor) -> str:
    exact = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
    wide = targets.double() if targets.is_floating_point() else targets
    given = logits.double().requires_grad_()
    if not exact(given, wide).requires_grad:
        return NO_GRADIENT
    # a loss that computes in float32 is known to seven digits, too few for the small steps that float64 allows
    eps, atol, rtol = (1e-2, 1e-3, 1e-2) if _in_float32(exact, given, targets) else (1e-6, 1e-5, 1e-3)
    try:
        torch.autograd.gradcheck(lambda z: exact(z, wide), (given,), eps=eps, atol=atol, rtol=rtol)
    except GradcheckError as error:
        return f"not those of finite differences ({str(error).splitlines()[0].rstrip(',')})"
    return ""


def _in_float32(loss: Any, logits: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether the loss converts logits in float64 to float32. Targets in float64 would hide that."""
    try:
        return bool(loss(logits, targets).dtype == torch.float32)
    except Exception:  # of a loss that takes logits and targets of one type
        return False


def _finite(loss: Any, targets: torch.Tensor, classes: int, dtype: torch.dtype) -> str:
    rows = torch.zeros(3, classes)
    rows[0, 0], rows[0, 1], rows[1], rows[2] = EXTREME, -EXTREME, EXTREME, -EXTREME
    for one in targets[:3]:
        extreme = rows.to(dtype).requires_grad_()
        values = loss(extreme, one.expand(3, *one.shape))
        if not values.requires_grad:
            return NO_GRADIENT
        values.sum().backward()
        if not torch.isfinite(values).all():
            return f"the loss of logits of {EXTREME:,.0f} is {values[~values.isfinite()][0]}"
        if extreme.grad is None or not torch.isfinite(extreme.grad).all():
            return f"the gradient at logits of {EXTREME:,.0f} is not finite"
    return ""
