"""The keys of a training recipe."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from evalkit import shared_keys
from evalkit.keys import Keys, key
from evalkit.tracking import TRACKERS

# A recipe for anybody's data may leave these null: `settle_sizes` settles them when a run begins, so that whatever
# reads a run's configuration finds a value.
if TYPE_CHECKING:
    Size = int
    Name = str
else:
    Size, Name = int | None, str | None


@dataclass(frozen=True)
class TrainConfig(Keys):
    """Every key a training recipe may hold, flat. A recipe must give the keys without a default."""

    # what is trained
    model: Name = key(
        MISSING, "the architecture, by its timm or evalkit name; null: that of the checkpoint that init names"
    )
    model_args: dict[str, Any] = key({}, "arguments passed to the architecture's constructor")
    init: str | None = key(
        None, "weights to start from: a checkpoint folder or file, or 'pretrained' (timm's); null: random ones"
    )
    mixup: Any = key(
        "vanilla",
        "the method: its name, {name: ..., preset: ..., ARGUMENT: ...}, {choice: [{name: ..., prob: ...}, ...]} or"
        " module:Class",
    )
    methods: dict[str, Any] = key(
        {},
        "method -> what this setting gives it where `mixup` names it: arguments, and under `recipe` keys of the recipe,"
        " {automix: {alpha: 2.0, recipe: {min_lr: 0.05}}}; own arguments and the command line come first",
    )
    models: dict[str, Any] = key(
        {},
        "network -> the recipe keys that this setting gives it, {pvt_small: {model_args: {drop_path_rate: 0.1}}}; the"
        " command line comes first",
    )
    applied: list[str] = key([], "what `models` and `methods` brought, written by the program", role="place")
    picked: list[str] = key(
        [], "what was picked from the data where a recipe left it open, written by the program", role="place"
    )
    label: str | None = key(None, "how reports name this run; null: by the method", role="place")

    # on what
    data: str = key(
        MISSING,
        "the images: digits, digits-photo, fashion-mnist, folder, packed, a published set as it is distributed"
        " (cifar10, cifar100, tiny-imagenet, cub, aircraft, cars, flowers, pets, food101, inat2017, inat2018,"
        " places205), or a timm reader prefix such as hfds/NAME",
        role="place",
    )
    data_dir: str | None = key(
        None, "the folder that holds the images, of data=folder, published sets and timm's readers", role="place"
    )
    train_split: str = key("train", "the part of the data that is trained on")
    val_split: str = key("val", "the part of the data that is validated on")
    holdout: float | None = key(
        None,
        "share of the training images, of each class alike, that is not trained but validated on, in place of"
        " val_split: for choices such as settings; null: none",
        above=0,
        most=0.5,
    )
    limit: int | None = key(
        None, "train on so many of the training images, evenly spaced over the set; null: all", above=0
    )
    image_size: Size = key(
        224,
        "side of the training images; null: that of init's weights, else the median shorter side of the images in"
        " steps of 32, within what the network is made for",
        unit="pixels",
        above=0,
    )

    # augmentation
    augment: str = key(
        "rrc",
        "how a training image is cropped and mirrored",
        choices={
            "none": "resized, centre crop",
            "pad-crop": "random crop of the padded image",
            "pad-crop-flip": "the same, mirrored by chance",
            "rrc": "random resized crop, mirrored by chance",
        },
    )
    crop_scale: list[float] = key(
        [0.08, 1.0], "smallest and largest area of an rrc crop, as a share of the image's", above=0, most=1
    )
    auto_augment: str | None = key(None, "timm's RandAugment string, such as rand-m9-mstd0.5-inc1; null: none")
    color_jitter: float = key(0.0, "strength of random brightness, contrast and saturation", least=0)
    erasing: float = key(0.0, "probability of random erasing (pixel noise, once per image)", least=0, most=1)
    interpolation: str = key("bicubic", "how images are resized", choices=("bilinear", "bicubic", "lanczos"))
    decode: str = key(
        "exact",
        "how training images are decoded and resized",
        choices={"exact": "Pillow's pixels", "fast": "decoded the same, resized within 2 grey levels of Pillow's"},
    )
    augment_device: str = key(
        "auto",
        "where auto_augment and color_jitter are done",
        choices={
            "auto": "on a GPU with decode=fast, else on the CPU; settled when the run begins",
            "cpu": "by Pillow",
            "device": "in batch on the device, each operation within a grey level of Pillow's",
        },
    )
    repeats: int = key(1, "repeated augmentation: copies of each image in the order of an epoch", above=0)
    eval_size: int | None = key(None, "side of the validation images; null: image_size", unit="pixels", above=0)
    eval_resize: int | None = key(
        None,
        "their shorter side before the centre crop; null: eval_size * 256 / 224, rounded down",
        unit="pixels",
        above=0,
    )

    # loss
    loss: str = key(
        "ce", "what is minimised", choices={"ce": "soft-target cross-entropy", "bce": "binary cross-entropy per class"}
    )
    bce_threshold: float | None = key(
        None, "with bce, labels above this count as 1, others as 0; null: labels as they are", least=0, most=1
    )
    bce_reduction: str = key(
        "sum_classes",
        "how bce adds up",
        choices={"sum_classes": "sum over classes, mean over images", "mean": "mean over both"},
    )
    label_smoothing: float = key(0.0, "share of each label that is spread over all classes", least=0, most=1)

    # distillation through a token (DeiT), with a model that has one
    distill_teacher: str | None = key(None, "the teacher: a timm name or a checkpoint; null: no distillation")
    distill_type: str = key(
        "hard",
        "what the distillation token learns from the teacher",
        choices={"none": "nothing", "hard": "its prediction", "soft": "its probabilities"},
    )
    distill_alpha: float = key(0.5, "share of the teacher's loss", least=0, most=1)
    distill_tau: float = key(3.0, "temperature of soft distillation", above=0)

    # schedule
    epochs: int = key(MISSING, "passes over the training images", above=0)
    batch_size: Size = key(
        MISSING,
        "images per optimizer step over all processes; null: the power of two from 8 to 128 that leaves 20 steps to an"
        " epoch",
        above=0,
    )
    micro_batch: Size = key(
        MISSING,
        "images per forward pass: they are mixed with one another and share batch-norm statistics; null: batch_size",
        above=0,
    )
    auto_micro_batch: bool = key(
        False,
        "whether micro_batch becomes its largest divisor that memory holds: tried when the run begins, then fixed",
    )
    mix_draws: str = key(
        "group",
        "who draws lambda, partners and masks",
        choices={
            "group": "every mix group for itself",
            "step": "all groups of an accumulation step share their draws",
        },
    )
    bn_batch: int | None = key(
        None, "images that batch norm sees as one, across GPUs (SyncBN); null: those of a micro-batch", above=0
    )
    accumulate: int = key(
        1, "published accumulation steps per optimizer step (decides the draws alone, not the memory)", above=0
    )
    lr: float = key(MISSING, "learning rate after warm-up", above=0)
    lr_batch: int | None = key(
        None,
        "the batch size that lr is meant for: lr, min_lr and warmup_lr are scaled in proportion when a run begins;"
        " null: as they are",
        above=0,
    )
    min_lr: float = key(0.0, "learning rate at the end of a cosine", least=0)
    warmup_lr: float = key(0.0, "learning rate at the start of warm-up", least=0)
    warmup_epochs: float = key(0.0, "length of the linear warm-up", unit="epochs", least=0)
    cooldown_epochs: float = key(
        0.0, "how many of `epochs`, at the end, follow the cosine at min_lr", unit="epochs", least=0
    )
    schedule: str = key(
        "cosine",
        "how the learning rate falls",
        choices={"cosine": "to min_lr", "step": "by decay_rate at decay_epochs", "constant": "not at all"},
    )
    schedule_by: str = key("step", "what the learning rate is renewed at", choices=("step", "epoch"))
    warmup_by: str | None = key(None, "the same during warm-up; null: as schedule_by", choices=("step", "epoch"))
    decay_epochs: list[float] = key([], "when the learning rate falls, of schedule=step", unit="epochs", least=0)
    decay_rate: float = key(0.1, "factor on the learning rate at each of decay_epochs", above=0)

    # optimizer
    opt: str = key("adamw", "a timm optimizer name; momentum is plain SGD with momentum, timm's sgd is Nesterov's")
    opt_args: dict[str, Any] = key({}, "further arguments of that optimizer")
    momentum: float = key(0.9, "momentum, of optimizers that have it", least=0, most=1)
    betas: list[float] = key([0.9, 0.999], "decay rates of Adam's averages, below 1", least=0, most=1)
    eps: float = key(1e-8, "what Adam adds to its denominator", above=0)
    weight_decay: float = key(0.05, "weight decay as opt has it, decoupled in AdamW, an L2 penalty in SGD", least=0)
    decay_norm_and_bias: bool = key(False, "whether normalisation layers and biases decay too")
    clip_grad: float | None = key(None, "largest norm of the whole gradient; null: not clipped", above=0)
    ema: float | None = key(
        None, "decay per step of the exponential moving average of the weights; null: none", least=0, most=1
    )
    ema_warmup_epochs: float = key(
        0.0,
        "how long ema's decay rises linearly from 0.9 of its value, as OpenMixup's; 0: at once",
        unit="epochs",
        least=0,
    )
    precise_bn: int | None = key(
        None,
        "training images whose batch statistics, at the weights of the end of each epoch, replace batch norm's running"
        " ones; null: none",
        unit="images",
        above=0,
    )

    # execution
    amp: str = key(
        "none",
        "precision of forward and backward passes; what is not float32 is mixed precision",
        choices={"none": "float32", "bf16": "bfloat16", "fp16": "float16 with scaled gradients"},
    )
    channels_last: bool | None = key(
        None,
        "whether images lie in memory channel by channel last; null, settled when the run begins: on a GPU in mixed"
        " precision, for networks of convolutions",
        role="bits",
    )
    compile: bool | None = key(
        None,
        "whether the network goes through torch.compile; null, settled when the run begins: on a GPU, for networks with"
        " class attention in runs of 10,000 steps or more without deterministic kernels",
        role="bits",
    )
    opt_kernels: str = key(
        "auto",
        "how the optimizer goes through the parameters: one by one, many in an operation, a whole update in one; auto,"
        " settled when the run begins: for-loop on the CPU, on a GPU the last of these that opt has",
        choices=("auto", "for-loop", "foreach", "fused"),
        role="bits",
    )
    fsdp: bool = key(
        False,
        "whether weights, gradients, optimizer state and averaged weights are split over the processes (FSDP2), for"
        " networks that one GPU does not hold",
        role="bits",
    )
    deterministic: bool = key(False, "whether only deterministic kernels may be used", role="bits")
    device: str | None = shared_keys.device()
    cache: str = key(
        "none",
        "where the training images are kept once they are decoded",
        choices={
            "none": "nowhere: they are read anew in each epoch",
            "memory": "in memory, once per machine, shared by its processes and workers",
            "device": "on the device, which crops and mirrors them too: images of image_size, without augment=rrc",
        },
        role="execution",
    )
    workers: int = shared_keys.training_workers()
    threads: int | None = shared_keys.training_threads()
    seed: int = key(0, "seed of the initial weights, the order of images and all draws", least=0, role="seed")

    # records
    track: str | None = key(
        None, "where log.jsonl is shown besides TensorBoard; null: nowhere", choices=TRACKERS, role="execution"
    )
    eval_epochs: float = key(1.0, "how often to validate", unit="epochs", above=0)
    median_evals: int | None = key(
        None, "the median top-1 of the last so many evaluations is reported too, as OpenMixup's; null: not", above=0
    )
    checkpoint_minutes: float = key(10.0, "how often to write a checkpoint", unit="minutes", least=0, role="execution")
    checkpoint_steps: int | None = key(
        None, "how often to write one as well; null: by the clock alone", unit="steps", above=0, role="execution"
    )
    keep: int = key(2, "newest checkpoints that are kept", above=0, role="execution")
    log_steps: int = key(50, "how often to log", unit="steps", above=0, role="execution")

    @classmethod
    def settle(cls, values: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
        """The network of the checkpoint that training starts from, where the recipe leaves it open; what the recipe's
        setting, its `methods`, brings for the mixup that is chosen."""
        from .settings import settle, that_of_init

        own = that_of_init(values)
        return own | settle({**values, **own}, given, [f.name for f in fields(cls)])

    @classmethod
    def elsewhere(cls, name: str) -> str:
        """Arguments of mixups are typed without their `mixup.`."""
        from .mixups import METHODS, arguments

        takes = any(name in arguments(method) for method in METHODS.values())
        return f"Arguments of a mixup are written mixup.{name}=VALUE." if takes else super().elsewhere(name)

    def idle(self) -> dict[str, str]:
        from .idle import idle

        return idle(self)

    def check(self) -> None:
        """Raises EvalkitError for a value that no run could use."""
        from .checks import check

        super().check()
        check(self)
