"""The README's code runs, and its commands exist."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evalkit import results, robustness, zoo
from evalkit.cli import invoke

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_loop_in_the_readme():
    code = BLOCKS[0]
    assert len(code.splitlines()) <= 8
    called = []
    optimizer = SimpleNamespace(step=lambda: called.append("step"), zero_grad=lambda: called.append("zero_grad"))
    scope = {"loader": [(torch.randn(2, 3, 224, 224), torch.tensor([3, 7]))], "seed": 0, "optimizer": optimizer}
    exec(code, scope)
    assert called == ["step", "zero_grad"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in scope["network"].parameters())


def test_the_function_as_a_model_in_the_readme(monkeypatch):
    asked = []
    monkeypatch.setattr(robustness, "run", lambda *args: asked.append(args))
    exec(BLOCKS[1], {"fn": lambda x: torch.eye(1000)[:1].expand(len(x), -1) * x.amax()})
    ((protocol, (model,), cfg),) = asked
    assert (
        len(BLOCKS) == 2 and protocol == "imagenet-a" and cfg.data == "/data/imagenet-a" and len(model.classes) == 1000
    )
    assert model.network(torch.rand(2, 3, 224, 224)).argmax(1).tolist() == [0, 0]


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^evalkit ([a-z]+(?: list)?)", README, re.MULTILINE))))
def test_commands_in_the_readme_exist(command, capsys):
    assert invoke([*command.split(), "--help"])[0] == 0
    assert "Usage" in capsys.readouterr().out


def test_files_named_in_the_readme_exist():
    root = Path(__file__).parent.parent
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)|`((?:train|benchmarks|configs)/[\w./-]+)`", README):
        assert (root / (name[0] or name[1])).exists(), name


def test_the_output_in_the_readme_is_that_of_the_record_that_comes_along():
    (record,) = [r for r in results.read([zoo.located("zoo:mixpro-digits")]) if r["protocol"] == "occlusion"]
    shown = dict(re.findall(r"^  (\w+) {2,}(\S+ ± \S+)$", README, re.MULTILINE))
    assert shown == {
        name: f"{record['metrics'][name]:.4f} ± {record['standard_errors'][name]:.4f}"
        for name in ("clean_top1", "auc_random", "auc_salient", "auc_nonsalient")
    }
    assert f"  n = {record['n']}; recorded in results/results.jsonl" in README


def test_the_comparison_in_the_readme_is_what_the_command_prints(capsys):
    """Of records that come along, so the same everywhere."""
    (command, shown) = re.search(r"^evalkit (compare .*)\n```\n\n```text\n(.*?)^```$", README, re.M | re.S).groups()
    assert invoke(command.split()) == (0, "")
    printed = capsys.readouterr().out.splitlines()
    rows = [line.removesuffix(" ...") for line in shown.splitlines() if line != "..."]
    assert len(rows) == 7 and [row for row in rows if not any(line.startswith(row) for line in printed)] == []


def test_a_report_of_the_readme_finds_what_its_commands_measured():
    block = next(b for b in re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S) if "evalkit report" in b)
    folders = [shlex.split(line) for line in block.splitlines() if re.match("evalkit .*runs/", line)]
    assert len(folders) == 2 and all(words[words.index("--out") + 1].startswith("runs/") for words in folders)
