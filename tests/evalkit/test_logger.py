import json

from evalkit.logger import Logger


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
