"""Score maps made beforehand, one file per training image, cut to what the augmented image shows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import roi_align

from evalkit.arrays import read_npz
from evalkit.errors import EvalkitError

KEY = "map"


@dataclass(frozen=True)
class OfflineMaps:
    """(augmented image, generator) -> (H / cell, W / cell) float32 map of what that image shows, made in the loader.

    The map of the training image ID is the array "map", (rows, columns) numbers of at least 0 that cover the whole
    image, of the file `folder`/ID.npz, for example maps/n01440764/n01440764_10026.JPEG.npz (np.savez(file,
    map=scores)); nothing in it is ever unpickled. Crops and flips are followed (Mask R-CNN's RoIAlign of the box); what
    else moves pixels is refused. Raises EvalkitError for that and for a bad file.

    Args:
        folder: Where the files lie.
        cell: Pixels of the image per side of a cell of the map.
    """

    folder: Path
    cell: int

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        view = image.info["view"]
        if view is None:
            raise EvalkitError(
                "offline maps follow crops and flips only; set augment=rrc or none and auto_augment=null, or choose"
                " another teacher"
            )
        scores = self.read(image.info["id"])
        rows, columns = scores.shape
        box = [
            view.left * columns,
            view.top * rows,
            (view.left + view.width) * columns,
            (view.top + view.height) * rows,
        ]
        size = (image.height // self.cell, image.width // self.cell)
        shown = roi_align(scores[None, None], [torch.tensor([box], dtype=torch.float32)], size, aligned=True)[0, 0]
        return shown.flip(1) if view.flip else shown

    def file(self, id: str) -> Path:
        """Where the map of a training image lies."""
        return Path(self.folder) / f"{id}.npz"

    def read(self, id: str) -> Tensor:
        """(rows, columns) float32."""
        path = self.file(id)
        try:
            scores = np.asarray(read_npz(path)[KEY], dtype=np.float32)
        except FileNotFoundError:
            raise EvalkitError(
                f"there is no map {path} for the training image {id}; make one for every image, or choose another"
                " teacher"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise EvalkitError(f"{path} is not an .npz file with an array '{KEY}' of numbers; replace it") from e
        if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all() or scores.min() < 0:
            raise EvalkitError(
                f"the array '{KEY}' in {path} is not (rows, columns) of numbers of at least 0; replace it"
            )
        return torch.from_numpy(scores)
