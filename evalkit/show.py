"""`evalkit show`: what a run, a checkpoint or a file of weights is, what was measured on it, and the commands behind
it."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from . import checkpoint, fingerprint, models, results, weights, zoo
from .errors import EvalkitError, unknown
from .files import parse_json
from .models.load import SUFFIXES
from .protocols import Protocols
from .recipe_text import flow
from .report.provenance import deviation
from .report.recorded import CHECKPOINT, command
from .run_folder import LOCK
from .study import plan

SCHEMA = 1
CONFIG, SOURCE = "config.yaml", "source.json"  # of a run; of a transfer, what it began from
MADE_BY = ("evalkit", "commit", "python", "torch", "device")  # of a record's environment
NO_COMMAND = f"unknown, since {CONFIG} is not beside the record; --json has every setting"
NO_RECIPE = "none of evalkit's has all of these settings"


@dataclass
class About:
    """What can be said of something.

    Args:
        named: How it was given.
        what: What it is, in words.
        facts: JSON values by name.
        commands: Command lines that make it, or go on with it.
        records: What was measured, each as in results.jsonl with its `command`.
        problems: Sentences about what could not be read.
    """

    named: str
    what: str
    facts: dict[str, Any] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def about(named: str, protocols: Protocols) -> About:
    """Everything that is known of a run folder, a study's folder, a folder of results, a checkpoint, a member of the
    zoo, a weights file or a timm model. Raises EvalkitError for anything else.

    Args:
        named: A path, `zoo:NAME` or a timm name.
        protocols: All protocols, by name.
    """
    path = zoo.located(named)
    if path.is_dir():
        return _folder(named, path, protocols)
    if path.name == results.FILE and path.is_file():
        return _measured(named, "results", path, {}, protocols)
    if path.is_file():
        tensors, meta, sha256 = weights.read_file(path)
        facts = {"sha256": sha256, **meta, **_tensors(tensors)}
        return About(named, "weights file that does not name its architecture", facts, [_evaluation(named, "NAME")])
    if "/" in named or path.suffix in SUFFIXES:
        raise EvalkitError(f"no such run or checkpoint: {named}")
    return _of_timm(named)


def as_json(found: About) -> str:
    """One JSON object."""
    return json.dumps({"schema": SCHEMA, "task": "show", **vars(found)}, indent=1, allow_nan=False)


def lines(found: About, protocols: Protocols) -> list[str]:
    """The same for a person.

    Args:
        found: What is known.
        protocols: All protocols, by name.
    """
    rows = [(name.replace("_", " "), _shown(value)) for name, value in found.facts.items()]
    rows += [("command", line) for line in found.commands]
    width = max((len(name) for name, _ in rows), default=0)
    out = [f"{found.named}: {found.what}", *(f"  {name.ljust(width)}  {value}" for name, value in rows)]
    for record in found.records:
        out += ["", *_record_lines(record, protocols)]
    return [*out, *found.problems]


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else flow(value)


# ---- folders


def _folder(named: str, path: Path, protocols: Protocols) -> About:
    if (path / plan.FILE).is_file():
        return _study(named, path)
    if (path / SOURCE).is_file():
        return _transfer(named, path, protocols)
    if (path / CONFIG).is_file() or checkpoint.find_folder(path) is not None:
        return _training(named, path, protocols)
    if (path / weights.HUB_CONFIG).is_file():
        tensors, meta, sha256 = weights.read_hub(path)
        facts = {"sha256": sha256, **{k: v for k, v in meta.items() if k != "classes"}, **_tensors(tensors)}
        return About(named, "weights as timm writes them for the Hugging Face Hub", facts, [_evaluation(named, None)])
    return _measured(named, "folder of results", path, {}, protocols)


def _training(named: str, path: Path, protocols: Protocols) -> About:
    """A run of `evalkit train`, one of its checkpoints, or a checkpoint that stands alone."""
    folder = checkpoint.find_folder(path)
    again = shlex.join(["evalkit", "train", "--resume", named])
    if folder is None:
        return About(named, "training run without a checkpoint yet", _at_work(path), [again])
    meta = checkpoint.verify(folder)
    inside = folder.resolve().parent
    run = inside.parent if inside.name == "checkpoints" else path
    whole = run.resolve() == path.resolve()
    run = path if whole else run  # as it was given, for commands
    known = {sha: name for name, file in checkpoint.FILES.items() if (sha := meta["sha256"].get(file))}
    facts = {**_at_work(run), **_of_meta(meta, folder), "weights": {name: sha for sha, name in known.items()}}
    if zoo.is_member(named):
        what, commands = "checkpoint of the zoo, which comes with evalkit", zoo.commands(named)
    elif whole and (run / CONFIG).is_file():
        trained = _records(run)[0] if (run / results.FILE).is_file() else []
        finished = any(r["task"] == "train" and r["checkpoint_sha256"] in known for r in trained)
        what = f"training run, {'finished' if finished else 'not finished'} at step {meta.get('step')}"
        commands = [shlex.join(["evalkit", "train", str(run / CONFIG)]), *([] if finished else [again])]
    else:
        what, commands = f"checkpoint of step {meta.get('step')}", []
    found = About(named, what, facts, commands)
    if (run / results.FILE).is_file():
        found.records, found.problems = _recorded(run, protocols, named, set(known), only=not whole)
    for record in found.records if zoo.is_member(named) else ():
        record["command"] = commands[0] if record["task"] == "train" else record["command"]
    return found


def _of_meta(meta: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, and how large it is."""
    config = meta.get("config") or {}
    data = meta.get("data") or {}
    known = {
        "model": meta.get("model"),
        "model_args": meta.get("model_args") or None,
        "parameters": _tensors(weights.read_safetensors(folder / checkpoint.FILES["raw"]))["numbers"],
        "classes": meta.get("num_classes"),
        "image_size": meta.get("image_size"),
        "mixup": config.get("mixup"),
        "recipe": meta.get("recipe") or NO_RECIPE,
        "data": f"{data['name']}, {fingerprint.short(str(data.get('fingerprint')))}" if "name" in data else None,
        "epochs": config.get("epochs"),
        "seed": config.get("seed"),
        "teachers": meta.get("teachers") or None,
        "best": meta.get("best") or None,
    }
    return {name: value for name, value in known.items() if value is not None}


