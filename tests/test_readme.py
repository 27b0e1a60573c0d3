"""The README's code runs, and its commands exist."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evalkit import robustness
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
