"""Everything a training run is made of, built from its config, and its exact state on disk."""

import copy
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from evalkit import checkpoint, config, data, models
from evalkit.data.loading import steps_per_epoch
from evalkit.data.published import published_set, sets_of_recipe
from evalkit.data.splits import check_splits
from evalkit.data.transforms import EvalTransform, TrainTransform, validation_transform
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.models.fit import head_names
from evalkit.runtime import seed_torch

from . import distill, settings
from .batchnorm import BatchNormStatistics, share_batch_norm
from .config import TrainConfig
from .ema import WeightAverage
from .matching import recipe_name
from .mixups import from_config
from .mixups.base import Context, MixMethod
from .mixups.parts.teacher import Teacher
from .optim import make_optimizer
from .step import train_step

# What a set of weights that is evaluated is called
WEIGHTS = {"raw": "raw weights", "ema": "averaged weights (ema)", "trained": "the trained network itself"}


class Trainee(nn.Module):
    """Network and method as one module whose forward is the training step, so that DDP and state_dict see all
    parameters."""

    def __init__(self, network: Network, method: MixMethod, distillation: distill.Distillation | None = None):
        super().__init__()
        self.network, self.method, self.distillation = network, method, distillation

    def forward(self, ctx: Context, x: Tensor, y: Tensor) -> Tensor:
        return train_step(ctx, self.network, self.method, x, y, self.distillation)


@dataclass
class Session:
    """The parts of a run. `step` counts optimizer steps done; it is the only clock."""

    cfg: TrainConfig
    device: torch.device
    train_images: data.Images
    val_images: data.Images
    train_transform: TrainTransform
    eval_transform: EvalTransform
    trainee: Trainee
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    batchnorm: BatchNormStatistics
    ema: WeightAverage | None
    remarks: list[str]  # what a reader of the numbers must know of the data
    recipe: str | None = None  # whose settings these are, see `recipe_name`
    # whether the training and the validation images are those of the recipe, a published set, whole
    whole: tuple[bool, bool] = (False, False)
    step: int = 0
    seconds: float = 0.0  # of training up to the newest checkpoint, over all parts of a run that was resumed
    scores: dict[str, dict[str, float]] = field(default_factory=dict)  # newest evaluation of "raw" and "ema"
    best: dict[str, Any] = field(default_factory=dict)  # top1 and step of the best evaluation so far
    history: list[float] = field(default_factory=list)  # top1 of every evaluation so far

    @property
    def network(self) -> Network:
        return self.trainee.network

    @property
    def method(self) -> MixMethod:
        return self.trainee.method

    @property
    def is_published(self) -> bool:
        """Whether the run is a published one: by a recipe's settings, on the published data, to its end."""
        return self.recipe is not None and self.whole[0] and self.step == self.total_steps

    @property
    def total_steps(self) -> int:
        """The steps of the whole run."""
        return round(self.cfg.epochs * steps_per_epoch(len(self.train_images), self.cfg.batch_size))

    def networks(self) -> dict[str, Network]:
        """The classifiers that are evaluated and exported: "raw", and "ema" where the recipe averages weights."""
        out = {"raw": self.method.eval_network(self.network)}
        return out | ({"ema": self.ema.network} if self.ema else {})


def build(cfg: TrainConfig, device: torch.device, images: tuple[data.Images, data.Images] | None = None) -> Session:
    """Data, network, method and optimizer of a recipe, seeded; the same in every process. `images` for training and
    validation stand in for the recipe's own."""
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(cfg.deterministic)
    torch.backends.cudnn.benchmark = not cfg.deterministic
    train_images, val_images = images or (
        data.load(cfg.data, cfg.train_split, root=cfg.data_dir),
        data.load(cfg.data, cfg.val_split, root=cfg.data_dir),
    )
    remarks = check_splits(train_images, val_images, (cfg.train_split, cfg.val_split))
    seed_torch(cfg.seed, "init")
    network = make_network(cfg, len(train_images.classes), remarks).to(device)
    check_sizes(network, cfg)
    settings.check(cfg.methods, {f.name for f in fields(TrainConfig)})
    method = from_config(cfg.mixup)
    share_batch_norm(network, method, cfg, device)
    method.setup(network)
    method.to(device)
    network.prepare(attention=method.attention, inject_layers=method.inject_layers)
    for part in method.modules():
        if isinstance(part, MixMethod):
            part.check_size(network, cfg.image_size, cfg.image_size)
    trainee = Trainee(network, method, distill.from_config(cfg, network, method, train_images.classes))
    optimizer = make_optimizer(network.model, method, cfg)
    remarks += [f"teacher {teacher.spec}: {line}" for teacher in teachers(trainee) for line in teacher.said]
    ema = WeightAverage(network, cfg.ema) if cfg.ema is not None else None
    recipe = recipe_name(cfg)
    wanted = sets_of_recipe(config.read(config.find(recipe)) if recipe else None)
    return Session(
        cfg=cfg,
        device=device,
        train_images=train_images,
        val_images=val_images,
        train_transform=TrainTransform(cfg, network.mean),
        eval_transform=validation_transform(config.to_dict(cfg), val_images.native_size),
        trainee=trainee,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=cfg.amp == "fp16"),
        batchnorm=BatchNormStatistics(network),
        ema=ema,
        recipe=recipe,
        whole=(published_set(train_images) == wanted[0], published_set(val_images) == wanted[1]),
        remarks=remarks,
    )