def _transfer(named: str, path: Path, protocols: Protocols) -> About:
    """A run of `evalkit transfer`."""
    try:
        source = parse_json((path / SOURCE).read_text(encoding="utf-8"))
        facts = {**_at_work(path), **{key: source[key] for key in ("checkpoint", "weights", "sha256", "model")}}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise EvalkitError(f"{path} is not the folder of a transfer ({SOURCE} is damaged)") from e
    begun = source["checkpoint"] or source["model"]
    found = About(named, "", {k: v for k, v in facts.items() if v is not None})
    if (path / results.FILE).is_file():
        found.records, found.problems = _recorded(path, protocols, begun, {source["sha256"]})
    task = next((r["protocol"] for r in found.records), None)
    state = f"{task} transfer, finished" if task else "transfer, not finished"
    found.what = f"{state}, from {begun}{'' if source['checkpoint'] else ' with random weights'}"
    found.commands = [] if task else [shlex.join(["evalkit", "transfer", "TASK", "--resume", named])]
    return found


def _study(named: str, path: Path) -> About:
    made = plan.read(path)
    states = [str(plan.state(path, job).get("state")) for job in made.jobs]
    facts = {
        "study": made.study,
        "cells": len(made.values),
        "jobs": {state: states.count(state) for state in sorted(set(states))},
        "left_out": made.left_out or None,
    }
    words = ["report", made.study, "--folder", named]
    commands = [shlex.join(["evalkit", "study", *w]) for w in (["status", named], words)]
    commands += [shlex.join(["evalkit", "show", str(Path(named) / made.jobs[0].out)])]
    return About(named, f"study: {made.title}", {k: v for k, v in facts.items() if v is not None}, commands)


def _at_work(run: Path) -> dict[str, str]:
    return {"state": "a process works in it, or did when its machine stopped"} if (run / LOCK).exists() else {}


# ---- what is not of evalkit


