import json
import resource

import pytest

from evalkit import cli
from evalkit.errors import EvalkitError
from evalkit.logger import Logger

from .test_streams import TRAIN


def test_lines_after_the_resume_step_are_dropped(tmp_path, capsys):
    (tmp_path / "log.jsonl").write_text('{"step": 5, "loss": 1}\n{"step": 10, "loss": 2}\n{"step": 15, "lo')
    log = Logger(tmp_path, start=5, total=20)
    log.log(10, {"loss": 3.0}, "loss 3")
    log.say("hello")
    log.close()
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        {"step": 5, "loss": 1},
        {"step": 10, "loss": 3.0},
    ]
    assert "step 10/20  loss 3" in capsys.readouterr().out
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_full_disk_names_the_log_and_leaves_whole_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.logger.trackers", lambda *_: [])
    log, limits = Logger(tmp_path, start=0, total=20), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        log.log(1, {"loss": 1.5}, "")
        with pytest.raises(EvalkitError, match=rf"cannot write {tmp_path}/log.jsonl: .*--resume {tmp_path}$"):
            log.log(2, {"loss": 1.25}, "")
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "log.jsonl").read_text() == '{"loss": 1.5, "step": 1}\n'


def test_a_log_that_is_gone_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("evalkit.logger.trackers", lambda *_: [])
    (run := tmp_path / "run").mkdir()
    log = Logger(run, start=0, total=20)
    log.check_place()
    run.rename(tmp_path / "moved")
    with pytest.raises(EvalkitError, match=r"run/log.jsonl is gone: .*; put the folder back, then .* --resume .*/run$"):
        log.check_place()


@pytest.mark.slow
def test_a_run_folder_that_goes_while_it_trains_is_not_made_anew(tmp_path, monkeypatch):
    """Else its second half stands in a folder that no run goes on from."""
    whole, run, away = tmp_path / "whole", tmp_path / "run", tmp_path / "away"
    words = [*TRAIN, "checkpoint_steps=2"]

    def goes(self, step):
        if step == 3:
            run.rename(away)

    with monkeypatch.context() as patched:
        patched.setattr(Logger, "moved", goes)
        code, line = cli.invoke([*words, "--out", str(run)])
    assert code == 1 and "is gone: it was moved or removed" in line and not run.exists()
    away.rename(run)
    assert cli.invoke(["train", "--resume", str(run)]) == (0, "") == cli.invoke([*words, "--out", str(whole)])
    assert (run / "last" / "train_state.pt").read_bytes() == (whole / "last" / "train_state.pt").read_bytes()
