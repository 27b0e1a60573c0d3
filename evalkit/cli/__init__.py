"""The `evalkit` command: how it starts and how it ends."""

import contextlib
import errno
import os
import sys
import tempfile
import traceback
import warnings
from typing import Any

import typer

from .. import streams
from ..errors import EvalkitError, explained, in_short, own_code
from ..text import check_text, plain
from . import complete, schemas
from .app import app
from .words import check_once

__all__ = ["app", "invoke", "main"]
UsageError: Any = typer.BadParameter.mro()[2]  # what typer raises for any wrong command line
DEBUG = "EVALKIT_DEBUG"
LONGEST = 4000  # letters of an error


def invoke(argv: list[str]) -> tuple[int, str]:
    """Run a command line; its exit code and, if it failed, the one line that says why."""
    try:
        for word in argv:
            check_text(word, "the command line")  # folders too: libraries that write there take text alone
        command = typer.main.get_command(app)
        check_once(command, argv)
        code = command.main(
            args=[at_home(word) for word in argv] or ["--help"], prog_name="evalkit", standalone_mode=False
        )
        code = code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):  # newer typers return 130 instead
        code = 130
    except SystemExit as e:
        if complete.VARIABLE in os.environ:  # typer has answered a shell
            raise
        if isinstance(e.__context__, BrokenPipeError):  # what typer makes of it
            return _failed(e.__context__)
        if ended_by(e).startswith("typer."):  # --show-completion and --install-completion have done their work
            return e.code if isinstance(e.code, int) else 1, ""
        # else of a user's own code: nothing here leaves so
        return 1, plain(f"code of yours ended the program ({in_short(e)}); let it raise an error instead")
    except Exception as e:
        return _failed(e)
    return code, "interrupted" if code == 130 else ""


def _failed(e: Exception) -> tuple[int, str]:
    if isinstance(e, BrokenPipeError) and streams.unread():
        return streams.UNREAD, ""
    if os.environ.get(DEBUG) == "1":
        traceback.print_exception(e)
    return 1, _in_bounds(plain(" ".join(_explain(e).split())))


def ended_by(e: SystemExit) -> str:
    """The module that ended the program."""
    return str([frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(e.__traceback__)][-1])


def _in_bounds(line: str) -> str:
    """A line without its middle, if it is longer than anybody reads: names in files have no bound."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def at_home(word: str) -> str:
    """A word of the command line with the user's home for a `~` that the shell left alone: '~/x' in quotes,
    key=~/x."""
    before, equals, path = word.rpartition("=")
    return f"{before}{equals}{os.path.expanduser(path)}" if path.startswith("~") and "/" in path else word


def _explain(e: Exception) -> str:
    if isinstance(e, EvalkitError):
        return str(e)
    if isinstance(e, UsageError):
        context = getattr(e, "ctx", None)
        text = e.format_message()
        path = context.command_path if context else "evalkit"
        as_key = schemas.as_key(path, getattr(e, "option_name", None))
        return f"{text}{'' if text.endswith(('.', '?')) else '.'}{as_key} See `{path} --help`."
    if line := explained(e):
        return line
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
        where = (
            f"of {e.filename}" if e.filename else f"of its folder, of {tempfile.gettempdir()} or of what it prints into"
        )
        return f"no space left on the disk {where} ({e.strerror}); free some, or choose another folder with --out"
    if isinstance(e, OSError) and e.errno is not None and e.filename is not None:
        return f"{e.filename}: {e.strerror}"
    return in_short(e) if own_code(e) else f"{in_short(e)} (for the traceback set {DEBUG}=1)"


def _is_somewhere() -> bool:
    """Whether the working directory exists; libraries end the process where it does not."""
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # it ends no command that has results to write yet
        print(f"warning: {plain(' '.join(str(message).split()))}", file=sys.stderr)


def main() -> None:
    """Console script: one line on stderr for an error; exit 0 complete, 2 finished but incomplete, 1 error, 130
    interrupted, 141 if nobody reads what it prints any more."""
    streams.prepare()
    if os.environ.get(DEBUG) != "1":
        warnings.filterwarnings("ignore", category=FutureWarning)  # what libraries tell their callers
        warnings.showwarning = _show_warning
    if os.environ.get(complete.VARIABLE) == "complete_bash":
        complete.in_bash(lambda: invoke([]))
    if not _is_somewhere():
        print("error: the folder that this command was started in is gone; cd to one that is there", file=sys.stderr)
        sys.exit(1)
    in_launch = "WORLD_SIZE" in os.environ
    if in_launch:
        from ..launch import launched, leave, leave_group, watch_parent

        watch_parent()
    code, message = invoke(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as e:
        code, message = (code, message) if message else _failed(e)
    if in_launch:
        leave_group(code)
        if launched():
            status = leave(code, message)
            streams.give_up()
            sys.exit(status)
    try:
        if message:
            print(message if code == 130 else f"error: {message}", file=sys.stderr)
    except OSError:
        pass  # the exit code says it
    streams.give_up()
    sys.exit(code)
