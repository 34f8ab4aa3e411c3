"""Photographs that come with two Python packages, as crops of bytes for an ImageNet network."""

from __future__ import annotations

import numpy as np

from workloads.data.files import Packaged, packaged

SIZE = 224  # height and width of a crop
SHORT_SIDES = (256, 320)  # to which a photograph is scaled before it is cut

_SKIMAGE = (
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip
PHOTOS = (
    *(Packaged("scikit-image==0.26.0", f"skimage/data/{name}") for name in _SKIMAGE),
    *(Packaged("scikit-learn==1.9.1", f"sklearn/datasets/images/{name}") for name in ("china.jpg", "flower.jpg")),
)


def photos() -> dict[str, np.ndarray]:
    """Ten crops uint8 [10, 3, 224, 224] of each of twelve photographs, by name; grey ones have three equal channels.

    Crops 0 to 4 are the centre and the corners at the smaller scale, 5 to 9 at the larger one. Raises InputError
    with the command that installs what is missing.
    """
    return {file.path.rpartition("/")[2].partition(".")[0]: _crops(file) for file in PHOTOS}


def _crops(file: Packaged) -> np.ndarray:
    from PIL import Image

    with Image.open(packaged(file)) as opened:
        photo = opened.convert("RGB")
    crops = []
    for short_side in SHORT_SIDES:
        scale = short_side / min(photo.size)
        width, height = (round(side * scale) for side in photo.size)
        pixels = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC))
        crops += [pixels[top : top + SIZE, left : left + SIZE] for top, left in _corners(height - SIZE, width - SIZE)]
    return np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))


def _corners(bottom: int, right: int) -> list[tuple[int, int]]:
    """Where crops start (row, column): in the middle, then in the four corners."""
    return [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
