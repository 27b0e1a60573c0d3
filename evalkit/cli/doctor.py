"""`evalkit doctor`."""

from typing import Annotated

import typer

EPILOG = """\b
Examples:
  evalkit doctor
  evalkit doctor --report       to paste into a bug report
"""


def doctor(
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="the same for a bug report: versions, hardware and checks, no paths, names or hosts"
        ),
    ] = False,
) -> int:
    """Versions, devices, what is missing.

    With the command that mends it. Exit code 1 if evalkit cannot work as it is.
    """
    from .. import doctor as found

    return found.report() if report else found.run()
