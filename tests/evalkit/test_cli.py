"""The command line: what reaches the functions behind it, how it ends, what a person reads."""

import errno
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import evalkit
from evalkit import cli
from evalkit.cli.words import split
from evalkit.errors import EvalkitError
from evalkit.progress import progress

ROOT = Path(__file__).resolve().parents[2]
_UNKNOWN_FOR_ALL = (
    "unknown key 'eps'. Choose one of: allow_partial, batch_size, data, data_root, device, forward_batch, limit, model,"
    " model_args, on_error, out, preprocess, ..."
)
IMAGENET_O = ["robustness", "imagenet-o", "runs/a", "runs/b"]


def run(*words, env=None):
    return subprocess.run(
        [sys.executable, "-m", "evalkit", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture
def calls(monkeypatch):
    """The functions behind the commands replaced by ones that note their arguments and return 0."""
    seen = []

    def note(name, result=0):
        def function(*args, **kwargs):
            seen.append((name, args, kwargs))
            return result

        return function

    monkeypatch.setitem(sys.modules, "evalkit.train.run", SimpleNamespace(train=note("train")))
    monkeypatch.setitem(sys.modules, "evalkit.accuracy", SimpleNamespace(evaluate=note("evaluate")))
    monkeypatch.setitem(sys.modules, "evalkit.report", SimpleNamespace(build=note("report", Path("page.html"))))
    monkeypatch.setitem(
        sys.modules,
        "evalkit.launch",
        SimpleNamespace(spawn=note("spawn", 2), without_options=lambda argv, *options: argv),
    )
    import evalkit.robustness

    monkeypatch.setattr(evalkit.robustness, "run", note("robustness"), raising=False)
    monkeypatch.setattr(evalkit.robustness, "run_all", note("all"), raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return seen


# ---- arguments


@pytest.mark.parametrize(
    "word, expected",
    [
        ("lr=1", True),
        ("mixup.alpha=1", True),
        ("wieght-decay=1", True),
        ("a=", True),
        ("runs/lr=1", False),
        ("./lr=1", False),
        ("digits", False),
        ("=", False),
    ],
)
def test_words(word, expected):
    assert split([word]) == (([], [word]) if expected else ([word], []))


def test_train_gets_the_config_and_the_folder(calls):
    assert cli.invoke(
        ["train", "digits-photo", "mixup=transmix", "mixup.alpha=0.5", "--out", "runs/x", "epochs=2"]
    ) == (0, "")
    (name, (cfg, out), kwargs), *rest = calls
    assert name == "train" and out == Path("runs/x") and not kwargs and not rest
    assert cfg.mixup == {"name": "transmix", "alpha": 0.5} and cfg.epochs == 2 and cfg.data == "digits-photo"


def test_resume_leaves_the_config_to_the_run(calls, capsys):
    assert cli.invoke(["train", "--resume", "runs/x", "workers=4"]) == (0, "")
    assert calls == [("train", (None,), {"resume": Path("runs/x"), "overrides": ["workers=4"]})]
    assert cli.invoke(["train", "digits", "--resume", "runs/x", "--out", "runs/x"]) == (0, "")
    assert "recipe 'digits' is not read again" in capsys.readouterr().out


def test_eval(calls):
    assert cli.invoke(["eval", "runs/x", "batch_size=3", "--data", "images", "--out", "o"]) == (0, "")
    assert calls == [("evaluate", ("runs/x", "images", Path("o"), ["batch_size=3"]), {})]


def test_robustness_tells_models_from_settings(calls):
    assert cli.invoke([*IMAGENET_O, "workers=0", "./lr=0.1", "--data", "odd", "--id", "known", "--out", "o"]) == (0, "")
    (_, (protocol, models, cfg), _), *_ = calls
    assert protocol == "imagenet-o" and models == ["runs/a", "runs/b", "./lr=0.1"]
    assert (cfg.data, cfg.id_data, cfg.out, cfg.workers) == ("odd", "known", "o", 0)


def test_all_protocols_share_their_settings(calls):
    assert cli.invoke(
        [
            "robustness",
            "all",
            "runs/a",
            "runs/b",
            "--data-root",
            "sets",
            "--out",
            "o",
            "workers=3",
            "val_labels=val.txt",
        ]
    ) == (0, "")
    ((_, (models, cfg), _),) = calls
    assert models == ["runs/a", "runs/b"] and (cfg.data_root, cfg.out, cfg.workers, cfg.val_labels) == (
        "sets",
        "o",
        3,
        "val.txt",
    )


@pytest.mark.parametrize("words", [["all", "m"], ["pgd", "m", "eps=[2, 4]"]])
def test_several_processes_are_started_once_the_settings_are_read(calls, words):
    assert cli.invoke(["robustness", *words, "--gpus", "2"]) == (2, "") and calls[0][0] == "spawn"


def test_recipes_of_both_kinds(capsys):
    assert cli.invoke(["recipes", "list"]) == (0, "")
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"digits-photo", "deit-300", "transmix", "mixpro", "occlusion", "imagenet-a", "imagenet-o"} <= set(names)
    assert cli.invoke(["recipes", "show", "occlusion", "repeats=2"]) == (0, "")
    assert "\nrepeats: 2  # command line\n" in capsys.readouterr().out
    assert cli.invoke(["recipes", "diff", "transmix", "transmix-as-run"]) == (0, "")
    assert "mixup-switch-prob" in capsys.readouterr().out
    assert cli.invoke(["recipes", "diff", "occlusion", "mixpro"])[1].startswith(
        "'occlusion' and 'mixpro' are recipes for different commands"
    )


def test_report(calls, capsys):
    assert cli.invoke(["report", "a", "b", "--out", "o"]) == (0, "")
    ((name, (dirs, out, described), kwargs),) = calls
    assert (name, dirs, out, kwargs) == ("report", [Path("a"), Path("b")], Path("o"), {})
    assert next(iter(described)) == "accuracy" and {"occlusion", "seg"} <= set(described)
    assert capsys.readouterr().out.strip().endswith("page.html")


def test_mixup(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setattr("evalkit.train.showcase.preview.save", lambda *args: seen.append(args) or ["left out: x"])
    assert cli.invoke(["mixup", "preview", "a.png", "b.png", "--methods", "mixup,cutmix", "--out", "s.html"]) == (0, "")
    assert cli.invoke(["mixup", "preview"]) == (0, "")
    assert [args[:4] for args in seen] == [
        ([Path("a.png"), Path("b.png")], "mixup,cutmix", Path("s.html"), None),
        ([], None, Path("mixups.png"), None),
    ]
    assert {(tuple(args[4].lambdas), args[4].pairs, args[4].attention) for args in seen} == {
        ((0.1, 0.3, 0.5, 0.7, 0.9), False, False)
    }
    more = ["--checkpoint", "runs/a", "--lambdas", "0,0.5,1", "--pairs", "--attention"]
    assert cli.invoke(["mixup", "preview", *more]) == (0, "")
    *_, checkpoint, look = seen[2]
    assert checkpoint == "runs/a" and list(look.lambdas) == [0, 0.5, 1] and look.pairs and look.attention
    wrong = "--lambdas are numbers with commas between them, but got '0.1;0.2'"
    assert cli.invoke(["mixup", "preview", "--lambdas", "0.1;0.2"]) == (1, wrong)
    sheets = ["left out: x", "s.html", "left out: x", "mixups.png", "left out: x", "mixups.png"]
    assert capsys.readouterr().out.splitlines() == sheets
    assert cli.invoke(["mixup", "list"]) == (0, "")
    assert "puzzlemix " in capsys.readouterr().out
    small = [
        "--batch",
        "2",
        "--size",
        "32",
        "--repeats",
        "1",
        "--device",
        "cpu",
        "--methods",
        "mixup,cutmix",
        "--json",
        str(tmp_path / "b.json"),
    ]
    assert cli.invoke(["mixup", "bench", *small]) == (0, "")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 x 3 x 32 x 32 float32, cpu")
    assert {line.split()[0] for line in lines[2:]} == {"clone", "mixup", "cutmix"}
    made = json.loads((tmp_path / "b.json").read_text())
    assert (
        set(made["methods"]) == {"clone", "mixup", "cutmix"}
        and made["batch"] == 2
        and made["environment"]["device"] == "cpu"
    )
    assert cli.invoke(["mixup", "bench", "--methods", "mixpu"]) == (1, "unknown mixup 'mixpu'. Did you mean 'mixup'?")


@pytest.mark.parametrize(
    "words",
    [["train", "digits", "--gpus", "2"], ["train", "--resume", "runs/x", "--gpus", "2"], [*IMAGENET_O, "--gpus", "2"]],
)
def test_gpus_starts_processes_once(calls, monkeypatch, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.invoke(words) == (2, "")
    assert calls == [("spawn", (2, sys.argv[1:], None), {})]
    calls.clear()
    monkeypatch.setenv("WORLD_SIZE", "2")  # as inside a process that torchrun started
    assert cli.invoke(words) == (0, "") and calls[0][0] in ("train", "robustness")


def test_more_gpus_than_there_are(calls, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert cli.invoke(["train", "digits", "--gpus", "2"]) == (
        1,
        "--gpus 2 asked for, but there are 1; see `evalkit doctor`",
    )
    assert cli.invoke(["train", "digits", "--gpus", "1"]) == (0, "") and calls[0][0] == "train"


@pytest.mark.parametrize(
    "words, message",
    [
        (["train"], "which recipe? Name one of `evalkit recipes list`, or continue a run with --resume DIR"),
        (["train", "digit"], "unknown recipe 'digit'. Did you mean 'digits'?"),
        (
            ["train", "digits", "deit-300"],
            "one recipe at a time, but got digits, deit-300; overrides are written key=value",
        ),
        (
            ["train", "digits", "configs"],
            "one recipe at a time, but got digits, configs; overrides are written key=value, a folder of images"
            " data_dir=configs",
        ),
        (
            ["train", "digits", "learning_rate=1"],
            "unknown key 'learning_rate'. Did you mean 'lr', learning rate after warm-up?",
        ),
        (
            ["recipes", "keys", "learning_rate"],
            "unknown key 'learning_rate'. Did you mean 'lr', learning rate after warm-up?",
        ),
        (["train", "digits", "alpha=1"], "unknown key 'alpha'. Arguments of a mixup are written mixup.alpha=VALUE."),
        (
            ["train", "digits", "--batch-size", "8"],
            ("No such option: --batch-size", "It is a key: write batch_size=VALUE. See `evalkit train --help`."),
        ),
        (["robustness", "pgd", "m", "--eps", "2"], ("It is a key: write eps=VALUE. See `evalkit robustness --help`.",)),
        (["mixup", "list", "--eps"], ("No such option", "See `evalkit mixup list --help`.")),
        (["train", "digits", "wieght_decay=1"], "unknown key 'wieght_decay'. Did you mean 'weight_decay'?"),
        (["train", "digits", "weight-decay=1"], "unknown key 'weight-decay'. Did you mean 'weight_decay'?"),
        (["train", "--resume", "a", "--out", "b"], "--resume continues the run inside a; leave out --out"),
        (
            ["train", "digits", "--gpus", "0"],
            # the words in the middle are typer's, and others in each of its versions
            ("Invalid value for '--gpus': ", "See `evalkit train --help`."),
        ),
        (["trian", "digits"], ("No such command 'trian'.", "'train', 'transfer'", "See `evalkit --help`.")),
        (["recipes"], "Missing command. See `evalkit recipes --help`."),
        (["recipes", "diff", "digits"], ("Missing argument ", "See `evalkit recipes diff --help`.")),
        (["recipes", "show", "digits", "epochs"], "'epochs' is not key=value; see `evalkit --help`"),
        (
            ["robustness", "occlusion", "workers=0"],
            "which model? Give a run folder, a checkpoint, a weights file or a timm model name",
        ),
        (["robustness", "occlusion", "m", "--id", "x"], "--id belongs to imagenet-o; occlusion has only --data"),
        (["robustness", "occlusion", "m", "--data-root", "x"], "--data-root belongs to all; occlusion has --data"),
        (
            ["robustness", "all", "m", "--data", "x"],
            "all has --data-root, the folder that holds the sets, instead of --data",
        ),
        (["robustness", "all", "m", "--id", "x"], "--id belongs to imagenet-o; all has --data-root"),
        (["robustness", "all", "m", "eps=[2]"], _UNKNOWN_FOR_ALL),
        (["robustness", "occlusion", "m", "worker=0"], "unknown key 'worker'. Did you mean 'workers'?"),
    ],
)
def test_usage_errors_are_one_line_and_exit_with_1(calls, words, message):
    code, text = cli.invoke(words)
    assert code == 1 and not calls
    assert text == message if isinstance(message, str) else all(part in text for part in message)


# ---- how it ends


@pytest.mark.parametrize(
    "error, code, message",
    [
        (EvalkitError("two\nlines"), 1, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x"),
            1,
            "no space left on the disk of runs/x (No space left on device); free some, or choose another folder with"
            " --out",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            1,
            f"no space left on the disk of its folder, of {tempfile.gettempdir()} or of what it prints into (Disk quota"
            " exceeded); free some, or choose another folder with --out",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 1, "runs: Permission denied"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            1,
            "a data worker died (DataLoader worker (pid 7) is killed by signal: Killed.); is memory or /dev/shm full?"
            " Try fewer workers, or workers=0; a run continues with --resume",
        ),
        (ValueError("first\nsecond"), 1, "ValueError: first (for the traceback set EVALKIT_DEBUG=1)"),
        (AssertionError(), 1, "AssertionError: no message (for the traceback set EVALKIT_DEBUG=1)"),
    ],
)
def test_errors_become_one_line(monkeypatch, capsys, error, code, message):
    ours = {"error": error, "__name__": "evalkit.report"}  # an error of the user's own code names that instead
    exec(compile("def fail(*_):\n    raise error", cli.__file__, "exec"), ours)
    monkeypatch.setitem(sys.modules, "evalkit.report", SimpleNamespace(build=ours["fail"]))
    monkeypatch.delenv(cli.DEBUG, raising=False)
    assert cli.invoke(["report", "x"]) == (code, message)
    assert capsys.readouterr().err == ""


def test_an_error_of_the_users_code_names_its_line(monkeypatch, capsys):
    def fail(*_):
        raise ValueError("first\nsecond")

    monkeypatch.setitem(sys.modules, "evalkit.report", SimpleNamespace(build=fail))
    monkeypatch.delenv(cli.DEBUG, raising=False)
    line = fail.__code__.co_firstlineno + 1
    assert cli.invoke(["report", "x"]) == (1, f"ValueError: first (test_cli.py, line {line}, in fail)")
    assert capsys.readouterr().err == ""


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv(cli.DEBUG, "1")
    assert cli.invoke(["recipes", "show", "nope.yaml"])[0] == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_exit_code_of_a_command_is_the_exit_code(calls, monkeypatch):
    monkeypatch.setitem(sys.modules, "evalkit.accuracy", SimpleNamespace(evaluate=lambda *_: 2))
    assert cli.invoke(["eval", "x"]) == (2, "")


def test_whole_command(tmp_path):
    bad = run("recipes", "show", "digit-photo")
    assert (bad.returncode, bad.stdout, bad.stderr) == (
        1,
        "",
        "error: unknown recipe 'digit-photo'. Did you mean 'digits-photo'?\n",
    )
    good = run("recipes", "show", "digits-photo")
    assert good.returncode == 0 and good.stderr == "" and "\nmodel: vit_nano_patch4_32\n" in good.stdout
    assert run("--version").stdout == f"evalkit {evalkit.__version__}\n"
    assert run().stdout == run("--help").stdout


def test_a_warning_is_one_line_and_libraries_talk_to_their_callers_alone():
    code = (
        "import sys, types, warnings\nfrom evalkit import cli\nsys.argv = ['evalkit', 'report', 'x']\n"
        "def build(*_): warnings.warn('bad\\nline'); warnings.warn('old', FutureWarning); return 'page'\n"
        "sys.modules['evalkit.report'] = types.SimpleNamespace(build=build)\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "page\n", "warning: bad line\n")


def test_help_is_quick_and_imports_no_torch():
    code = (
        "import sys; sys.argv = ['evalkit', '--help']\nfrom evalkit import cli\ntry: cli.main()\nfinally:"
        " print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "evalkit train digits-photo mixup=mixpro" in done.stdout and "Examples:" in done.stdout
    # instead of seconds, which depend on the machine: some 185 modules take 0.15, NumPy alone would be a hundred more
    loaded = done.stderr.split()
    assert len(loaded) < 250 and not {"torch", "numpy", "yaml", "PIL"} & set(loaded), loaded


def test_every_command_has_help():
    names = ["train", "eval", "robustness", "report", "doctor", "recipes", "mixup"]
    for words in (
        [[n] for n in names]
        + [["recipes", w] for w in ("list", "show", "diff")]
        + [["mixup", w] for w in ("list", "preview", "bench")]
    ):
        done = cli.invoke([*words, "--help"])
        assert done == (0, "")


def test_a_tilde_that_the_shell_left_alone_is_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = ["--out", "~/x", "--out=~/x", "data_dir=~/imagenet", "a=~", "label=~", "runs/~x", "x=y=~/z", "~"]
    assert [cli.at_home(word) for word in words] == [
        "--out",
        "/home/me/x",
        "--out=/home/me/x",
        "data_dir=/home/me/imagenet",
        "a=~",
        "label=~",
        "runs/~x",
        "x=y=/home/me/z",
        "~",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_knows_few_characters_gets_them_escaped(encoding):
    code = (
        "from evalkit import cli\ncli.invoke = lambda argv: (print('top-1 5 ', chr(177), chr(0x4E2D)),"
        " (1, chr(0x2026) + chr(0xDCE9)))[1]\ncli.main()"
    )
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=env)
    assert done.returncode == 1 and done.stdout.decode(encoding).startswith("top-1 5 ")
    assert done.stderr.decode(encoding).startswith("error: ") and b"Traceback" not in done.stderr


def test_a_working_directory_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["evalkit", "recipes", "list"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "is gone; cd to one that is there" in capsys.readouterr().err


def test_a_line_that_is_too_long_loses_its_middle():
    code, line = cli.invoke(["recipes", "show", "x" * 100_000])
    assert code == 1 and len(line) < 5000 and line.startswith("unknown recipe 'xxx") and "Choose one of" in line


def test_a_pass_without_a_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)  # what Python has where the user closed it
    with progress("images", 2) as advance:
        advance(1)
