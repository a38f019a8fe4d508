"""A wheel with five photographs of noise, in place of the one with the authors' photographs of frost."""

import zipfile

import numpy as np
from PIL import Image

NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def write(path):
    """Write the wheel to this file."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(NAMES):
            pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 300, 3), np.uint8)
            with archive.open(f"imagecorruptions/frost/{name}", "w") as stream:
                Image.fromarray(pixels).save(stream, "JPEG" if name.endswith("jpg") else "PNG")
