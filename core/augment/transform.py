"""Transform, which wraps a transform of torchvision by name, or a function of the user, seeded from a sample's key."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from core.augment.albumentation import of_function
from core.augment.base import ImageStep
from core.common.factory import Factory, called, label_of, said
from core.common.generators import lent_generators, lent_torch_generator
from core.common.text import did_you_mean
from core.context import Context

ADVICE = "uint8 of the same size is expected: images are converted to float and normalized later, on the device"


class Transform(ImageStep):
    """A transform of torchvision (v2) by its name, or one that a function or class of yours makes, for one image.

    Transform(name="RandomPerspective", arguments={"p": 0.3}), or Transform(factory="my_project.transforms:make").
    It gets a tensor uint8 [C, H, W], or what `takes` says, and has to return the same size and type. Whatever it draws
    from the global generators of Python, NumPy, and torch is determined by the key of the sample.
    """

    name: str | None = Field(None, description="class name in torchvision.transforms.v2, e.g. RandomPerspective")
    factory: Factory | None = Field(
        None, description="package.module:function, called with the arguments, that returns the transform"
    )
    arguments: dict[str, Any] = Field({}, description="keyword arguments of the transform, or of the factory")
    takes: Literal["tensor", "pil", "array"] = Field(
        "tensor",
        description="what the transform is called with: tensor, uint8 [C, H, W]; pil, an image of Pillow; array, "
        "uint8 [H, W, C]",
    )

    def label(self) -> str:
        return label_of(self.name, self.factory)

    def check(self) -> None:
        if (self.name is None) == (self.factory is None):
            raise ValueError("either name, of a transform of torchvision, or factory must be given")
        self._made()

    def build(self, context: Context) -> Transform:
        """This step. Raises ValueError if the transform fails for an image of the data, or changes its size or type."""
        chance = np.random.default_rng(0)
        image = chance.integers(0, 256, context.image_shape, dtype=np.uint8)
        always = {"arguments": self.arguments | {"p": 1.0}} if "p" in self.arguments else {}
        act = self.model_copy(update=always)._act()
        for seed in range(8):
            act(image, random.Random(seed))
        return self

    def transform(self) -> object:
        return of_function(self._act())

    def _act(self) -> Callable[[np.ndarray, random.Random], np.ndarray]:
        made = self._made()
        lent = lent_torch_generator if self.name else lent_generators  # torchvision draws from torch's alone

        def act(image: np.ndarray, chance: random.Random) -> np.ndarray:
            given = _given(image, self.takes)
            with lent(chance.getrandbits(63)):
                try:
                    result = made(given)
                except Exception as error:
                    raise ValueError(f"augment.{self.label()} failed: {said(error)}") from error
            return self._checked(result, image)

        return act

    def _checked(self, result: Any, image: np.ndarray) -> np.ndarray:
        """The result as uint8 [H, W, C]. Raises ValueError if its size or type is another one."""
        import torch
        from PIL import Image

        found = result
        if isinstance(result, torch.Tensor):
            found = result.movedim(0, -1).numpy() if result.ndim == 3 else result.numpy()
        elif isinstance(result, Image.Image):
            found = np.array(result)
        found = found[..., None] if isinstance(found, np.ndarray) and found.ndim == 2 else found
        if not isinstance(found, np.ndarray):
            raise ValueError(f"augment.{self.label()} gave {type(result).__name__}; {ADVICE}")
        if found.shape != image.shape or found.dtype != image.dtype:
            gave, got = (f"{one.dtype} {list(one.shape)}" for one in (found, image))
            raise ValueError(f"augment.{self.label()} gave {gave} for {got}; {ADVICE}")
        return found

    def _made(self) -> Callable[[Any], Any]:
        """The transform. Raises ValueError."""
        arguments = dict(self.arguments)
        if self.name is None:
            made = called(str(self.factory), arguments)
            if not callable(made):
                raise ValueError(f"{self.factory} returned {type(made).__name__}, which cannot be called")
            return made  # type: ignore[no-any-return]
        from torchvision.transforms import InterpolationMode, v2

        kind = getattr(v2, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
            kinds = [name for name, one in vars(v2).items() if isinstance(one, type) and issubclass(one, v2.Transform)]
            raise ValueError(f"torchvision.transforms.v2 has no transform {self.name}{did_you_mean(self.name, kinds)}")
        try:
            if isinstance(how := arguments.get("interpolation"), str):
                arguments["interpolation"] = InterpolationMode(how)
            return kind(**arguments)  # type: ignore[no-any-return]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name}: {error}") from None


def _given(image: np.ndarray, takes: str) -> Any:
    import torch
    from PIL import Image

    image = np.require(image, requirements=["C", "W"])
    if takes == "array":
        return image
    if takes == "tensor":
        return torch.from_numpy(image).movedim(-1, 0)
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
