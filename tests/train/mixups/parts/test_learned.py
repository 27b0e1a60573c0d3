import pytest

from evalkit.train.mixups.parts.learned import falling_weight

from ..fakes import context
from ..learned_fakes import CLASSES


def test_the_mask_losss_weight_of_the_code_compounds():
    """Over 125,000 steps: 0.090 after a hundredth of them, 0.044 after two, 2.6e-7 after five, nothing at half time;
    the cosine that is meant leaves 0.0999, 0.0995 and 0.05."""
    total, found = 125_000, {}
    for schedule in ("compounding", "cosine"):
        found[schedule] = [
            falling_weight(context(CLASSES, step=int(share * total), total_steps=total), 0.1, schedule)
            for share in (0, 0.01, 0.02, 0.05, 0.5)
        ]
    assert found["compounding"] == [0.1, *(pytest.approx(w, rel=0.02) for w in (0.090, 0.044, 2.6e-7)), 0]
    assert found["cosine"] == pytest.approx([0.1, 0.099975, 0.0999, 0.0994, 0.05], abs=1e-4)
