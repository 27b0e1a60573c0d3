"""evalkit.streams: terminals that go away, pipes without a reader, streams that the user closed."""

import io
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit import __main__, cli, guard, logger, streams

ROOT = Path(__file__).parents[2]
LIST = [sys.executable, "-m", "evalkit", "recipes", "list"]
TRAIN = ["train", "digits", "model=vit_nano_patch4_32", "model_args={depth: 1}", "epochs=1", "batch_size=128"]
TRAIN += ["micro_batch=64", "mixup=vanilla", "workers=0", "threads=1", "device=cpu", "log_steps=1"]


class Unread(io.StringIO):
    """A pipe whose reader ends after some lines."""

    def __init__(self, lines: int):
        super().__init__()
        self.lines = lines

    def write(self, text: str) -> int:
        if self.getvalue().count("\n") >= self.lines:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


def test_a_pipe_without_a_reader_ends_a_command_as_the_signal_would():
    gone, into = os.pipe()
    os.close(gone)
    done = subprocess.run(LIST, stdout=into, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(into)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_closed_streams_are_none_of_the_files_that_are_opened(tmp_path):
    code = (
        "from evalkit import streams; streams.prepare(); import os, sys; print('x'); print('x', file=sys.stderr);"
        f"f = open({str(tmp_path / 'f')!r}, 'w'); os.write(1, b'noise'); os.write(2, b'noise'); f.close();"
        "os._exit(0 if f.name and os.stat(f.name).st_size == 0 else 1)"
    )
    assert os.waitstatus_to_exitcode(os.system(f'exec "{sys.executable}" -c "{code}" <&- >&- 2>&-')) == 0
    assert (tmp_path / "f").exists()


def test_a_terminal_that_is_gone_is_written_to_in_vain():
    master, slave = pty.openpty()
    terminal = io.TextIOWrapper(io.BufferedWriter(streams._Terminal(slave, "w")), "utf-8", line_buffering=True)
    print("seen", file=terminal)
    assert os.read(master, 100) == b"seen\r\n"
    os.close(master)
    print("not seen", file=terminal, flush=True)
    print("nor this", file=terminal, flush=True)


def test_a_broken_pipe_of_another_kind_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Unread(0))
    monkeypatch.setattr(streams, "unread", lambda: [])
    code, line = cli.invoke(["recipes", "list"])
    assert code == 1 and "Broken pipe" in line and "code of yours" not in line
    monkeypatch.setattr(streams, "unread", lambda: [1])
    monkeypatch.setattr(sys, "stdout", Unread(0))
    assert cli.invoke(["recipes", "list"]) == (streams.UNREAD, "")


def test_a_warning_that_nobody_reads_ends_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Unread(0))
    cli._show_warning(UserWarning("x"))


def test_a_run_is_asked_to_stop_when_nobody_reads(monkeypatch, tmp_path):
    log = logger.Logger(tmp_path, 0, 3)
    monkeypatch.setattr(sys, "stdout", Unread(1))
    log.log(1, {"loss": 1.0}, "one")
    assert log.unread == 0
    log.log(2, {"loss": 1.0}, "two")
    log.close()
    assert log.unread == signal.SIGPIPE and len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("number", "code", "stream"),
    [(signal.SIGPIPE, 141, "err"), (signal.SIGTERM, 2, "out"), (signal.SIGHUP, 2, "out"), (signal.SIGINT, 130, "out")],
)
def test_how_a_stopped_run_ends(number, code, stream, capsys):
    assert guard.stopped(number, 3, "evalkit train --resume x") == code
    said = getattr(capsys.readouterr(), stream)
    assert "at step 3, saved; continue with: evalkit train --resume x" in said
    assert (signal.Signals(number).name in said) == (number != signal.SIGPIPE)


@pytest.mark.slow
def test_training_that_nobody_reads_is_saved_and_goes_on_exactly(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.invoke([*TRAIN, "--out", str(whole)]) == (0, "")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Unread(3))
        patched.setattr(streams, "unread", lambda: [1])
        assert cli.invoke([*TRAIN, "--out", str(cut)]) == (streams.UNREAD, "")
    assert not (cut / "results.jsonl").exists() and (cut / "last").exists()
    assert cli.invoke(["train", "--resume", str(cut)]) == (0, "")
    for name in ("model.safetensors", "train_state.pt"):
        assert (cut / "last" / name).read_bytes() == (whole / "last" / name).read_bytes()


def test_ctrl_c_while_the_command_imports_is_one_word(monkeypatch, capsys):
    class Interrupted:
        def __getattr__(self, name: str):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "evalkit.cli", Interrupted())
    with pytest.raises(SystemExit) as e:
        __main__.main()
    assert e.value.code == 130 and capsys.readouterr().err == "interrupted\n"
