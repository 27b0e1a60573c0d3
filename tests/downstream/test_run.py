"""A transfer that goes on in a folder that was changed by hand."""

import shutil

import pytest

from evalkit.downstream import seg
from evalkit.downstream.run import transfer
from evalkit.errors import EvalkitError

from .test_seg_run import finished, needs_mm  # noqa: F401 - a fixture


@needs_mm
@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", '{"resized": 5}', ""])
def test_damage_is_named_before_training_and_files_of_the_user_stay(finished, tmp_path, content, capsys):  # noqa: F811
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "results.jsonl").unlink()
    (run / "checkpoints/step-000000008.pth").unlink()
    users = run / "checkpoints/step-000000004.pth.bak", run / "checkpoints/step-best.pth"
    for path in users:
        path.write_bytes(b"mine")
    (run / "weights.json").write_text(content)
    with pytest.raises(EvalkitError, match="weights.json is missing or damaged; put it back"):
        transfer(seg.TASK, None, None, resume=run)
    assert "resuming" not in capsys.readouterr().out
    assert all(path.read_bytes() == b"mine" for path in users)
