import pytest
import torch

from evalkit.errors import EvalkitError
from evalkit.train.mixups.parts.blocks import check_grid, enlarge, mix_blocks


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_are_weighted_sums(layout, dtype):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 12, 12, generator=rng).to(dtype).to(memory_format=layout)
    image = torch.randint(0, 3, (4, 3, 3, 2), generator=rng)
    cell = torch.randint(0, 9, (4, 3, 3, 2), generator=rng)
    weight = torch.tensor([1.0, 0.0, 0.5, 0.25])[torch.randint(0, 4, (4, 3, 3, 2), generator=rng)]
    mixed = mix_blocks(x, image, cell, weight)
    expected = torch.zeros(4, 2, 12, 12)
    for i in range(4):
        for r in range(3):
            for c in range(3):
                for k in range(2):
                    sr, sc = divmod(cell[i, r, c, k].item(), 3)
                    source = x[image[i, r, c, k], :, 4 * sr : 4 * sr + 4, 4 * sc : 4 * sc + 4].float()
                    expected[i, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] += weight[i, r, c, k] * source
    assert mixed.dtype == dtype and mixed.shape == (4, 2, 12, 12)
    assert torch.allclose(mixed.float(), expected, atol=1e-6 if dtype == torch.float32 else 0.02)


def test_one_source_is_copied_exactly():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sample = torch.arange(2)[:, None, None, None].expand(2, 2, 2, 1)
    cell = torch.arange(4).view(1, 2, 2, 1).expand(2, 2, 2, 1)
    assert torch.equal(mix_blocks(x, sample, cell, torch.ones(2, 2, 2, 1)), x)


def test_enlarge():
    cells = torch.tensor([[[1.0, 2], [3, 4]]])
    assert enlarge(cells, 2)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_a_grid_that_does_not_fit():
    assert check_grid("puzzlemix", 32, 32, 8) == 4
    for shape in ((30, 30), (32, 64)):
        with pytest.raises(
            EvalkitError,
            match=(
                "puzzlemix with a 8 x 8 grid needs square images whose side is a multiple of 8, but got"
                f" {shape[0]}x{shape[1]}"
            ),
        ):
            check_grid("puzzlemix", *shape, 8)