def make_network(cfg: TrainConfig, num_classes: int, said: list[str] | None = None) -> Network:
    """The recipe's network, starting from `init` if given: a head for another number of classes is left out, anything
    else must fit. What a reader must know of the file is appended to `said`."""
    models.check_arguments(cfg.model, cfg.model_args)
    create = {"num_classes": num_classes, **cfg.model_args}
    said = [] if said is None else said
    if cfg.init is None:
        return models.create(cfg.model, **create)
    if cfg.init == "pretrained":
        network = models.create(cfg.model, pretrained=True, **create)
        report = {"resized": models.resized_by_timm(cfg.model, network.model, cfg.model_args)}
        said += [f"timm's weights of {cfg.model}: {line}" for line in models.describe(report)]
        return network
    network = models.create(cfg.model, **create)
    loaded = models.load(cfg.init, model=cfg.model, model_args=dict(cfg.model_args))
    assert isinstance(loaded.network, Network), "read from a file"
    weights, own = loaded.network.model.state_dict(), network.model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    left = [k for k in own if k not in fitting]
    heads = tuple(f"{name}." for name in head_names(network.model))
    odd = [k for k in left if loaded.network.num_classes == num_classes or not k.startswith(heads)]
    if odd:
        raise EvalkitError(
            f"{cfg.init} does not fit model '{cfg.model}': {len(odd)} tensors differ, e.g. {odd[0]}; give the model it"
            " was trained with"
        )
    network.model.load_state_dict(fitting, strict=False)
    said += [f"init={cfg.init}: {line}" for line in models.describe(loaded.report)]
    if left:
        said.append(f"init={cfg.init}: its head of {loaded.network.num_classes} classes was left out")
    return network


@torch.no_grad()
def check_sizes(network: Network, cfg: TrainConfig) -> None:
    """Raises EvalkitError where the network does not take images of the recipe's sizes: before there is a run, not in
    its first step."""
    network.eval()
    for size in {cfg.image_size, cfg.eval_size or cfg.image_size}:
        try:
            network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
        except (AssertionError, RuntimeError, ValueError) as e:
            own = " x ".join(map(str, network.input_size))
            raise EvalkitError(
                f"model '{cfg.model}' does not take images of {size} x {size} pixels ({str(e).splitlines()[0]}); "
                f"it is made for {own}: set image_size, or model_args.img_size where the architecture has that argument"
            ) from e


# ---- state on disk


def save(s: Session, run: Path) -> Path:
    """Write the run's checkpoint for the current step; returns its folder."""
    networks = s.networks()
    state: dict[str, Any] = {
        "step": s.step,
        "scores": s.scores,
        "best": s.best,
        "history": s.history,
        "optimizer": s.optimizer.state_dict(),
        "scaler": s.scaler.state_dict(),
        "method": s.method.state_dict(),
        # the network that is trained, where the one that is exported is another one
        "network": None if networks["raw"] is s.network else s.network.model.state_dict(),
    }
    ema = networks["ema"].model.state_dict() if "ema" in networks else None
    return checkpoint.save(run, s.step, networks["raw"].model.state_dict(), ema, state, meta(s))


