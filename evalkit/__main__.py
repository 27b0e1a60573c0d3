"""Where the `evalkit` command begins: Ctrl-C while it imports is no traceback either."""

import sys


def main() -> None:
    """Console script, see `evalkit.cli.main`."""
    try:
        from .cli import main as command

        command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
