"""Images of a batch shifted and mirrored, each by its own amount.

On a CPU, a batch passes through in blocks that fit its cache, and rows of pixels are copied as a whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

BLOCK = 1 << 18  # bytes of the images that are moved at once, a part of a core's level-2 cache


def shifted(
    images: torch.Tensor, margin: tuple[int, int], down: torch.Tensor, right: torch.Tensor, mode: str = "constant"
) -> torch.Tensor:
    """Pad images [N, C, H, W], then cut each to H x W at its own offset; channels last in memory.

    margin: pixels added above and below, and left and right.  down, right: int64 [N], offsets from the corner of the
    padded image.  mode: as of torch.nn.functional.pad; constant pads with 0.
    """
    vertical, horizontal = margin
    around = (horizontal, horizontal, vertical, vertical)
    height, width = images.shape[2:]
    if _at_once(images) or images.stride(1) != 1:
        return _cut(F.pad(images, around, mode), down, right, height, width)
    pixels = images.permute(0, 2, 3, 1).contiguous()
    made = torch.empty(pixels.shape, dtype=pixels.dtype)
    count = _block(images)
    padded = pixels.new_zeros((count, height + 2 * vertical, width + 2 * horizontal, pixels.shape[3]))
    inner = padded[:, vertical : vertical + height, horizontal : horizontal + width]
    windows, rows = _windows(padded, height, width), _windows(made, height, width)[:, 0, 0]
    place, offsets = np.arange(len(pixels)) % count, (down.numpy(), right.numpy())
    for first in range(0, len(pixels), count):
        part = slice(first, first + count)
        size = len(pixels[part])
        if mode == "constant":  # around `inner`, the zeros remain
            inner[:size] = pixels[part]
        else:
            padded[:size] = F.pad(images[part], around, mode).permute(0, 2, 3, 1)
        rows[part] = windows[place[part], offsets[0][part], offsets[1][part]]
    return made.permute(0, 3, 1, 2)


def mirrored(images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Images [N, C, H, W], those selected by `chosen`, bool [N], flipped horizontally."""
    if _at_once(images):
        return torch.where(chosen[:, None, None, None], images.flip(3), images)
    count = _block(images)
    if count == 1:
        made = torch.empty_like(images)
        for image, one, flipped in zip(images, made, chosen.tolist(), strict=True):
            one.copy_(image.flip(2) if flipped else image)
        return made
    made = images.clone()
    source, target = images.permute(0, 2, 3, 1), made.permute(0, 2, 3, 1).numpy()  # as they usually lie in memory
    for part in chosen.nonzero().squeeze(1).split(count):
        target[part.numpy()] = source.index_select(0, part).flip(2).numpy()
    return made


def _at_once(images: torch.Tensor) -> bool:
    """Whether blocks gain nothing: on a GPU, and for a small batch."""
    return images.device.type != "cpu" or images.nbytes <= BLOCK


def _block(images: torch.Tensor) -> int:
    """How many of these images fit a block, at least one."""
    return max(1, BLOCK // images[:1].nbytes)


def _windows(pixels: torch.Tensor, height: int, width: int) -> Any:
    """All windows of height x width of pixels [N, H, W, C], as [N, down, right, height] of whole rows: one element is
    the bytes of a row, so that numpy copies it at once."""
    count, tall, wide, channels = pixels.shape
    one = channels * pixels.itemsize
    strides = (tall * wide * one, wide * one, one, wide * one)
    shape = (count, tall - height + 1, wide - width + 1, height)
    return np.ndarray(shape, f"V{width * one}", pixels.view(-1).view(torch.uint8).numpy(), strides=strides)


def _cut(padded: torch.Tensor, down: torch.Tensor, right: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Crop each image of `padded` at its own offset, int64 [N] each; [N, C, height, width], channels last in memory."""
    n, channels, tall, wide = padded.shape
    strides = padded.stride()
    # a view of all windows as [N, down, right, H, W, C], so that indexing one window per image copies whole rows
    windows = padded.as_strided(
        (n, tall - height + 1, wide - width + 1, height, width, channels),
        (strides[0], strides[2], strides[3], strides[2], strides[3], strides[1]),
    )
    return windows[torch.arange(n, device=padded.device), down, right].permute(0, 3, 1, 2)
