import numpy as np
import pytest
import torch
from scipy import stats

from evalkit.train.mixups.attentivemix_plus import AttentiveMixPlus

from .fakes import FakeNet, context, own_share, own_weight
from .saliency_fakes import TeacherNet


@pytest.mark.parametrize(("lam", "count"), [(0.5, 24), (0.001, 1), (1.0, 49), (0.13, 6)])
def test_the_number_of_cells(lam, count):
    method = AttentiveMixPlus(TeacherNet(lambda x: torch.rand(len(x), 3, 7, 7)))
    x = torch.arange(3.0)[:, None, None, None].expand(3, 3, 28, 28).clone()
    mixed = method.mix(context(draws={"lam": lam, "partner": [1, 2, 0]}), x, torch.arange(3), FakeNet())
    assert own_weight(mixed.weights).tolist() == pytest.approx([count / 49] * 3)
    assert own_share(mixed.x).tolist() == pytest.approx([count / 49] * 3)


def test_each_image_has_its_own_share_where_cells_differ():
    """30 pixels in 7 rows: cells of 5 x 5 to 4 x 4; OpenMixup gives all images the share of the first."""
    attention = torch.zeros(3, 3, 7, 7)
    attention[0, :, 0, 0] = attention[1, :, 1, 1] = attention[2, :, 0, 1] = 1
    method = AttentiveMixPlus(TeacherNet(lambda x: attention))
    x = torch.arange(3.0)[:, None, None, None].expand(3, 3, 30, 30).clone()
    mixed = method.mix(context(draws={"lam": 0.03, "partner": [1, 2, 0]}), x, torch.arange(3), FakeNet())
    assert torch.allclose(own_weight(mixed.weights), own_share(mixed.x).float())
    assert own_weight(mixed.weights).tolist() == pytest.approx([25 / 900, 16 / 900, 20 / 900])


@pytest.mark.parametrize(("preset", "b"), [("default", 2), ("openmixup", 2), ("paper", 8)])
def test_lambda_follows_its_beta_distribution(preset, b):
    method, ctx = AttentiveMixPlus(TeacherNet(), **AttentiveMixPlus.PRESETS[preset]), context(seed=1)
    counts = np.array([method.count(ctx, 10**6) for _ in range(2000)]) / 10**6
    assert stats.kstest(counts, stats.beta(2, b).cdf).pvalue > 1e-3


def test_no_mixing():
    method = AttentiveMixPlus(TeacherNet(lambda x: torch.rand(len(x), 3, 7, 7)), alpha=0)
    x = torch.rand(3, 3, 28, 28)
    mixed = method.mix(context(), x, torch.arange(3), FakeNet())
    assert torch.equal(mixed.x, x) and torch.equal(mixed.weights, torch.eye(3))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="Expected argument `beta` to be a number of at least 0, but got -2"):
        AttentiveMixPlus(beta=-2)


DIFFERS = """
each sample's own lam_i (the code takes sample 0's, different where cells are not all of one size)
= ::test_each_image_has_its_own_share_where_cells_differ | golden:attentivemix_plus
OpenMixup's tables say Beta(alpha, 8), which is the preset "paper", its code ignores the 8.
= ::test_lambda_follows_its_beta_distribution | test_preset_sources.py::test_a_preset_is_its_source
"""
