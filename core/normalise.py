"""What images are normalised with: the training images' own figures, those of pretrained weights, or each image's."""

from __future__ import annotations

from typing import Literal

from core.images import Images, mean_and_std

Normalise = Literal["data", "imagenet", "inception", "image"]
NORMALISE_MEANING = (
    "mean and deviation by which pixels are normalised: data, of the training images; imagenet, as torchvision's "
    "weights expect; inception, 0.5 and 0.5, as those of Inception and GoogLeNet do; image, of each image by itself"
)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images (torchvision, model zoo)


def statistics(how: Normalise, images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel, of pixels scaled to 0..1; both empty where each image is normalised by itself.

    Grey images get the mean over ImageNet's channels. Raises ValueError for other numbers of channels with imagenet.
    """
    channels = images.shape[2]
    if how == "data":
        return mean_and_std(images)
    if how == "image":
        return (), ()
    if how == "inception":
        return (0.5,) * channels, (0.5,) * channels
    if channels == 1:
        mean, std = ((sum(values) / 3,) for values in IMAGENET)
        return mean, std
    if channels != 3:
        raise ValueError(f"normalise: imagenet is of 3 channels, these images have {channels}; use data or image")
    return IMAGENET
