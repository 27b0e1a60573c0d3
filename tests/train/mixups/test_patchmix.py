import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evalkit import models
from evalkit.train import train_step
from evalkit.train.mixups.patchmix import PatchMix, cells_per_side

from .fakes import context, index_images, own_share, own_weight


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_number_of_cells_of_each_sample():
    x, lam = index_images(4, 32, 32), np.array([0.0, 0.3, 0.72, 1.0])
    mixed = PatchMix(grid=4).mix(context(draws={"lam": lam, "partner": [1, 2, 3, 0]}), x, torch.arange(4), None)
    cells = mixed.x.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).flatten(1, 3)
    assert (cells == cells[:, :, :1]).all()  # each cell comes from one image
    partners = (cells[:, :, 0] != torch.arange(4)[:, None]).sum(1)
    assert partners.tolist() == [16, 11, 4, 0]  # round((1 - lam) 16)
    assert own_weight(mixed.weights).tolist() == [0, 5 / 16, 0.75, 1]


def test_injected_cells_that_do_not_divide_the_image():
    """7 x 10 pixels in 3 x 3 cells: rows of 3, 2, 2 and columns of 4, 3, 3 pixels (pixel p is in cell floor(3 p /
    size))."""
    cells = np.random.default_rng(0).random((2, 3, 3)) < 0.5
    mixed = PatchMix(grid=3).mix(
        context(draws={"cells": cells.reshape(2, 9), "partner": [1, 0]}), index_images(2, 7, 10), torch.arange(2), None
    )
    mask = np.stack([c.repeat([3, 2, 2], 0).repeat([4, 3, 3], 1) for c in cells])
    assert np.array_equal(mixed.mask[:, 0].numpy(), mask) and np.array_equal(mixed.x[0, 0].numpy() == 0, mask[0])
    assert own_weight(mixed.weights).tolist() == pytest.approx(mask.mean((1, 2)).tolist())


def test_every_cell_is_equally_likely_and_lambda_is_per_sample():
    ctx, x, total, lam = context(seed=1), index_images(64, 16, 16), 0, []
    for _ in range(40):
        mixed = PatchMix(grid=4).mix(ctx, x, torch.arange(64), None)
        total = total + mixed.mask[:, 0, ::4, ::4].sum(0)
        lam += mixed.mask.mean((1, 2, 3)).tolist()
        alone = mixed.partner == torch.arange(64)
        assert torch.allclose(own_share(mixed.x)[~alone].float(), own_weight(mixed.weights)[~alone])
    n = len(lam)
    assert ((total / n - 0.5).abs() < 4.5 * 0.5 / np.sqrt(n)).all()
    assert np.mean(lam) == pytest.approx(0.5, abs=4 * np.std(lam) / np.sqrt(n)) and len(set(lam)) == 17


def test_the_grid_by_size():
    assert [cells_per_side(n) for n in (32, 64, 224, 384)] == [4, 8, 7, 7]


@pytest.mark.parametrize("name", ["resnet10_cifar", "vit_nano_patch4_32"])
def test_the_patch_loss_by_hand(name):
    """On a 4 x 4 map (or 8 x 8 tokens averaged in 2 x 2), each cell's feature vector through the classifier."""
    torch.manual_seed(0)
    net, x, y = models.create(name, num_classes=5).eval(), images(3, 3, 32, 32), torch.tensor([0, 3, 4])
    method = PatchMix(patch_loss=0.7)
    ctx = context(smoothing=0.1, draws={"lam": [0.3, 0.5, 0.9], "partner": [1, 2, 0]})
    mixed = method.mix(context(seed=5, draws=ctx.draws), x, y, net)
    out = net(mixed.x, features=True)
    if name.startswith("vit"):
        cells = F.avg_pool2d(out.features[:, 1:].transpose(1, 2).reshape(3, -1, 8, 8), 2)
        classify = net.model.head
    else:
        cells, classify = out.features, net.model.fc
    target, expected = ctx.target(y), ctx.criterion(out.logits, mixed.weights @ ctx.target(y))
    for i in range(3):
        for r in range(4):
            for c in range(4):
                own = mixed.mask[i, 0, 8 * r, 8 * c] == 1
                log_p = classify(cells[i, :, r, c]).log_softmax(0)
                expected = expected - 0.7 / 48 * (target[i if own else ctx.draws["partner"][i]] * log_p).sum()
    assert method.features is True and method.loss(ctx, x, y, mixed, out, net).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    assert train_step(context(seed=5, smoothing=0.1, draws=ctx.draws), net, method, x, y).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "arguments"), [("convnext_atto", {}), ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2})]
)
def test_the_patch_loss_of_one_cell_is_the_loss_of_the_image(name, arguments):
    """With one cell per image and average pooling the cell's logits are the image's."""
    torch.manual_seed(1)
    net = models.create(name, num_classes=5, depths=(1, 1, 1, 1), **arguments).eval()
    x, y, ctx = images(2, 3, 64, 64), torch.tensor([1, 2]), context(draws={"lam": [0.9, 0.2], "partner": [1, 0]})
    with torch.no_grad():
        losses = [train_step(ctx, net, PatchMix(grid=1, patch_loss=w), x, y).item() for w in (0.0, 1.0)]
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"grid": 0}, "`grid` to be a whole number of cells"),
        ({"alpha": -1}, "`alpha` to be a number of at least 0"),
        ({"patch_loss": -1}, "`patch_loss` to be a number of at least 0"),
    ],
)
def test_wrong_values(arguments, said):
    with pytest.raises(ValueError, match=said):
        PatchMix(**arguments)


DIFFERS = """
where those are not public in detail: this is a reconstruction from the paper's abstract
= read: the paper's abstract
(cells of a grid, label by number of cells, losses per patch)
= ::test_the_number_of_cells_of_each_sample | ::test_the_patch_loss_by_hand
without its evolutionary search for patterns and pairs.
= ::test_every_cell_is_equally_likely_and_lambda_is_per_sample
"""
