import pytest

from tests.evalkit import fake_records


@pytest.fixture
def record():
    """A complete record of a training, as it stands in results.jsonl."""
    return fake_records.record()
