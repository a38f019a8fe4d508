"""labbook check_loss LOSS: whether a loss keeps the contract of losses; --FIELD VALUE sets a field of it.

LOSS is package.module:NAME, such as experiments.my_idea:MyLoss, or a class of core.losses. A function or an nn.Module
class is checked as TorchLoss takes it. The exit status is 1 if a property does not hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.factory import imported, spelled
from core.common.terminal import tell
from core.common.text import suggestion
from core.declare.tree import choices
from core.losses import Loss, TorchLoss
from core.losses.check import LossCheck, check_loss
from core.options import change, pairs


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 0, or 1 if a property does not hold. Raises UserError."""
    found = list(check_loss(parse(words)))
    width = max(len(one.what) for one in found)
    for one in found:
        mark = "FAILS" if one.wrong else "note" if one.note else "ok"
        tell(f"{mark:<5}  {one.what:<{width}}  {one.wrong or one.note}".rstrip())
    return int(any(one.wrong for one in found))


def parse(words: Sequence[str]) -> LossCheck:
    """What is to be checked. Raises UserError."""
    parser = VerbParser("check_loss", __doc__)
    parser.add_argument("loss", metavar="LOSS", help="package.module:NAME, or a class of core.losses")
    parser.add_argument("--classes", metavar="N", default="5", help="number of classes of the logits")
    options, rest = parser.parse_known_args(list(words))
    given, wrong = pairs(rest)
    if wrong:
        raise UserError(wrong)
    kind = _class_of(options.loss)
    asked = {"classes": options.classes} | {f"loss.{field}": text for field, text in given.items()}
    own = {"loss.factory": options.loss} if kind is TorchLoss and ":" in options.loss else {}
    needed = [field for field, info in kind.model_fields.items() if info.is_required()]
    if missing := [field for field in needed if f"loss.{field}" not in asked | own]:
        raise UserError(f"--{field} is missing: {kind.__name__} has no default for it" for field in missing)
    found, wrong = change(LossCheck(loss=kind.model_construct()), {**asked, **own})
    if wrong:
        raise UserError(line.replace("--loss.", "--") for line in wrong)
    assert isinstance(found, LossCheck)
    return found


def _class_of(name: str) -> type[Loss]:
    """The class of a loss; TorchLoss for any other function or class."""
    if ":" not in name:
        known = choices(Loss)  # type: ignore[type-abstract]
        if name not in known:
            raise UserError([f"{name} is not a Loss{suggestion(name, known)}; name others as package.module:NAME"])
        return known[name]
    try:
        found = imported(spelled(name))
    except UserError:
        raise
    except ValueError as error:
        raise UserError([f"{name}: {error}"]) from None
    return found if inspect.isclass(found) and issubclass(found, Loss) else TorchLoss
