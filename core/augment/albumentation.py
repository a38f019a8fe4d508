"""Albumentation, which wraps any albumentations transform by name; its random numbers come from each sample's key."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from core.augment.base import ImageStep
from core.common.text import did_you_mean, snake

# without this variable, albumentations checks for a newer version over the network when it is imported
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


class Albumentation(ImageStep):
    """A transform of albumentations 2.0, for instance Albumentation(name="ColorJitter", arguments={"p": 0.8})."""

    name: str = Field(description="class name of the albumentations transform, e.g. GaussianBlur")
    arguments: dict[str, Any] = Field({}, description="keyword arguments of the transform")

    def label(self) -> str:
        return snake(self.name)

    def check(self) -> None:
        self.transform()

    def transform(self) -> Any:
        """The albumentations transform.

        Raises ValueError if albumentations has no transform of this name, or if it rejects or ignores an argument.
        """
        import warnings

        import albumentations

        kind = getattr(albumentations, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, albumentations.BasicTransform)):
            kinds = [item for item in vars(albumentations).values() if isinstance(item, type)]
            known = [item.__name__ for item in kinds if issubclass(item, albumentations.BasicTransform)]
            raise ValueError(f"albumentations has no transform {self.name}{did_you_mean(self.name, known)}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                transform = kind(**self.arguments)
            except (TypeError, ValueError) as error:
                reason = " ".join(str(error).partition("For further information")[0].split())
                raise ValueError(f"{self.name}: {reason}") from None
        # albumentations warns about an unknown argument and ignores it; in a declaration it is an error
        if ignored := [str(warning.message) for warning in caught if "not valid for transform" in str(warning.message)]:
            raise ValueError(f"{self.name}: {ignored[0]}")
        return transform


def of_function(function: Callable[[np.ndarray, random.Random], np.ndarray]) -> Any:
    """An albumentations transform that calls function(image uint8 [H, W, C], random); the generator `random` is seeded
    with the sample's key."""
    import albumentations

    class Own(albumentations.ImageOnlyTransform):  # type: ignore[misc]
        def apply(self, img: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
            return function(img, self.py_random)

    return Own(p=1.0)
