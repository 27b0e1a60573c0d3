"""What the shell offers: names and keys that the commands take, in bash itself too, without torch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalkit import config, keys, zoo
from evalkit.cli import complete, described, invoke, schemas
from evalkit.train.mixups import METHODS

ROOT = Path(__file__).parents[2]
TRAIN = schemas.train()["train"]


def offered(command, incomplete, **params):
    return complete.words(SimpleNamespace(command_path=f"evalkit {command}", params=params), incomplete)


def test_recipes_protocols_tasks_studies_methods():
    assert offered("train", "digits-photo-") == [n for n in config.recipes("train") if n.startswith("digits-photo-")]
    assert offered("robustness", "", protocol=None) == [*described.robustness(), "all"]
    assert offered("transfer", "s", task=None) == ["seg"] and offered("study run", "fash") == ["fashion-mnist"]
    assert offered("mixup list", "") == sorted(METHODS)
    assert set(offered("recipes show", "")) >= {"digits", "occlusion", "coco"}
    assert set(offered("recipes keys", "mix")) >= {"mix_draws", "mixup"}
    assert complete.recipes(SimpleNamespace(params={"task": "det"})) == list(config.recipes("det"))
    assert complete.recipes(SimpleNamespace(params={})) == list(config.recipes("robustness"))


def test_keys_of_the_command_at_hand():
    assert offered("train", "ep") == ["epochs=", "eps="]
    assert offered("train", "smoo") == [] and offered("train", "epoc") == ["epochs="]  # no default to offer
    assert offered("train", "log_") == ["log_steps=", f"log_steps={keys.default(TRAIN, 'log_steps')}"]
    assert offered("robustness", "sal", protocol="occlusion")[0] == "saliency="
    assert offered("robustness", "sal", protocol="pgd") == [] and offered("transfer", "head=", task="seg")
    assert set(offered("train", "")) >= {f"{key}=" for key in keys.of(TRAIN)}


def test_values():
    assert offered("train", "mixup=cut") == ["mixup=cutmix"] and offered("train", "nothing=") == []
    assert offered("train", "amp=") == [f"amp={choice}" for choice in keys.of(TRAIN)["amp"].choices] != []
    assert offered("train", "init=zoo:mix") == [f"init={s}" for s in zoo.specs() if s.startswith("zoo:mix")] != []


@pytest.mark.parametrize("command", ["eval", "show", "compare", "mixup preview"])
def test_checkpoints_of_the_zoo(command):
    assert offered(command, "zoo:") == zoo.specs() != []
    assert offered("robustness", "zoo:", protocol="occlusion") == zoo.specs()


def test_words_that_bash_cuts():
    assert complete.joined(["evalkit", "train", "mixup", "=", "cut"]) == ["evalkit", "train", "mixup=cut"]
    assert complete.joined(["evalkit", "x", "saliency", "=", "zoo", ":"]) == ["evalkit", "x", "saliency=zoo:"]
    assert complete.joined(["evalkit", "train", ""]) == ["evalkit", "train", ""]


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed, rest",
    [
        ("tr", {"train", "transfer"}),
        ("recipes s", {"show"}),
        ("train digits mixup=cutm", {"cutmix"}),
        ("robustness occlusion zoo:", {s.removeprefix("zoo:") for s in zoo.specs()}),
        ("robustness occlusion saliency=zoo:mixpro-d", {"mixpro-digits"}),
    ],
)
def test_in_bash(typed, rest, tmp_path):
    """The script that `evalkit --show-completion` prints, by a bash that cuts words as readline does."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    command = tmp_path / "evalkit"
    command.write_text(f"#!{sys.executable}\nfrom evalkit.cli import main\nmain()\n")
    command.chmod(0o755)
    words = [part for word in typed.split() for part in word.replace("=", "\n=\n").replace(":", "\n:\n").split("\n")]
    words = ["evalkit", *(w for w in words if w)]
    array = " ".join(f"'{w}'" for w in words)
    script = (
        'eval "$(_EVALKIT_COMPLETE=source_bash evalkit)"\n'
        f"COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}\n"
        "_evalkit_completion evalkit\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert set(done.stdout.split()) == rest, done.stderr


def test_no_torch_is_loaded():
    code = (
        "import sys; from evalkit.cli import complete; complete._zoo(); complete.schemas.schemas();"
        " assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
def test_what_typer_ends_itself_is_no_error(option, tmp_path, monkeypatch, capsys):
    """Both end the program from within, as code of the user's would."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for module in ("completion", "_completion_shared"):
        monkeypatch.setattr(f"typer.{module}._get_shell_name", lambda: "bash", raising=False)
    assert invoke([option]) == (0, "")
    assert "ompletion" in capsys.readouterr().out
