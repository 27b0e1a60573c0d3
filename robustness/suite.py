"""`evalkit robustness all`: every protocol whose data are there, and a line for each whose data are not."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.models.load import of_timm
from evalkit.runtime import world_size

from . import measure
from .about import PROTOCOLS
from .config import AllConfig
from .layouts import trained_on
from .sets import SETS, DataSet


def needs(name: str) -> dict[str, DataSet]:
    """The set behind each data key of a protocol. Raises EvalkitError for one that nobody described."""
    wanted = PROTOCOLS[name].needs
    for kind in wanted.values():
        if kind not in SETS:
            raise EvalkitError(f"protocol {name} needs the data set '{kind}', which is none of robustness.sets.SETS")
    return {key: SETS[kind] for key, kind in wanted.items()}


def run_all(specs: Sequence[str | models.Loaded], cfg: AllConfig) -> int:
    """Run every protocol whose data lie below `cfg.data_root`, or the stand-ins of a checkpoint trained on an embedded
    set.

    What is not there is named and no failure; a protocol that stops with an error is named too, the others go on.
    Returns 0, or 2 if one stopped or is not complete.

    Args:
        specs: The models, as `run` takes them.
        cfg: Where the data lie, and the keys that all protocols share.

    Raises EvalkitError if no data are found for any protocol, if every protocol stopped, and, in one of several
    processes, for an error within a pass: the other processes are still in that pass, and only the end of this one ends
    them.
    """
    if cfg.data_root is None:
        of_checkpoints = not any(isinstance(spec, str) and of_timm(spec) for spec in specs)  # else perhaps a download
        loaded = [
            spec if isinstance(spec, models.Loaded) else models.load(spec, model=cfg.model, model_args=cfg.model_args)
            for spec in (specs if of_checkpoints else ())
        ]
        found, looked = {name: _stand_ins(name, loaded) for name in PROTOCOLS}, "no embedded stand-in"
    else:
        found, looked = {name: _below(Path(cfg.data_root), name) for name in PROTOCOLS}, f"not below {cfg.data_root}"
    if not any(found.values()):
        raise EvalkitError(
            f"no data for any protocol: {looked}; give the folder that holds imagenet-a, imagenet/val ... with"
            " --data-root DIR"
        )
    code, ran, missing, stopped = 0, [], [], {}
    for name in sorted(found, key=lambda name: PROTOCOLS[name].passes):  # what is quick is there soon
        data = found[name]
        if data is None:
            missing.append(f"{name} ({', '.join(s.title for s in needs(name).values())}: {looked})")
            continue
        try:
            code = max(code, measure.run(name, specs, _config(name, cfg, data)))
            ran.append(name)
        except EvalkitError as e:
            if world_size() > 1 and not isinstance(e, measure.Refused):
                raise EvalkitError(f"{name}: {e}") from e
            stopped[name] = str(e)
    if not ran:
        reasons = set(stopped.values())
        raise EvalkitError(
            reasons.pop() if len(reasons) == 1 else "; ".join(f"{name}: {reason}" for name, reason in stopped.items())
        )
    measure.say(
        f"ran: {', '.join(ran)}",
        *(f"not run: {what}" for what in missing),
        *(f"stopped: {name}: {reason}" for name, reason in stopped.items()),
    )
    return 2 if stopped else code


def _below(root: Path, name: str) -> dict[str, str] | None:
    """The data keys of a protocol filled with folders below `root`, None if one is not there. Raises EvalkitError if
    there is no such root."""
    if not root.is_dir():
        raise EvalkitError(f"no such folder: {root}; give the one that holds the data sets with --data-root DIR")
    keys = {}
    for key, wanted in needs(name).items():
        folder = next((root / folder for folder in wanted.folders if (root / folder).is_dir()), None)
        if folder is None:
            return None
        keys[key] = str(folder)
    return keys


def _stand_ins(name: str, loaded: Sequence[models.Loaded]) -> dict[str, str] | None:
    """The data keys of a protocol filled with embedded sets, None if it has none or a model was trained on something
    else."""
    known = {trained_on(model) for model in loaded}
    common = known.pop() if len(known) == 1 else None
    stand_ins = {key: wanted.stand_ins.get(common or "") for key, wanted in needs(name).items()}
    if None in stand_ins.values():
        return None
    return {key: stand_in for key, stand_in in stand_ins.items() if stand_in is not None}


def _config(name: str, cfg: AllConfig, data: dict[str, str]) -> Any:
    """The protocol's own configuration: its defaults, what `cfg` says for all, and its data."""
    schema = PROTOCOLS[name].config
    own = {field.name for field in dataclasses.fields(schema)}
    shared = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg) if field.name in own}
    return schema(**shared | data)
