"""What the README says is done without evalkit, and compared."""

import numpy as np
import pytest

from evalkit.errors import EvalkitError
from evalkit.export import clean

README = "# A\n\n```python\nvalue = {first}\n```\n\n```text\nno code\n```\n\n```python\nvalue = 2\n```\n"
PROBE = "found = {'y': given['x'] * value}"


def test_differences_are_in_units_of_large_outputs():
    x = np.array([1.0, -3.0, 200.0], np.float32)
    assert clean.apart(x, x) == 0 and clean.apart(np.zeros(0), np.zeros(0)) == 0
    assert clean.apart(x, x + np.float32(0.5)) == pytest.approx(0.5 / 200)
    assert clean.apart(np.array([0.25]), np.array([0.75])) == pytest.approx(0.5)
    for odd in (None, x[:2], np.array([1.0, np.nan, 200.0]), np.array([1.0, np.inf, 200.0])):
        assert clean.apart(x, odd) == float("inf")


def test_the_largest_difference_counts_over_blocks_and_names():
    own = {"a": np.array([1.0]), "b": np.array([0.5, 0.5])}
    near = {"a": np.array([1.0]), "b": np.array([0.5, 0.5 + 4e-6])}
    assert clean.largest(own, [own, near]) == pytest.approx(4e-6, rel=1e-3)
    far = {"a": np.array([1.0]), "b": np.array([0.5, 0.5 + 2e-5])}
    with pytest.raises(EvalkitError, match=r"differ from the checkpoint's by up to 2.0e-05, more than 1e-05; nothing"):
        clean.largest(own, [own, far])
    with pytest.raises(EvalkitError, match="by up to inf"):
        clean.largest(own, [{"a": own["a"]}])
    with pytest.raises(EvalkitError, match="the network's a are not finite"):
        clean.largest({"a": np.array([np.nan])}, [{"a": np.array([np.nan])}])


@pytest.mark.slow
def test_each_block_runs_where_there_is_no_evalkit(tmp_path):
    x = np.arange(3.0)
    (tmp_path / "README.md").write_text(README.format(first=1))
    first, second = clean.run(tmp_path, PROBE, {"x": x})
    assert first["y"].tolist() == [0, 1, 2] and second["y"].tolist() == [0, 2, 4]
    (tmp_path / "README.md").write_text(README.format(first="__import__('evalkit.models')"))
    with pytest.raises(EvalkitError, match=r"does not load without evalkit \(ImportError: evalkit is not here\)"):
        clean.run(tmp_path, PROBE, {"x": x})
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]
