"""A command that waits to be stopped: however slow the test is, the command is no further than a step when the signal
comes."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# argv: the step after whose line it waits, the file it waits for, and the command's words
PROGRAM = """
import os, sys, time
from evalkit.cli import main
from evalkit.logger import Logger
at, go = int(sys.argv.pop(1)), sys.argv.pop(1)

def log(self, step, *values, log=Logger.log):
    log(self, step, *values)
    while step >= at and not os.path.exists(go):
        time.sleep(0.01)

Logger.log = log
main()
"""


def stop(words: Sequence[str], number: int, at: int, go: Path) -> tuple[int, str]:
    """Run a command in a process group of its own, send that a signal within the step after the one that is named, and
    wait for its end: exit code and output.

    Args:
        words: Those of the command, without `evalkit`; it logs every step.
        number: The signal.
        at: The step whose line is waited for.
        go: A file that is not there; it is made after the signal.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(at + 1), str(go), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith(f"step {at}/"):
            time.sleep(0.05)  # anywhere in the next step
            os.killpg(process.pid, number)
            go.touch()
            break
    text += process.stdout.read()
    process.stdout.close()
    return process.wait(), text
