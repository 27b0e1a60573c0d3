"""Copies to and from a device; what only a GPU does is marked."""

import numpy as np
import pytest
import torch

from evalkit.device_copy import Fetched, to_device

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("passes", [0, 1, 2, 3, 17, 50])
def test_results_come_in_order_whenever_they_are_asked_for(device, passes):
    results = [torch.arange(3 * i, 3 * i + 1 + i % 3, dtype=torch.float32)[:, None] for i in range(passes)]
    fetched, expected = Fetched(together=3), np.concatenate([np.zeros((0, 1), np.float32), *map(np.asarray, results)])
    for i, result in enumerate(results):
        fetched.add(to_device(result, torch.device(device)))
        assert len(fetched.coming) <= 2 and len(fetched.waiting) < 3
        if i == 7:  # a part is saved
            assert sum(map(len, fetched.arrays())) == sum(map(len, results[:8]))
    found = np.concatenate([np.zeros((0, 1), np.float32), *fetched.arrays()])
    assert np.array_equal(found, expected) and found.dtype == np.float32


@GPU[0]
@GPU[1]
def test_nothing_waits_for_a_gpu():
    device = torch.device("cuda")
    fetched, x = Fetched(together=2), torch.randn(8, 4).pin_memory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            fetched.add(to_device(x, device) * 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.array_equal(np.concatenate(fetched.arrays()), np.concatenate([2 * x.numpy()] * 4))
