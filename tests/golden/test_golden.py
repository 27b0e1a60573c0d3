"""Every golden vector: what evalkit computes from recorded inputs and draws is what the official code returned."""

import pytest

from .compare import difference
from .vectors import Case, read


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in read()])
def test_equals_the_official_result(case: Case):
    found = difference(case)
    assert found.equal, f"{found.value:.1e} from {case.official} at {found.where}"
