"""The reference pages hold everything there is: each thing is counted by another way than the pages are made."""

import ast
import dataclasses
import functools
import inspect
import json
import re
from pathlib import Path

import pytest

from docs.generate import api, lookups, methods, pictures, protocols
from evalkit import keys, results
from evalkit.cli import described, invoke, schemas
from evalkit.robustness.sets import SETS
from evalkit.train import METHODS
from evalkit.train.mixups import arguments
from tests.evalkit import fake_records

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {"evalkit": "evalkit", **{name: f"evalkit.{name}" for name in ("train", "robustness", "downstream")}}
PROTOCOLS = described.protocols()


def plain(text: str) -> str:
    """A page without what Markdown escapes."""
    return " ".join(re.sub(r"\\([*_<>\[\]$#~])", r"\1", text).split())


@pytest.fixture(scope="module")
def lookup():
    return {name: plain(text) for name, text in lookups.pages().items()}


@functools.cache
def public_names() -> dict[str, str | None]:
    """module.name -> docstring, of every function and class whose names have no underscore, from the sources."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if path.name == "__main__.py" or (folder, parts[0]) == ("downstream", "mm"):
                continue  # is run, not imported; imports mmengine
            module = ".".join([package, *(p for p in parts if p != "__init__")])
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    found[f"{module}.{node.name}"] = ast.get_docstring(node)
    return found


def test_every_public_name_is_on_the_pages_of_the_api():
    pages = api.pages()
    listed = re.findall(r"^\.\. auto(?:class|function):: (\S+)$", "\n".join(pages.values()), re.MULTILINE)
    names = public_names()
    assert len(names) > 800 and "evalkit.train.mixups.base.MixMethod" in names
    assert sorted(set(names) - set(listed)) == []
    modules = {name.rpartition(".")[0] for name in names}
    headed = set(re.findall(r"^##? (evalkit[\w.]*)$", "\n".join(pages.values()), re.MULTILINE))
    assert sorted(modules - headed) == []


def test_every_public_name_has_words():
    assert sorted(name for name, words in public_names().items() if not words) == []


def test_what_the_packages_promise_is_on_the_first_page_of_the_api():
    text, promised = api.pages()["api"], 0
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    parts = [p for p in path.relative_to(ROOT / folder).with_suffix("").parts if p != "__init__"]
                    for name in ast.literal_eval(node.value):
                        promised += 1
                        assert re.search(rf"^\.\. [\w:]+:: {'.'.join([package, *parts, name])}$", text, re.M), name
    assert promised > 50


def test_promised_constants_say_what_they_are():
    """Each by a comment of its own, beside its value; without one the site is not built."""
    text = api.pages()["api"]
    found = re.findall(r"^\.\. py:data:: evalkit\.(\S+)$\n(?:   :.*\n)*\n   (.+)$", text, re.MULTILINE)
    constants = sum(not (inspect.isclass(v) or inspect.isroutine(v)) for v in promised_values())
    assert len(found) == constants > 8
    words = {name: text for name, text in found}
    assert words["data.SIZE"] == "Side of an embedded image in pixels, unless another one is asked for. 32."
    assert all(re.match(r"[A-Z].* .*\.$", text) for text in words.values())
    with pytest.raises(ValueError, match=r"nothing says what evalkit\.data\.OTHER is"):
        api.meaning("evalkit.data", "OTHER", 1)


def promised_values():
    """What every module names in `__all__`."""
    return [getattr(m, name) for m in api.modules() for name in getattr(m, "__all__", ())]


def test_every_key_is_listed_under_the_commands_that_take_it(lookup):
    text, count = lookups.key_page(), 0
    for command, schema in schemas.schemas().items():
        sections = [
            part for part in text.split("\n## ") if re.search(rf"\b{command.split()[-1]}\b", part.split("\n")[0])
        ]
        sections += [part for part in text.split("\n## ") if part.startswith("every command")]
        for field in dataclasses.fields(schema):
            count += 1
            meaning = keys.of(schema)[field.name].meaning
            assert any(f"`{field.name}`\n: " in part for part in sections), (command, field.name)
            assert f"`{field.name}` : {' '.join(meaning.split())}" in lookup["keys"], (command, field.name)
            for value, words in keys.of(schema)[field.name].choices.items():
                assert not words or f"`{value}`: {words}" in lookup["keys"], (field.name, value)
    assert count > 300


def test_every_field_of_a_record_is_listed(lookup):
    record = fake_records.record()
    results.check(record)
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", lookups.record_page(), re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(record) and all(len(words) > 8 for _, _, words in rows)


def told(words: list[str], capsys) -> list[list[str]]:
    """The commands below `words`, as --help names them."""
    capsys.readouterr()
    assert invoke([*words, "--help"])[0] == 0
    out = capsys.readouterr().out
    below = re.search(r"^Commands:\n((?: {2,}.*\n?)+)", out, re.MULTILINE)
    names = re.findall(r"^ {2}(\w[\w-]*)", below[1], re.MULTILINE) if below else []
    return [found for name in names for found in told([*words, name], capsys)] or [words]


def test_every_command_is_listed_with_what_it_prints_for_help(lookup, capsys):
    found = told([], capsys)
    assert ["study", "run"] in found and len(found) > 20
    listed = re.findall(r"^## evalkit (.+)$", lookups.command_page(), re.MULTILINE)
    assert sorted(listed) == sorted(" ".join(words) for words in found)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_formulas_convention_source_and_what_differs(name):
    protocol, pages = PROTOCOLS[name], protocols.pages()
    text = plain(pages[f"protocols/{name}"])
    assert f"[{name}](protocols/{name})" in pages["protocols"] and f"\nprotocols/{name}\n" in pages["protocols"]
    for part in ("convention", "source", "differs"):
        words = getattr(protocol, part)
        assert words.endswith(".") and " ".join(words.split()) in text, part
    assert re.search(r"\b(19|20)\d\d\b", protocol.source)
    for metric in protocol.metrics:
        assert f"`{metric.name}`, {metric.title} : {metric.meaning}." in text, metric.name
        assert metric.formula and " ".join(metric.formula.split()) in text, metric.name
    for field in dataclasses.fields(protocol.config):
        assert f"`{field.name}`" in text, field.name
    for name in protocol.needs.values():
        assert SETS[name].title in text and all(f"`{own}`" in text for own in SETS[name].stand_ins.values())


@pytest.fixture(scope="module")
def method_pages():
    return methods.pages()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_formula_picture_arguments_cost_and_bibtex(name, method_pages):
    text, cls = method_pages[f"methods/{name}"], METHODS[name]
    index = method_pages["methods"]
    assert f"[{name}](methods/{name})" in index and f"\nmethods/{name}\n" in index
    assert re.search(r"(x~|h~|T~|view\(x\)).*(=|are|as)", plain(text))
    assert ":class: formula" in text or name == "vanilla"  # whose formula is a word of its sentence
    assert "Differs from the paper" in plain(text) or "Does not differ from the paper" in plain(text)
    made = pictures.files()
    shown = re.findall(r"^:::\{figure\} (\S+)$", text, re.MULTILINE)
    assert len(shown) >= 4 and all(made[file].startswith(b"\xff\xd8") for file in shown)
    for key in arguments(cls):
        assert f"| `{key}` |" in text, key
    for preset, given in cls.PRESETS.items():
        assert not given or f"| `{preset}` |" in text
    assert cls.bibtex.strip().splitlines()[0] in text and "```bibtex\n@" in text
    assert "## Cost" in text


@pytest.mark.slow
def test_every_cost_is_that_of_its_record(method_pages):
    """The numbers in the tables of costs, read back from the pages and looked for in the files that they name."""
    count = 0
    for page, text in method_pages.items():
        name = page.rpartition("/")[2]
        for ratio, file in re.findall(r"^\| .* \| .* \| ([\d.]+) \| `([\w.]+)` \|$", text, re.MULTILINE):
            record = json.loads((ROOT / "benchmarks" / "results" / file).read_text())
            (found,) = [part[name] for part in (record.get("methods"), record.get("parts", {}).get("methods")) if part]
            value = found.get("ratio_to_clone", found.get("ratio", found.get("relative")))
            assert f"{value:.2f}" == ratio, (name, file)
            count += 1
    assert count > 80
    recorded = json.loads((ROOT / "benchmarks" / "results" / "mixup_bench.json").read_text())["methods"]
    for name, cost in re.findall(
        r"^\| \[\w+\]\(methods/(\w+)\) \| .*? \| .*? \| ([\d.]+|–) \|", method_pages["methods"], re.M
    ):
        assert cost == (f"{recorded[name]['ratio_to_clone']:.2f}" if name in recorded else "–")
