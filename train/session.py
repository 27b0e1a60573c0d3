"""Everything a training run is made of, built from its config."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from evalkit import checkpoint, config, data
from evalkit.data.kept import keep
from evalkit.data.loading import steps_per_epoch
from evalkit.data.published import published_set, sets_of_recipe
from evalkit.data.splits import check_splits, hold_out, spread
from evalkit.data.transforms import EvalTransform, TrainTransform, validation_transform
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.runtime import seed_torch

from . import distill, fsdp, settings
from .batchnorm import BatchNormStatistics, share_batch_norm
from .combination import without_effect
from .config import TrainConfig
from .ema import WeightAverage
from .helpers import began_with, offline_maps, teachers
from .matching import recipe_name
from .mixups import from_config
from .mixups.base import Context, MixMethod
from .network import make_network
from .optim import make_optimizer
from .sizes import settle_sizes
from .step import train_step

# What a set of weights that is evaluated is called
WEIGHTS = checkpoint.WORDS | {"trained": "the trained network itself"}


class Trainee(nn.Module):
    """Network and method as one module whose forward is the training step, so that DDP and state_dict see all
    parameters.

    Args:
        network: The network that is trained.
        method: The mixup.
        distillation: The teacher's share of the loss; None: no teacher.
    """

    def __init__(self, network: Network, method: MixMethod, distillation: distill.Distillation | None = None):
        super().__init__()
        self.network, self.method, self.distillation = network, method, distillation

    def forward(self, ctx: Context, x: Tensor, y: Tensor) -> Tensor:
        return train_step(ctx, self.network, self.method, x, y, self.distillation)


@dataclass
class Session:
    """The parts of a run.

    Args:
        cfg: The recipe without any `auto`.
        device: Where this process trains.
        train_images: The training images.
        source: What batches are made of: the training images, or what keeps them.
        val_images: The validation images.
        train_transform: From a training image to a tensor.
        eval_transform: From a validation image to pixels in [0, 1].
        trainee: Network and method as one module.
        optimizer: Of the trainee's parameters.
        scaler: Of the loss under float16; idle else.
        batchnorm: Keeps the running statistics of batch norm.
        ema: The averaged weights; None: the recipe wants none.
        empty: The network less its weights, which are put into it where a pass needs them whole; None: not fsdp.
        remarks: What a reader of the numbers must know of the data.
        maps: Folders of maps that the method reads, with their fingerprints; known to the main process.
        init: Name of the weights that the run began with, and their sha256.
        recipe: Whose settings these are, see `recipe_name`.
        whole: Whether the training and the validation images are those of the recipe, a published set, whole.
        step: Optimizer steps done; the only clock.
        seconds: Of training up to the newest checkpoint, over all parts of a run that was resumed.
        scores: Newest evaluation of "raw" and "ema".
        best: top1 and step of the best evaluation so far.
        history: top1 of every evaluation so far.
    """

    cfg: TrainConfig
    device: torch.device
    train_images: data.Images
    source: data.Images
    val_images: data.Images
    train_transform: TrainTransform
    eval_transform: EvalTransform
    trainee: Trainee
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    batchnorm: BatchNormStatistics
    ema: WeightAverage | None
    empty: Network | None
    remarks: list[str]
    maps: dict[str, str] = field(default_factory=dict)
    init: dict[str, str] = field(default_factory=dict)
    recipe: str | None = None
    whole: tuple[bool, bool] = (False, False)
    step: int = 0
    seconds: float = 0.0
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)

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
        return total_steps(self.cfg, self.train_images)

    def networks(self) -> dict[str, Network]:
        """The classifiers that are evaluated and exported: "raw", and "ema" where the recipe averages weights."""
        out = {"raw": self.method.eval_network(self.network)}
        return out | ({"ema": self.ema.network} if self.ema else {})


def build(cfg: TrainConfig, device: torch.device, images: tuple[data.Images, data.Images] | None = None) -> Session:
    """What a recipe names, seeded, the same in every process; what it leaves open is settled by the data.

    Args:
        cfg: The recipe.
        device: Where this process trains.
        images: For training and validation; None: the recipe's own.
    """
    if cfg.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(cfg.deterministic)
    torch.backends.cudnn.benchmark = not cfg.deterministic
    train_images, val_images = images or load_images(cfg)
    cfg = settle_sizes(cfg, train_images)
    remarks = check_splits(train_images, val_images, (cfg.train_split, val_name(cfg))) + cfg.picked
    seed_torch(cfg.seed, "init")
    network = make_network(cfg, len(train_images.classes), remarks, train_images.classes).to(
        "cpu" if cfg.fsdp else device
    )
    check_sizes(network, cfg)
    settings.check(cfg.methods, {f.name for f in fields(TrainConfig)})
    method = from_config(cfg.mixup)
    remarks += without_effect(cfg, method, network, train_images)
    share_batch_norm(network, method, cfg, device)
    method.setup(network)
    method.to(device)
    evaluated = method.eval_network(network)
    if not isinstance(evaluated, Network):
        raise EvalkitError(f"{type(method).__name__}.eval_network must return the network that is evaluated")
    if {network.model.num_classes, evaluated.num_classes} != {len(train_images.classes)}:
        raise EvalkitError(
            f"{type(method).__name__} gives a network of other classes than the {len(train_images.classes)} of"
            f" {train_images.name}; setup must leave the head, and eval_network give one like it"
        )
    network.prepare(attention=method.attention, inject_layers=method.inject_layers)
    for part in method.modules():
        if isinstance(part, MixMethod):
            part.check_size(network, cfg.image_size, cfg.image_size)
    trainee = Trainee(network, method, distill.from_config(cfg, network, method, train_images.classes))
    trainee.eval()  # a training pass puts it, as a whole, into training mode
    ema = WeightAverage(network) if cfg.ema is not None else None
    empty = fsdp.split_run(cfg, method, [network, *([ema.network] if ema else [])], device) if cfg.fsdp else None
    optimizer = make_optimizer(network.model, method, cfg)
    remarks += [
        f"teacher {teacher.spec}: {line}" for teacher in teachers(method, trainee.distillation) for line in teacher.said
    ]
    transform = TrainTransform(cfg, network.mean)
    recipe = recipe_name(cfg)
    wanted = sets_of_recipe(config.read(config.find(recipe)) if recipe else None)
    return Session(
        cfg=cfg,
        device=device,
        train_images=train_images,
        source=keep(train_images, transform, cfg.cache, device, cfg.workers),
        val_images=val_images,
        train_transform=transform,
        eval_transform=validation_transform(config.to_dict(cfg), val_images.native_size),
        trainee=trainee,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=cfg.amp == "fp16"),
        batchnorm=BatchNormStatistics(network),
        ema=ema,
        empty=empty,
        recipe=recipe,
        whole=(published_set(train_images) == wanted[0], published_set(val_images) == wanted[1]),
        remarks=remarks,
        maps=offline_maps(method, train_images.ids),
        init=began_with(cfg),
    )


def total_steps(cfg: TrainConfig, images: data.Images) -> int:
    """Optimizer steps of a whole run.

    Args:
        cfg: The recipe, its sizes settled.
        images: The training images.
    """
    return round(cfg.epochs * steps_per_epoch(len(images), cfg.batch_size))


def lay_out(s: Session) -> None:
    """Networks as the recipe wants them in memory, and compiled; once, before their first pass.

    Args:
        s: The run, freshly built or resumed.
    """
    if s.cfg.channels_last:
        for module in (s.trainee, *([s.ema.network] if s.ema else [])):
            module.to(memory_format=torch.channels_last)
    if s.cfg.compile:
        s.network.compile()


def load_images(cfg: TrainConfig) -> tuple[data.Images, data.Images]:
    """The images that a recipe trains on, and those that it validates on."""
    train_images = data.load(cfg.data, cfg.train_split, root=cfg.data_dir)
    if cfg.holdout is None:
        val_images = data.load(cfg.data, cfg.val_split, root=cfg.data_dir)
    else:
        train_images, val_images = hold_out(train_images, cfg.holdout)
    return spread(train_images, cfg.limit), val_images


def val_name(cfg: TrainConfig) -> str:
    """What records call the images that a recipe validates on: a split, or what is held out of one."""
    return cfg.val_split if cfg.holdout is None else f"{cfg.train_split}, {100 * cfg.holdout:g} % held out"


@torch.no_grad()
def check_sizes(network: Network, cfg: TrainConfig) -> None:
    """Args:
        network: The network.
        cfg: The recipe: sizes of training and validation images.

    Raises EvalkitError where the network does not take images of the recipe's sizes: before there is a run, not in
    its first step.
    """
    network.eval()
    for size in {cfg.image_size, cfg.eval_size or cfg.image_size}:
        image = torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
        try:
            with single_values(network) as single:
                network(image)
        except (AssertionError, RuntimeError, ValueError) as e:
            own = " x ".join(map(str, network.input_size))
            raise EvalkitError(
                f"model '{cfg.model}' does not take images of {size} x {size} pixels ({str(e).splitlines()[0]}); "
                f"it is made for {own}: set image_size, or model_args.img_size where the architecture has that argument"
            ) from e
        if single and size == cfg.image_size and cfg.micro_batch == 1:
            raise EvalkitError(
                f"micro_batch=1 leaves batch norm one value to normalise: of an image of {size} x {size} pixels"
                f" {single[0]} of model '{cfg.model}' sees 1 x 1; set micro_batch=2 or more, or a larger image_size"
            )


@contextmanager
def single_values(network: Network) -> Iterator[list[str]]:
    """The names of the batch norms that see one value per channel in the pass of one image inside."""
    found: list[str] = []

    def look(name: str, given: tuple[Tensor, ...]) -> None:
        if given[0].numel() == given[0].shape[1]:
            found.append(name)

    layers = [(name, m) for name, m in network.model.named_modules() if isinstance(m, _BatchNorm)]
    hooks = [m.register_forward_pre_hook(lambda _, given, name=name: look(name, given)) for name, m in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def method_name(spec: Any) -> str:
    """'mixpro', or 'mixup+cutmix' for a choice: the method of a recipe in one word."""
    if isinstance(spec, str):
        return spec
    if "choice" in spec:
        return "+".join(method_name(child) for child in spec["choice"])
    return spec["name"]
