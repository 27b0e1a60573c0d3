import pytest

from tests.evalkit import fake_records


@pytest.fixture
def record():
    """A complete record of a training, without the folder that reading adds."""
    return fake_records.record()
