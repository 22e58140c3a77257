"""Recorded what ImageMagick's motion blur makes of a small image, which the tests compare with; run by hand.

Needs what the project does not: Wand and ImageMagick (`apt-get install libmagickwand-6.q16-6`, `pip install wand`).

    python tests/evaluation/references/record_motion_blur.py
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

CASES = ((3, 3, -45), (3, 3, 20), (5, 5, -10), (5, 5, 0), (10, 5, 33), (10, 7, -27.5), (10, 9, 45))


def blurred(image: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    from wand.api import library  # here, as pytest imports every file to look for examples in it
    from wand.magick import Image as MagickImage

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    with MagickImage(blob=buffer.getvalue()) as magick:
        library.MagickMotionBlurImage(magick.wand, radius, sigma, angle)
        return np.array(Image.open(io.BytesIO(magick.make_blob("png"))).convert("RGB"))


def main() -> None:
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), np.uint8)).resize((56, 48), Image.Resampling.BICUBIC)
    noise = generator.integers(-25, 26, (48, 56, 3))
    image = (np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8)
    results = np.stack([blurred(image, *case) for case in CASES])
    # One image of all, the untouched one first: a PNG keeps every value.
    stacked = Image.fromarray(np.concatenate([image, *results]))
    stacked.save(Path(__file__).with_name("motion_blur.png"), optimize=True)


if __name__ == "__main__":
    main()
