"""An image of any size to the square that a network takes: the one rule by which training and use resize.

Needs numpy and Pillow. Exported models carry the same rule inside (``export.preprocessing``), equal to the bit.
"""

import numpy as np
from PIL import Image

from hemalens.core.types import Images

__all__ = ["resize", "resize_image"]


def resize(image: Images, size: int) -> Images:
    """Return an image (H, W, 3) uint8 as (size, size, 3) by Pillow's antialiased bicubic filter."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(resize_image(Image.fromarray(image), size))


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """Return a PIL image of mode RGB as one of size x size by the same filter."""
    return image.resize((size, size), Image.Resampling.BICUBIC)