def meta(s: Session) -> dict[str, Any]:
    """What a reader of the checkpoint must know to use and to judge it."""
    cfg, network = s.cfg, s.network
    return {
        "model": cfg.model,
        "model_args": dict(cfg.model_args),
        "num_classes": network.num_classes,
        "classes": s.train_images.classes,
        "image_size": cfg.eval_size or cfg.image_size,
        "mean": list(network.mean),
        "std": list(network.std),
        "method": method_name(cfg.mixup),
        "label": cfg.label or method_name(cfg.mixup),
        "teachers": {str(teacher.spec): teacher.sha256 for teacher in teachers(s.trainee)},
        "best": s.best,  # says what the link of that name must point at
        "seconds": s.seconds,  # here, not in the training state, which is the same in every run of a recipe
        "data": {
            "name": s.train_images.name,
            "fingerprint": s.train_images.fingerprint,
            "val_fingerprint": s.val_images.fingerprint,
        },
        "config": config.to_dict(cfg),
        "recipe": s.recipe,
        "published": s.is_published,
    }


def teachers(trainee: Trainee) -> list[Teacher]:
    """The frozen networks that the method and the distillation ask."""
    askers = [*trainee.method.modules(), trainee.distillation]
    found = (getattr(asker, "teacher", None) for asker in askers)
    return [teacher for teacher in found if isinstance(teacher, Teacher)]


def method_name(spec: Any) -> str:
    """'mixpro', or 'mixup+cutmix' for a choice: the method of a recipe in one word."""
    if isinstance(spec, str):
        return spec
    if "choice" in spec:
        return "+".join(method_name(child) for child in spec["choice"])
    return spec["name"]


def of_meta(folder: Path, meta: dict[str, Any], key: str, kind: Any) -> Any:
    """A value of a checkpoint's meta that a resume needs."""
    if isinstance(meta.get(key), kind) and not isinstance(meta[key], bool):
        return meta[key]
    raise EvalkitError(
        f"{folder} was written by another version of evalkit (meta.json: '{key}' is missing or of another type); begin"
        f" a new run from its weights with init={folder}"
    )


STATE_KINDS = {"step": int, "scores": dict, "best": dict, "history": list, "optimizer": dict, "method": dict}


def restore(s: Session, folder: Path) -> None:
    """Bring a freshly built session to the state saved in a checkpoint folder. Raises EvalkitError for a state that is
    not that of this recipe."""
    weights = checkpoint.read_weights(folder, "raw")[0]
    state = checkpoint.load_state(folder)
    try:
        if not isinstance(state, dict):
            raise TypeError(f"the training state is of type {type(state).__name__}")
        for key, kind in STATE_KINDS.items():
            if not isinstance(state[key], kind) or isinstance(state[key], bool):
                raise TypeError(f"'{key}' of the training state is of type {type(state[key]).__name__}")
        s.method.load_state_dict(state["method"])
        s.network.model.load_state_dict(weights if state["network"] is None else state["network"])
        if s.ema:
            s.ema.network.model.load_state_dict(checkpoint.read_weights(folder, "ema")[0])
        load_optimizer(s.optimizer, state["optimizer"])
        s.scaler.load_state_dict(state["scaler"])
        for key in ("step", "scores", "best", "history"):
            setattr(s, key, state[key])
        check_scores(s)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as e:
        what = f"it lacks {e}" if isinstance(e, KeyError) else (str(e).splitlines() or [type(e).__name__])[0]
        raise EvalkitError(
            f"{folder} does not fit this recipe ({what}); resume with the run's own config.yaml, use another checkpoint"
            f" of its run, or begin a new run from its weights with init={folder}"
        ) from e


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state; torch takes moments of any shape and groups of any content, and fails steps later."""
    own, saved = optimizer.param_groups, state["param_groups"]
    if len(saved) != len(own) or any(k in b and not _alike(a[k], b[k]) for a, b in zip(own, saved) for k in a):
        raise ValueError("the optimizer's groups are others")
    optimizer.load_state_dict(copy.deepcopy(state))
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value is not None and not (isinstance(value, Tensor) and value.shape in (parameter.shape, ())):
                raise ValueError(f"the optimizer's '{name}' does not fit its parameter")


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple):  # parameters, Adam's betas
        return isinstance(b, list | tuple) and len(a) == len(b)
    return type(a) is type(b) or all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))


def check_scores(s: Session) -> None:
    """Raises TypeError for a state whose numbers are none."""
    numbers = [*s.history, *s.best.values(), *(v for scores in s.scores.values() for v in scores.values())]
    if not s.step >= 0 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in numbers):
        raise TypeError("its step or its accuracies are no numbers")
