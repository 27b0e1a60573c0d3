"""What a run reads besides its images: the weights that it begins with, frozen teachers, maps made before."""

from collections.abc import Sequence

from torch import nn

from evalkit import fingerprint, models
from evalkit.runtime import is_main

from .config import TrainConfig
from .mixups import from_config
from .mixups.base import MixMethod
from .mixups.parts.offline_maps import OfflineMaps
from .mixups.parts.teacher import Teacher


def teachers(method: nn.Module, distillation: object = None) -> list[Teacher]:
    """The frozen networks that the method and the distillation ask.

    Args:
        method: The mixup.
        distillation: The teacher's share of the loss; None: no teacher.
    """
    askers = [*method.modules(), distillation]
    found = (getattr(asker, "teacher", None) for asker in askers)
    return [teacher for teacher in found if isinstance(teacher, Teacher)]


def offline_maps(method: MixMethod, ids: Sequence[str]) -> dict[str, str]:
    """Folder -> fingerprint of the maps made before that a method reads, one file per training image.

    Args:
        method: The method.
        ids: Of the training images.
    """
    found = [maps for maps in method.loader_extras.values() if isinstance(maps, OfflineMaps)]
    return {
        str(maps.folder): fingerprint.of_split([], [str(maps.file(id)) for id in sorted(ids)])
        for maps in (found if is_main() else [])
    }


def began_with(cfg: TrainConfig) -> dict[str, str]:
    """Name -> sha256 of the weights that a run begins with; empty for drawn ones, and for timm's, whose name says which
    they are."""
    sha256 = None if cfg.init in (None, "pretrained") else models.sha256_of(cfg.init)
    return {} if sha256 is None or cfg.init is None else {cfg.init: sha256}


def named(cfg: TrainConfig, ids: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """What a run by this recipe would read besides images, as a checkpoint's meta.json says it of the run that wrote
    it: teachers, maps and init, name -> sha256 or fingerprint. No network is loaded. Raises EvalkitError for what is
    not there.

    Args:
        cfg: The recipe.
        ids: Of the training images.
    """
    method = from_config(cfg.mixup)
    specs = [teacher.spec for teacher in teachers(method) if isinstance(teacher.spec, str)]
    if cfg.distill_teacher is not None and cfg.distill_type != "none":
        specs.append(cfg.distill_teacher)
    asked = {spec: models.sha256_of(spec) for spec in specs}
    return {"teachers": asked, "maps": {**offline_maps(method, ids)}, "init": {**began_with(cfg)}}