def _of_timm(name: str) -> About:
    if not timm.is_model(name.partition(".")[0]):
        raise unknown("run or checkpoint", name, [*zoo.specs(), *timm.list_models()])
    network = models.create(name)
    cfg = network.model.pretrained_cfg
    facts = {
        "parameters": sum(p.numel() for p in network.model.parameters()),
        "classes": network.num_classes,
        "image_size": network.input_size[0],
        "weights": cfg.get("hf_hub_id") or cfg.get("url") or "none are published",
        "license": cfg.get("license"),
    }
    facts = {key: value for key, value in facts.items() if value is not None}
    return About(name, "model of timm; its weights are fetched when they are used", facts, [_evaluation(name, None)])


def _tensors(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """How many tensors and numbers there are, of which kind, and the last, which mostly is the head's."""
    last = next(reversed(list(tensors)), None)
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})
    found = {"tensors": len(tensors), "numbers": sum(t.numel() for t in tensors.values()), "types": kinds}
    return found | ({} if last is None else {"last": f"{last} {list(tensors[last].shape)}"})


def _evaluation(named: str, model: str | None) -> str:
    words = ["evalkit", "eval", named, *([f"model={model}"] if model else []), "--data", "DIR"]
    return shlex.join(words)


# ---- records


def _measured(named: str, what: str, path: Path, facts: dict[str, Any], protocols: Protocols) -> About:
    """A folder that holds results alone, or one such file."""
    records, problems = _recorded(path, protocols, CHECKPOINT, set())
    return About(named, f"{what}, {len(records)} measurement{'s' * (len(records) != 1)}", facts, [], records, problems)


def _records(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    found, problems = results.scan([path / results.FILE] if (path / results.FILE).is_file() else [path])
    return results.latest(found), problems


def _recorded(
    path: Path, protocols: Protocols, named: str, own: set[str], only: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """The newest records of a folder, each with its command, and sentences about lines that cannot be read.

    Args:
        path: The folder, or a file.
        protocols: All protocols, by name.
        named: What stands for the weights in commands.
        own: Which weights these are, by sha256.
        only: Whether records of other weights are left out.
    """
    records, problems = _records(path)
    found = []
    for record in records:
        mine = record["checkpoint_sha256"] in own
        if only and not mine:
            continue
        shown = {key: value for key, value in record.items() if key != "_dir"}
        kept = record["task"] != "train" or (Path(record["_dir"]) / CONFIG).is_file()
        again = command(record, protocols, named if mine else CHECKPOINT) if kept else None
        found.append(shown | {"command": again})
    return found, problems


def _record_lines(record: Mapping[str, Any], protocols: Protocols) -> list[str]:
    task = " (training)" if record["task"] == "train" else ""
    where = f"{record['data']['name']} {record['data']['split']}".strip()
    head = f"{record['protocol']} v{record['version']}{task} of {record['label']} on {where}, {record['n']:,} images"
    env = record["environment"]
    took = "" if record["seconds"] is None else f"; {record['seconds']:,.0f} s"
    made = ", ".join(f"{name} {env[name]}" for name in MADE_BY if env.get(name) is not None)
    said = ["incomplete"] * (not record["complete"]) + [text for text in (deviation(dict(record)),) if text]
    return [
        f"{head}: {'; '.join(said)}" if said else head,
        *(f"  {line}" for line in _numbers(record, protocols)),
        *(f"  note: {note}" for note in record["notes"]),
        f"  made by {made}{took}",
        f"  command: {record['command'] or NO_COMMAND}",
    ]


def _numbers(record: Mapping[str, Any], protocols: Protocols) -> list[str]:
    """A line for each metric that its protocol names by itself; how many there are besides."""
    protocol, shown = protocols.get(record["protocol"]), []
    for metric in protocol.metrics if protocol else ():
        if metric.name not in record["metrics"]:
            continue
        value, error = record["metrics"][metric.name], record["standard_errors"].get(metric.name)
        if value is None:
            shown.append(f"{metric.heading()}: not defined, {record['undefined'].get(metric.name)}")
        else:
            unit = " %" if metric.unit == "%" else ""
            spread = "" if error is None else f" ± {metric.text(error)}"
            shown.append(f"{metric.heading()}: {metric.text(value)}{spread}{unit}")
    rest = len(record["metrics"]) - len(shown)
    return [*shown, *([f"and {rest} more numbers with --json"] if rest else [])]
