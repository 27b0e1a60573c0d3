"""The pages that are looked up: keys, records, commands."""

from typing import Any

from evalkit import keys, records, reference
from evalkit.cli import app, schemas

from .markup import code, page, safe, table


def pages() -> dict[str, str]:
    """Name -> text."""
    return {"keys": key_page(), "records": record_page(), "commands": command_page()}


def key_page() -> str:
    """Every key of every command, under the commands that take it."""
    parts = [
        "# Keys",
        "What follows a recipe or checkpoint as `key=value`, by the commands that take it. `evalkit recipes keys NAME`"
        " prints the same for one key, `evalkit recipes show RECIPE` what a recipe sets.",
    ]
    for commands, found in reference.groups(schemas.schemas()):
        parts.append(f"## {reference.takers(commands)}")
        for entry in found:
            values = "\n".join(f"  * `{value}`: {words}" for value, words in entry.key.choices.items() if words)
            role = keys.ROLES[entry.key.role]
            about = f"{safe(entry.key.meaning)}. *{safe(entry.allowed())}; {safe(entry.given())}; {safe(role)}.*"
            parts.append(f"`{entry.name}`\n: {about}" + (f"\n\n{values}" if values else ""))
    return page(parts)


def record_page() -> str:
    """The fields of a record."""
    rows = [(f"`{name}`", kind, meaning) for name, kind, meaning in records.fields()]
    return page(
        [
            "# Records",
            f"A line of `results.jsonl` is one measurement, JSON, schema {records.SCHEMA}. `evalkit.results.read` reads"
            " the files of a folder; a file that holds another field, or lacks one, is named and left out. What is"
            " promised about records: [Compatibility](../pages/compatibility).",
            table(("field", "type", "what it is"), rows),
        ]
    )


def command_page() -> str:
    """What every command prints for --help."""
    import typer
    from typer.testing import CliRunner

    runner, parts = CliRunner(), ["# Commands", "What each prints for `--help`."]
    for words in commands(typer.main.get_command(app)):
        printed = runner.invoke(app, [*words, "--help"], prog_name="evalkit", env={"COLUMNS": "110"}).output
        parts.append(f"## evalkit {' '.join(words)}".rstrip() + f"\n\n{code(printed.strip())}")
    return page(parts)


def commands(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command.

    Args:
        command: Click's, a group or one that runs.
        words: That lead to it.
    """
    below = getattr(command, "commands", {})
    if not below:
        return [words]
    return [found for name, sub in sorted(below.items()) for found in commands(sub, (*words, name))]
