"""The pictures of a training as MLflow shows them: large, with a line that says what they are.

MLflow shrinks a picture to a square of 225 pixels and enlarges it by a click; so these are nearly
square, and large enough to be looked at.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from protodl.network.network import PrototypeNetwork

WIDTH = 720  # pixels, of a picture about
LINE, MARGIN = 28, 6  # height of the words, space around them
# What stands before the / names a section of the run's page, which comes before those of metrics.
RECONSTRUCTIONS, PROTOTYPES = "pictures/reconstructions", "pictures/prototypes"


def training_pictures(
    network: "PrototypeNetwork", samples: "Tensor", when: str
) -> "dict[str, npt.NDArray[np.uint8]]":
    """Validation images beside their reconstructions, and the decoded prototypes.

    Args:
        network: as it is now.
        samples: validation images (N, C, H, W) in [0, 1].
        when: words such as `epoch 5 of 20`.

    Returns:
        Pictures uint8 (height, width, 3), by their names.
    """
    import torch

    with torch.inference_mode():
        images = samples.to(network.prototypes.device)
        decoded = network.decode(network.encode(images))
    count = len(images)
    pairs = torch.stack([images, decoded], dim=1).flatten(0, 1)  # image, reconstruction, image ...
    columns = 2 * max(1, round(math.sqrt(count / 2)))
    words = f"{when}: validation images, each with its reconstruction"
    return {
        RECONSTRUCTIONS: _page(pairs, columns, words),
        PROTOTYPES: prototypes_picture(network, when),
    }


def prototypes_picture(network: "PrototypeNetwork", when: str) -> "npt.NDArray[np.uint8]":
    """The decoded prototypes in their order: uint8 (height, width, 3)."""
    import torch

    with torch.inference_mode():
        decoded = network.decode_prototypes()
    columns = math.ceil(math.sqrt(len(decoded)))
    return _page(decoded, columns, f"{when}: the {len(decoded)} prototypes, decoded")


def _page(images: "Tensor", columns: int, words: str) -> "npt.NDArray[np.uint8]":
    """A grid of images (N, C, H, W) below a line of words."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from protodl.report.figures.pixels import image_grid

    scale = max(1, WIDTH // (columns * (images.shape[-1] + 2)))
    grid = image_grid(images.cpu().numpy(), columns=columns, scale=scale, padding=2 * scale)
    tiles = np.broadcast_to(grid, (*grid.shape[:2], 3))
    page = np.full((len(tiles) + LINE, tiles.shape[1], 3), 255, np.uint8)
    page[LINE:] = tiles
    canvas = Image.fromarray(page)
    font = ImageFont.load_default(LINE - 2 * MARGIN)
    ImageDraw.Draw(canvas).text((MARGIN, MARGIN), words, fill=(0, 0, 0), font=font)
    return np.asarray(canvas)
