from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit.data.images import ArrayImages
from evalkit.data.loading import Order, train_batches
from evalkit.data.transforms import TrainTransform, View
from evalkit.errors import EvalkitError
from evalkit.train.mixups.parts.offline_maps import OfflineMaps
from evalkit.train.mixups.tokenmix import TokenMix

from ..fakes import FakeNet

WHOLE = View(0, 0, 1, 1, False)
RNG = np.random.default_rng(0)


def shown(folder, id, view, size=(8, 8), cell=2):
    """The map (size / cell) that an augmented image of `size` (height, width) gets."""
    image = Image.new("RGB", size[::-1])
    image.info = {"id": id, "view": view}
    return OfflineMaps(folder, cell)(image, RNG)


def test_a_map_of_the_same_grid_is_what_is_on_disk(tmp_path):
    scores = RNG.random((4, 6))
    (tmp_path / "cat").mkdir()
    np.savez(tmp_path / "cat" / "1.JPEG.npz", map=scores)
    got = shown(tmp_path, "cat/1.JPEG", WHOLE, (8, 12))
    assert got.dtype == torch.float32 and torch.allclose(got, torch.from_numpy(scores).float(), atol=1e-6)
    mirrored = shown(tmp_path, "cat/1.JPEG", View(0, 0, 1, 1, True), (8, 12))
    assert torch.allclose(mirrored, torch.from_numpy(scores[:, ::-1].copy()).float(), atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_shows_the_map_where_the_image_is(tmp_path, flip):
    """Scores that grow evenly from left to right and from top to bottom: each cell gets the value at its middle."""
    rows, columns = 20, 30
    np.savez(
        tmp_path / "a.npz", map=5 * (np.arange(rows)[:, None] + 0.5) / rows + 3 * (np.arange(columns) + 0.5) / columns
    )
    view = View(0.2, 0.3, 0.5, 0.4, flip)
    got = shown(tmp_path, "a", view, (8, 12))
    for r in range(4):
        for c in range(6):
            across = (c + 0.5) / 6
            x, y = 0.2 + 0.5 * (1 - across if flip else across), 0.3 + 0.4 * (r + 0.5) / 4
            assert got[r, c].item() == pytest.approx(5 * y + 3 * x, abs=1e-4)


@pytest.mark.parametrize("augment", ["none", "rrc"])
def test_through_the_loader(tmp_path, augment):
    """Images whose grey level is their map: the augmented image and the map that comes with it still agree."""
    level = np.add.outer(np.arange(32), 3 * np.arange(32)).astype(np.float64)
    levels = [level, level[::-1], level[:, ::-1], level.T]
    for i, scores in enumerate(levels):
        np.savez(tmp_path / f"{i}.npz", map=scores)
    pixels = np.stack([np.repeat(scores[:, :, None], 3, 2) for scores in levels]).astype(np.uint8)
    images = ArrayImages("ramps", ["0", "1", "2", "3"], [0, 1, 0, 1], ["x", "y"], pixels)
    keys = SimpleNamespace(
        crop_scale=[0.08, 1.0],
        image_size=32,
        augment=augment,
        auto_augment=None,
        color_jitter=0.0,
        erasing=0.0,
        interpolation="bilinear",
        decode="exact",
        augment_device="cpu",
    )
    method = TokenMix("offline", maps=str(tmp_path))
    method.setup(FakeNet(4))
    batches = list(
        train_batches(
            images, TrainTransform(keys), Order(1, batch_size=4, micro_batch=2, epochs=12), extras=method.loader_extras
        )
    )
    assert batches[0].extras["maps"].shape == (2, 8, 8)
    for batch in batches:
        seen = torch.nn.functional.avg_pool2d(batch.x[:, :1].float(), 4)[:, 0]
        # at the border of the image, Pillow and RoIAlign continue it differently
        middle = (slice(None), slice(1, 7), slice(1, 7))
        assert torch.allclose(batch.extras["maps"][middle], seen[middle], atol=1.5)
    first = {int(i): x for b in batches[:2] for i, x in zip(b.index, b.extras["maps"])}
    if augment == "none":
        assert torch.allclose(first[0], torch.from_numpy(level).view(8, 4, 8, 4).mean((1, 3)).float(), atol=1e-3)


def test_what_moves_pixels_otherwise_is_refused(tmp_path):
    np.savez(tmp_path / "0.npz", map=np.ones((2, 2)))
    with pytest.raises(
        EvalkitError, match="offline maps follow crops and flips only; set augment=rrc or none and auto_augment=null"
    ):
        shown(tmp_path, "0", None)


@pytest.mark.parametrize(
    ("make", "message"),  # an object array would have to be unpickled
    [
        (None, r"there is no map .*0\.npz for the training image 0; make one for every image"),
        (lambda path: path.write_bytes(b""), "is not an .npz file with an array 'map' of numbers; replace it"),
        (lambda path: path.write_text("no zip"), "is not an .npz file with an array 'map' of numbers; replace it"),
        (
            lambda path: np.savez(path, scores=np.ones((2, 2))),
            "is not an .npz file with an array 'map' of numbers; replace it",
        ),
        (
            lambda path: np.savez(path, map=np.array([{}, 1], dtype=object)),
            "is not an .npz file with an array 'map' of numbers; replace it",
        ),
        (lambda path: np.savez(path, map=np.ones((1, 2, 2))), r"is not \(rows, columns\) of numbers of at least 0"),
        (lambda path: np.savez(path, map=np.array([[1, np.nan]])), r"is not \(rows, columns\)"),
        (lambda path: np.savez(path, map=np.array([[1, -1]])), r"is not \(rows, columns\)"),
        (lambda path: np.savez(path, map=np.array([["a", "b"]])), "is not an .npz file"),
        (
            lambda path: (np.savez(path, map=np.ones((9, 9))), path.write_bytes(path.read_bytes()[:300])),
            "is not an .npz file",
        ),
    ],
)
def test_bad_files_are_one_line(tmp_path, make, message):
    if make:
        make(tmp_path / "0.npz")
    with pytest.raises(EvalkitError, match=message) as caught:
        shown(tmp_path, "0", WHOLE)
    assert "\n" not in str(caught.value) and "0.npz" in str(caught.value)
