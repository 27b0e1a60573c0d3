"""`evalkit show` says what is in a folder or file, and its commands are those that made it."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from evalkit import checkpoint, cli, results, show
from evalkit.cli import described
from evalkit.errors import EvalkitError

from . import fake_records


def record(protocol, metrics, **changes):
    return fake_records.record(protocol=protocol, metrics=metrics, standard_errors={}, **changes)


def about(named):
    return show.about(str(named), described.protocols())


def printed(named):
    return show.lines(about(named), described.protocols())


def test_a_finished_run(finished):
    found, text = about(finished), "\n".join(printed(finished))
    meta = checkpoint.read_meta(finished)
    assert found.what == "training run, finished at step 21" and found.problems == []
    assert found.commands == [f"evalkit train {finished}/config.yaml"]
    weights = {name: meta["sha256"][file] for name, file in checkpoint.FILES.items()}
    assert found.facts["weights"] == weights and found.facts["seed"] == 0
    tensors = safetensors.torch.load_file(finished / "last" / "model.safetensors")
    assert found.facts["parameters"] == sum(t.numel() for t in tensors.values())
    (ema, raw) = sorted(results.read([finished]), key=lambda r: r["weights"])
    assert f"top-1 \N{UPWARDS ARROW}: {100 * raw['metrics']['top1']:.1f} ± " in text and ema["n"] == 450
    assert [r["command"] for r in found.records] == 2 * [f"evalkit train {finished}/config.yaml"]
    assert [{k: v for k, v in r.items() if k != "command"} for r in found.records] == [
        {k: v for k, v in r.items() if k != "_dir"} for r in results.read([finished])
    ]


def test_a_run_by_a_relative_path(finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    found = about("finished")
    assert found.what == "training run, finished at step 21" and len(found.records) == 2
    assert found.commands == ["evalkit train finished/config.yaml"] == [found.records[0]["command"]]


def test_one_of_its_checkpoints_has_the_records_of_its_weights_alone(finished, tmp_path):
    shutil.copytree(finished, run := tmp_path / "run", symlinks=True)
    other = dict(results.read([run])[0]) | {"checkpoint_sha256": "0" * 64, "task": "eval"}
    results.append(run, {k: v for k, v in other.items() if k != "_dir"})
    assert len(about(run).records) == 3 and len(about(run / "last").records) == 2
    assert about(run).records[2]["command"].startswith("evalkit eval CHECKPOINT --data digits")
    assert about(run / "last").what == "checkpoint of step 21"


def test_a_run_that_was_stopped(finished, tmp_path):
    shutil.copytree(finished, run := tmp_path / "run", symlinks=True)
    (run / results.FILE).unlink()
    assert about(run).what == "training run, not finished at step 21"
    assert about(run).commands[-1] == f"evalkit train --resume {run}" and about(run).records == []
    shutil.rmtree(run / "checkpoints")
    assert about(run).what == "training run without a checkpoint yet"
    (run / "run.lock").touch()
    assert "a process works in it" in about(run).facts["state"]


def test_a_transfer(tmp_path):
    source = {"checkpoint": "runs/mine", "weights": "raw", "sha256": "a" * 64, "model": "vit_nano_patch4_32"}
    (tmp_path / "source.json").write_text(json.dumps(source))
    assert about(tmp_path).what == "transfer, not finished, from runs/mine"
    assert about(tmp_path).commands == [f"evalkit transfer TASK --resume {tmp_path}"]
    results.append(tmp_path, record("seg", {"miou": 0.2}, task="transfer", checkpoint_sha256="a" * 64))
    found = about(tmp_path)
    assert found.what == "seg transfer, finished, from runs/mine" and found.commands == []
    assert found.records[0]["command"].startswith("evalkit transfer seg runs/mine")
    (tmp_path / "source.json").write_text(json.dumps(source | {"checkpoint": None}))
    assert about(tmp_path).what.endswith("from vit_nano_patch4_32 with random weights")
    (tmp_path / "source.json").write_text("{}")
    with pytest.raises(EvalkitError, match=r"source\.json is damaged"):
        about(tmp_path)


def test_results_alone(tmp_path):
    results.append(
        tmp_path / "deep", record("occlusion", {"auc_random": 0.5, "top1_random_0.5": 0.4}, task="robustness")
    )
    results.append(tmp_path, record("accuracy", {"top1": 0.75}, task="train"))
    with open(tmp_path / results.FILE, "a", encoding="utf-8") as f:
        f.write("half a li\n")
    text = "\n".join(printed(tmp_path / "deep"))
    assert "folder of results, 1 measurement" in text and "random \N{UPWARDS ARROW}: 50.0" in text
    assert "and 1 more numbers with --json" in text and "evalkit robustness occlusion CHECKPOINT" in text
    text = "\n".join(printed(tmp_path / results.FILE))
    assert "top-1 \N{UPWARDS ARROW}: 75.0" in text and "line 2 was skipped" in text
    assert "config.yaml is not beside the record" in text


def test_weights_of_others(tmp_path):
    torch.save({"state_dict_ema": {"module.head.weight": torch.zeros(7, 3), "a": torch.zeros(2)}}, tmp_path / "x.pth")
    found = about(tmp_path / "x.pth")
    assert found.facts | {"sha256": ""} == {
        **{"sha256": "", "weights": "ema", "tensors": 2, "numbers": 23, "types": ["float32"]},
        "last": "a [2]",
    }
    assert found.commands == [f"evalkit eval {tmp_path}/x.pth model=NAME --data DIR"]
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 7}))
    safetensors.torch.save_file({"fc.weight": torch.zeros(7, 512)}, hub / "model.safetensors")
    assert about(hub).facts["model"] == "resnet18" and "Hugging Face" in about(hub).what
    assert about("resnet18").facts["parameters"] == 11_689_512  # He et al., CVPR 2016, counted by timm


def test_a_study(tmp_path):
    from evalkit.study import plan, spec

    jobs = [plan.Job("a", "cell", ["train"], [], "cells/cell/train"), plan.Job("b", "cell", [], ["a"], "cells/cell/x")]
    plan.start(
        tmp_path,
        plan.Plan("digits-methods", "Mixups", jobs, values={"cell": {"method": "mixpro"}}),
        spec.load("digits-methods"),
    )
    results.append(tmp_path / "cells/cell/train", record("accuracy", {"top1": 0.5}, task="train"))
    found = about(tmp_path)
    assert found.what == "study: Mixups" and found.facts["jobs"] == {"done": 1, "waiting": 1}
    assert found.commands[0] == f"evalkit study status {tmp_path}"
    assert found.commands[2] == f"evalkit show {tmp_path}/cells/cell/train"
    assert about(tmp_path / "cells/cell/train").records[0]["metrics"] == {"top1": 0.5}


@pytest.mark.parametrize(
    "named, message",
    [
        ("runs/nothing", "no such run or checkpoint: runs/nothing"),
        ("nothing.pth", "no such run or checkpoint: nothing.pth"),
        ("resnet81", "unknown run or checkpoint 'resnet81'. Did you mean 'resnet18'?"),
        ("mixpro-digits", "unknown run or checkpoint 'mixpro-digits'. Did you mean 'zoo:mixpro-digits'?"),
        ("zoo:mixpro-digit", "unknown checkpoint 'zoo:mixpro-digit'. Did you mean 'zoo:mixpro-digits'?"),
        ("tests", "no results.jsonl below tests"),
    ],
)
def test_what_is_not_there(named, message, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    code, said = cli.invoke(["show", named])
    assert code == 1 and said.startswith(message)


def test_the_command(finished, capsys):
    assert cli.invoke(["show", str(finished)]) == (0, "")
    text = capsys.readouterr().out
    assert text.startswith(f"{finished}: training run, finished at step 21\n  model ") and "mixup" in text
    assert cli.invoke(["show", str(finished), "--json"]) == (0, "")
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "show" and len(found["records"]) == 2 and found["facts"]["mixup"] == "transmix"
