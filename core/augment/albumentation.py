"""Any albumentations transform by name, reseeded for every sample from its key."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from core.augment.base import ImageStep
from core.common.text import did_you_mean, snake

# albumentations asks the network for its version when imported, unless told not to
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


class Albumentation(ImageStep):
    """One transform of albumentations 2.0, for instance Albumentation(name="ColorJitter", arguments={"p": 0.8})."""

    name: str = Field(description="a class of albumentations")
    arguments: dict[str, Any] = Field({}, description="its keyword arguments")

    def label(self) -> str:
        return snake(self.name)

    def check(self) -> None:
        self.transform()

    def transform(self) -> Any:
        """Raises ValueError for a name that albumentations lacks and for arguments that it refuses or ignores."""
        import warnings

        import albumentations

        kind = getattr(albumentations, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, albumentations.BasicTransform)):
            kinds = [item for item in vars(albumentations).values() if isinstance(item, type)]
            known = [item.__name__ for item in kinds if issubclass(item, albumentations.BasicTransform)]
            raise ValueError(f"albumentations has no transform {self.name}{did_you_mean(self.name, known)}")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                transform = kind(**self.arguments)
            except (TypeError, ValueError) as error:
                reason = " ".join(str(error).partition("For further information")[0].split())
                raise ValueError(f"{self.name}: {reason}") from None
        # an unknown argument is only warned of, and then ignored: here it is a mistake
        if ignored := [str(warning.message) for warning in told if "not valid for transform" in str(warning.message)]:
            raise ValueError(f"{self.name}: {ignored[0]}")
        return transform


def of_function(function: Callable[[np.ndarray, random.Random], np.ndarray]) -> Any:
    """A transform of a function of (image uint8 [H, W, C], random), whose chance comes from the sample's key."""
    import albumentations

    class Own(albumentations.ImageOnlyTransform):  # type: ignore[misc]
        def apply(self, img: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
            return function(img, self.py_random)

    return Own(p=1.0)
