"""Position embeddings at another grid: mmsegmentation's way, for every number of tokens before the patches."""

import pytest
import torch
import torch.nn.functional as F

from evalkit import models
from evalkit.downstream import positions
from evalkit.downstream.backbone import build


def at(embedding, grid):
    """(h, w, D) bicubic without a smoothing filter."""
    return F.interpolate(embedding.permute(2, 0, 1)[None], size=grid, mode="bicubic")[0].permute(1, 2, 0)


@pytest.mark.parametrize(
    "name, prefix, placed",
    [
        ("vit_tiny_patch16_224", 1, 1),
        ("deit_tiny_distilled_patch16_224", 2, 2),
        ("deit3_small_patch16_224", 1, 0),  # the class token has no place
        ("vit_small_patch16_224", 1, 1),
    ],
)
def test_an_image_of_another_size_gets_resampled_positions(name, prefix, placed):
    torch.manual_seed(0)
    model = build(name, {"depth": 1}, 64).eval()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    for height, width in ((64, 64), (96, 32), (50, 70)):
        x = torch.randn(1, 3, height, width)
        grid = (-(-height // 16), -(-width // 16))
        with torch.no_grad():
            model.forward_intermediates(x, intermediates_only=True)
            padded = F.pad(x, (0, grid[1] * 16 - width, 0, grid[0] * 16 - height))
            patches = model.patch_embed.proj(padded).permute(0, 2, 3, 1)
            own = model.pos_embed[0, placed:].unflatten(0, (4, 4))
        expected = patches + (own if grid == (4, 4) else at(own, grid))
        assert torch.allclose(seen[-1][:, prefix:], expected.flatten(1, 2), atol=1e-6)


def test_a_file_of_another_size_is_resampled_once():
    small = models.create("vit_tiny_patch16_224", num_classes=0, depth=1, img_size=64).model
    target = build("vit_tiny_patch16_224", {"depth": 1}, 112)
    moved = positions.fit(target, small.state_dict())["pos_embed"]
    assert torch.equal(moved[:, :1], small.pos_embed[:, :1])
    assert torch.allclose(moved[0, 1:].unflatten(0, (7, 7)), at(small.pos_embed[0, 1:].unflatten(0, (4, 4)), (7, 7)))


def test_what_is_no_square_grid_is_left_for_the_check_of_shapes():
    target = build("vit_tiny_patch16_224", {"depth": 1}, 112)
    for tokens in (1, 13, 18):
        odd = {"pos_embed": torch.zeros(1, tokens, 192)}
        assert positions.fit(target, odd)["pos_embed"].shape[1] in (tokens, 50)
