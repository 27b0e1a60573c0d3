"""What the numbers of a study's jobs follow from, as everything is now: by this, `study run` tells whether what was
measured before still holds."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import config, keys
from ..about import ACCURACY
from ..models import Facts, stated
from ..preparation import recipe_of
from ..study.identity import Identity, training_sets
from ..study.plan import Job, words
from . import described

OPEN = (None, "auto")  # values that a command settles by itself


def of_jobs(folder: Path) -> Callable[[Job], Identity]:
    """What tells the identity of a job. Images that several jobs read are opened once; no network is built for them.
    It raises EvalkitError where data or weights are not there.

    Args:
        folder: The study's folder.
    """
    opened: dict[str, Any] = {}

    def identity(job: Job) -> Identity:
        if job.argv[0] == "train":
            return _training(job.argv[1:], opened)
        return _evaluation(words(folder, job), folder / job.out, opened)

    return identity


def _training(words: Sequence[str], opened: dict[str, Any]) -> Identity:
    from ..train import helpers, session
    from ..train.config import TrainConfig
    from ..train.sizes import settle_sizes

    cfg = config.load(TrainConfig, words[0], list(words[1:]))
    of = json.dumps([cfg.data, cfg.data_dir, cfg.train_split, cfg.val_split, cfg.holdout, cfg.limit])
    if of not in opened:
        opened[of] = session.load_images(cfg)
    train_images, val_images = opened[of]
    cfg = settle_sizes(cfg, train_images)
    # what `models` and `methods` bring stands in the other keys
    moving = keys.named(TrainConfig, "setting", "seed") - {"models", "methods"}
    if not cfg.auto_micro_batch:  # off in every run that has begun; one that tries what fits is none of them
        moving -= {"auto_micro_batch"}
    settings = {key: value for key, value in config.to_dict(cfg).items() if key in moving}
    named = json.dumps([of, cfg.mixup, cfg.distill_teacher, cfg.distill_type, cfg.init])
    if named not in opened:
        opened[named] = helpers.named(cfg, train_images.ids)
    helping = opened[named]
    return Identity(
        settings, training_sets(train_images.fingerprint, val_images.fingerprint, helping), ACCURACY.version
    )


def _evaluation(argv: Sequence[str], out: Path, opened: dict[str, Any]) -> Identity:
    command, what, source, *given = argv
    protocol, code = described.protocols()[what], described.protocols()[what].load()
    if command == "transfer" and (instead := code.training(source, given)) is not None:
        return _training(instead, opened)
    cfg = described.settings(command, what, given)[1]
    values: dict[str, Any] = config.to_dict(cfg)
    takes_weights = values.get("init") != "random"
    facts = stated(source, model=cfg.model, model_args=cfg.model_args, weights=cfg.weights if takes_weights else None)
    of = json.dumps([command, what, values, _choosing(facts) if command == "robustness" else None], sort_keys=True)
    if of not in opened:
        opened[of] = code.reads(facts, cfg) if command == "robustness" else code.reads(cfg, out)
    moving = keys.named(type(cfg), "setting", "seed")
    settings = {key: value for key, value in values.items() if key in moving and value not in OPEN}
    return Identity(settings, opened[of], protocol.version, facts.sha256 if takes_weights else None)


def _choosing(facts: Facts) -> list[Any]:
    """What of a checkpoint chooses images; cells of a study have most of it in common."""
    data, recipe = facts.meta.get("data"), recipe_of(facts)
    name = data.get("name") if isinstance(data, Mapping) else None
    return [facts.classes, facts.num_classes, facts.input_size, name, recipe.get("data"), recipe.get("val_split")]
