"""The pages that are looked up: keys, records, commands."""

import functools
import json
from typing import Any

from evalkit import keys, records, reference, results, zoo
from evalkit.cli import app, schemas

from .markup import code, page, safe, table

EXAMPLE = "zoo:mixpro-digits"


def pages() -> dict[str, str]:
    """Name -> text."""
    return {"keys": key_page(), "records": record_page(), "commands": command_page()}


def key_page() -> str:
    """Every key of every command, under the commands that take it."""
    roles = "\n".join(f"* *{role}*: {words}" for role, words in (r.split(": ", 1) for r in keys.ROLES.values()))
    parts = [
        "# Keys",
        "What a run does is set by keys, written `key=value` behind a recipe or checkpoint. Here each key stands under"
        " the commands that take it: what it means, which values it takes, its default, and what it decides:",
        roles,
        "`evalkit recipes keys NAME` prints the same for one key, `evalkit recipes show RECIPE` what a recipe sets."
        " `mixup.ARGUMENT=value` sets what a [method](methods.md) takes.",
    ]
    for commands, found in reference.groups(schemas.schemas()):
        parts.append(f"## {reference.takers(commands)}")
        for entry in found:
            values = "\n".join(f"  * `{value}`: {words}" for value, words in entry.key.choices.items() if words)
            role = keys.ROLES[entry.key.role].partition(":")[0]
            about = f"{safe(entry.key.meaning)}. *{safe(entry.allowed())}; {safe(entry.given())}; {role}.*"
            parts.append(f"({anchor(commands[0], entry.name)})=")
            parts.append(f"`{entry.name}`\n: {about}" + (f"\n\n{values}" if values else ""))
    return page(parts)


def anchor(command: str, name: str) -> str:
    """Where a key is described.

    Args:
        command: The first of those that take it.
        name: The key.
    """
    return f"key-{command.replace(' ', '-')}-{name}"


def key_link(command: str, name: str) -> str:
    """A link to what a key of a command means.

    Args:
        command: Such as 'robustness occlusion'.
        name: The key.
    """
    return f"[`{name}`](#{anchor(first_takers()[command, name], name)})"


@functools.cache
def first_takers() -> dict[tuple[str, str], str]:
    """(command, key) -> the first of the commands under which the key is described."""
    groups = reference.groups(schemas.schemas())
    return {(command, entry.name): commands[0] for commands, found in groups for entry in found for command in commands}


def record_page() -> str:
    """The fields of a record, and one whole."""
    rows = [(f"`{name}`", kind, meaning) for name, kind, meaning in records.fields()]
    example = results.read([zoo.located(EXAMPLE)])[0] | {"config": {"...": "..."}}
    return page(
        [
            "# Records",
            f"Every measurement is kept as a record: a line of JSON in `results.jsonl`, schema {records.SCHEMA}, from"
            " which all tables are made. `evalkit.results.read` reads the records of folders; a file that holds another"
            " field, or lacks one, is named and left out. What is promised about records:"
            " [Compatibility](../pages/compatibility).",
            table(("field", "type", "what it is"), rows),
            f"## One whole\n\nOf `{EXAMPLE}`, but for its config, which `evalkit show {EXAMPLE} --json` has too:",
            code(json.dumps(example, indent=1, ensure_ascii=False), "json"),
        ]
    )


def command_page() -> str:
    """What every command prints for --help, under a table of all."""
    import typer
    from typer.testing import CliRunner

    root, runner, rows, parts = typer.main.get_command(app), CliRunner(), [], []
    for words in commands(root):
        name, command = f"evalkit {' '.join(words)}".rstrip(), root
        for word in words:
            command = command.commands[word]
        printed = runner.invoke(app, [*words, "--help"], prog_name="evalkit", env={"COLUMNS": "110"}).output
        rows.append((f"[{name}](#{name.replace(' ', '-')})", (command.help or "").partition("\n")[0]))
        parts.append(f"## {name}\n\n{code(printed.strip())}")
    about = "All commands, and below what each prints for `--help`: arguments, options, examples and [keys](keys.md)."
    return page(["# Commands", about, table(("command", "what it does"), rows), *parts])


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
