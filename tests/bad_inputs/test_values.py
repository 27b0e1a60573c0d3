"""Keys and values that mean something else than what stands there, or nothing at all."""

import json
import warnings

import pytest

from evalkit import config
from evalkit.accuracy import EvalConfig
from evalkit.cli import invoke
from evalkit.robustness import CONFIGS
from evalkit.train.config import TrainConfig
from evalkit.train.mixups import METHODS as EVERY
from evalkit.train.mixups import arguments, from_config

from .cases import Case
from .make import folders, run_folder, splits, training

KIND = "Keys that are given and not used, values that are not what they look like"


def override(folder, words):
    return config.load(TrainConfig, "digits", words.split("|"))


def recipe(folder, text):
    (folder / "mine.yaml").write_text("base: digits\n" + text + "\n")
    return config.load(TrainConfig, folder / "mine.yaml", [])


def method(folder, spec):
    return from_config(config.load(TrainConfig, "digits", [f"mixup={spec}"]).mixup)


def transferred(folder, words):
    return invoke(["transfer", "seg", "vit_nano_patch4_32", *words.split("|"), "--out", str(folder / "run")])


def measured(folder, words):
    return config.load(CONFIGS["occlusion"], "occlusion", words.split("|"), folder="robustness")


def evaluated(folder, words):
    return config.load(EvalConfig, None, words.split("|"))


def split_of_a_folder(folder):
    run, images = run_folder(folder / "run"), folders(folder / "data")
    return invoke(["eval", str(run), "--data", str(images), "split=train", "device=cpu", "--out", str(folder / "out")])


def doubled(folder):
    return invoke(
        ["eval", "zoo:vanilla-digits", "--data", "digits", "--out", str(folder / "out"), "--data=digits-photo"]
    )


def given_twice(folder, words):
    """The last one counts, and it is said."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        config.load(TrainConfig, "digits", words.split("|"))
    return "; ".join(str(w.message) for w in heard)


def secret(folder):
    """Neither the record nor the message shows what a variable of the environment holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET", "hunter2")
        code, line = invoke(training(splits(folder / "data"), "label=${oc.env:SECRET}"))
    assert "hunter2" not in line and not (folder / "run").exists()
    return code, line


def kept(folder, value):
    """Text that only looks like something else stays what it is, in the record too."""
    key, text, expected = value
    cfg = config.load(TrainConfig, "digits", [f"{key}={text}"])
    assert getattr(cfg, key) == expected
    config.save(cfg, folder / "config.yaml")
    assert config.load(TrainConfig, folder / "config.yaml", []) == cfg
    assert json.loads(json.dumps(config.to_dict(cfg)))[key] == expected


REFERENCES = (
    "label=${oc.env:HOME}",
    "label=${model}",
    "data_dir=/x/${oc.env:HOME}",
    "mixup={name: '${label}'}",
    "label=\\${a}",
)
SURPRISES = (
    "epochs=1:30", "epochs=012", "epochs=0o17", "epochs=0b11", "epochs=1_000", "lr=1_0.5", "betas=[0_9]",
    "mixup={name: mixup, alpha: 1:30}", "opt_args={x: 2001-01-01}", "methods={mixup: {alpha: 007}}",
    "crop_scale=[1:30, 1]", "model_args={a: &x 1, b: *x}", "model_args={a: 1, a: 2}", "compile='true'",
    "model_args={a: !!python/name:os.system ''}", "opt_args={a: !!binary aGk=}", "model_args=" + "[" * 60 + "]" * 60,
)  # fmt: skip
FILES = (
    "label: yes", "label: 1:30", "epochs: 1:30", "epochs: 0o17", "seed: 017", "label: ${oc.env:HOME}",
    "epochs: 1_000", "label: 2026-01-01", "lr: 0.1\nlr: 0.2", "label: &a x\nmodel: *a", "label: !!set {a}",
    "label: ???", "label: =", "compile: 'yes'", "[1]: 2", "\tlabel: x",
)  # fmt: skip
IDLE = (
    "augment=none|crop_scale=[0.5, 1]", "bce_threshold=0.2", "loss=ce|bce_reduction=mean",
    "distill_alpha=0.3", "distill_tau=2", "distill_type=hard",
    "distill_type=none", "schedule=constant|min_lr=1e-5", "decay_epochs=[1]", "decay_rate=0.5",
    "augment_device=device", "holdout=0.1|val_split=test", "weight_decay=0|decay_norm_and_bias=true",
    "distill_teacher=resnet18|distill_type=none|distill_alpha=0.1",
    "schedule=constant|warmup_epochs=0|schedule_by=epoch", "opt=lion|eps=1e-6",
    "ema=0.9|ema_warmup_epochs=500", "micro_batch=1|auto_micro_batch=true", "opt=rmsprop|betas=[0.9, 0.99]",
    "opt=adafactor|betas=[0.9]|momentum=0.5",
    "warmup_epochs=0|warmup_lr=1e-6", "opt=adamw|momentum=0.5", "opt=sgd|betas=[0.9, 0.99]", "opt=sgd|eps=1e-6",
)  # fmt: skip
METHODS = (
    "{name: maskmix, cell: 8, scale: 2}", "{name: maskmix, shuffle_cells: true}",
    "{name: mixpro, mask: region, scale: 2}", "{name: mixpro, pal_epochs: 3}",
    "{name: mixpro, pal: none, pal_detach: false}", "{name: mixpro, rollout_residual: false}",
    "{name: transmix, rollout_residual: false}", "{name: tokenmix, teacher: area, network: resnet18}",
    "{name: guidedmixup, preset: sr, clean_lam: 1}", "{name: puzzlemix, transport: false, t_eps: 0.5}",
    "{name: augmix, jsd: false, jsd_weight: 3}", "{choice: [{name: adautomix, preset: cifar, pairing: flip}]}",
)  # fmt: skip
IDLE_FILES = (
    "augment: none\ncrop_scale: [0.5, 1]", "loss: ce\nbce_threshold: 0.2", "opt: momentum\nbetas: [0.9, 0.99]",
    "warmup_epochs: 0\nwarmup_lr: 1.0e-6", "decay_epochs: [3]", "distill_tau: 2.0",
)  # fmt: skip
IMPOSSIBLE = (
    "lr=1e-4|min_lr=1e-3", "warmup_epochs=1|lr=1e-4|warmup_lr=1", "schedule=step|epochs=9|decay_epochs=[3, 3]",
    "schedule=step|epochs=9|decay_epochs=[6, 3]", "schedule=step|epochs=9|decay_epochs=[10]",
    "epochs=3|warmup_epochs=5", "ema=1", "label_smoothing=1", "loss=bce|bce_threshold=1",
    "epochs=5|warmup_epochs=3|cooldown_epochs=2", "epochs=5|warmup_epochs=1|cooldown_epochs=4",
    "schedule=step|epochs=9|decay_epochs=[3]|decay_rate=1", "schedule=step|epochs=9|decay_epochs=[3]|decay_rate=2",
    "distill_teacher=resnet18|distill_alpha=0", "betas=[0.9]", "betas=[0.9, 0.99, 0.999]", "opt=lion|betas=[0.9]",
    "opt=adan", "opt=adafactor", "opt=adahessian", "opt_args={layer_decay: 0.7}", "opt_args={param_group_fn: 3}",
    "opt_args={filter_bias_and_bn: false}", "opt_args={caution: true}",
    "opt_args={maximize: true}", "opt_args={eps: 1e-6}",
    "opt=sgd|opt_args={momentum: 0.5}", "opt_args={foreach: true}", "opt_args={amsgrad: 3}",
)  # fmt: skip
IMPOSSIBLE_SAYS = (
    "is above lr|must be growing numbers up to|end before the warm-up|ema=1 never|leaves? nothing"
    "|counts no label|not fall|takes [23] betas|single one of betas|second derivatives|does not take opt_args"
    "|is a key of its own|must be true or false"
)
KEPT = (
    ("label", "yes", "yes"), ("label", "1:30", "1:30"), ("label", "007", "007"), ("label", "2026-01-01", "2026-01-01"),
    ("label", "'null'", "null"), ("label", "=1+1", "=1+1"), ("lr", "1e-3", 0.001), ("lr", ".5", 0.5), ("seed", "0", 0),
    ("label", "1_000", "1_000"), ("label", "a: b", "a: b"), ("label", "#1", "#1"), ("label", "~", "~"),
)  # fmt: skip

REFUSED = (
    "may mean several|not for recipes|twice|duplicate|must be|stands for|constructor|no meaning|nested too|no key"
    "|YAML|unknown"
)
TRANSFER_NOT = (
    "ema=1", "ema=0", "clip_grad=0", "drop_path=1", "drop_path=5", "power=0", "head=segmenter|head_dropout=1",
    "ms=true|ratios=[1, 1]",
)  # fmt: skip
TRANSFER = (
    "freeze=backbone|drop_path=0.1",
    "freeze=all-but-head|layer_decay=0.7",
    "no_decay=timm|weight_decay=0",
    "classes=59",
    "data_dir=/x",
    "init=random|weights=raw",
    "head_dropout=0.1",
    "ratios=[1]",
)
OCCLUSION = (
    *("modes=[]|shuffle=[2]|levels=[0, 0.5]", "modes=[]|shuffle=[2]|fill=mean", "modes=[]|shuffle=[2]|grid=7"),
    *("modes=[]|shuffle=[2]|offset=8", "saliency=maps.npz|head=2", "modes=[random]|saliency=self"),
    *("modes=[salient]|repeats=3", "modes=[random]|head=2"),
)
AGAIN = ("lr=0.1|lr=0.2", "mixup.alpha=1|mixup=cutmix", "model_args.depth=2|model_args={depth: 3}")
EVAL = ("batch_size=1:30", "split=${x}", "batch_size=010")


def cases(words, meet, says, what=""):
    return [Case(what + word.replace("\n", " / ")[:60], meet, says=says, argument=word) for word in words]


def embedded(folder, words):
    return invoke(["train", "digits", *words.split("|"), "--out", str(folder / "run")])


def alone(folder, words):
    """Micro-batches of one image."""
    splits(folder / "data")
    given = [word for word in training(folder / "data") if not word.startswith(("model_args", "micro_batch", "mixup="))]
    code, line = invoke([*given[:2], *words.split("|"), "micro_batch=1", *given[2:]])
    return (code, line) if code else (folder / "run" / "results.jsonl").read_text()


def said_of(folder, words):
    """What a training says on screen and in the record."""
    splits(folder / "data")
    keys = words.split("|")
    names = {word.partition("=")[0] for word in keys}
    given = [word for word in training(folder / "data") if word.partition("=")[0] not in names]
    if "data=digits" in keys:
        given = [word for word in given if not word.startswith("data_dir=")]
    code, line = invoke([*given[:2], *keys, *given[2:]])
    return (code, line) if code else (folder / "run" / "results.jsonl").read_text()


def probed(folder, words):
    run, root = run_folder(folder / "run"), splits(folder / "data")
    command = ["transfer", "cls", str(run), f"data={root}", "device=cpu", "workers=0", *words.split("|")]
    code, line = invoke([*command, "--out", str(folder / "out")])
    return (code, line) if code else (folder / "out" / "results.jsonl").read_text()


def exported(folder, key):
    """A run whose recipe lacks what says how images are prepared."""
    splits(folder / "data")
    assert invoke(training(folder / "data"))[0] == 0
    for meta in (folder / "run").glob("checkpoints/*/meta.json"):
        content = json.loads(meta.read_text())
        del content["config"][key]
        meta.write_text(json.dumps(content))
    return invoke(["export", str(folder / "run"), str(folder / "out"), "--to", "hf"])


NO_EFFECT = (
    "precise_bn=8", "bn_batch=4", "data=digits|model=vit_nano_patch4_32|limit=8|decode=fast",
)  # fmt: skip
NOT_TAKEN = (
    "data=digits|model=vit_nano_patch4_32|limit=8|cache=memory", "cache=device|augment=rrc",
    "opt=sgdp|opt_kernels=foreach",
    "opt=madgrad|opt_kernels=fused", "opt=sgd|opt_args={dampening: 0.5}", "opt=sgd|momentum=0",
    "opt=lamb|opt_args={max_grad_norm: x}", "opt=muon|opt_args={ns_coefficients: foo}",
    "auto_micro_batch=true|bn_batch=4", "cache=device|augment=none|auto_augment=rand-m9-inc1", "track=mlflow2",
    "decode=fast|interpolation=lanczos",
)  # fmt: skip

MODEL_ARGS = (
    "num_classes: 5", "num_classes: 2", "depth: 0", "num_heads: 0", "depth: -1", "drop_rate: 1", "drop_path_rate: 2",
    "drop_path_rate: -1", "attn_drop_rate: true", "drop_path_rate: x",
)  # fmt: skip
AUGMENTS = (
    "rand-m9-inc", "rand-m9-mstd", "rand-m9-m5", "rand-m9-inc1-inc0", "rand-m99-mstd0.5", "rand-m12-mmax11", "rand-n0",
    "rand-m9-p0", "rand-m-5", "rand-m9-n", "none", "no", "rand-m9-foo3", "rand-m9-t3b", "rand-m9-t3a-t3aw",
    "rand-m9-inc1-",
)  # fmt: skip


def of_the_network(folder, words):
    splits(folder / "data")
    given = [word for word in training(folder / "data") if not word.startswith("model_args")]
    return invoke([*given[:2], f"model_args={{embed_dim: 32, {words}}}", *given[2:]])


def trained_on(folder, command):
    """What is measured on the images that the network was trained on says so."""
    splits(folder / "data")
    assert invoke(training(folder / "data"))[0] == 0
    images = ["--data", str(folder / "data" / "train"), "device=cpu", "workers=0", "--out", str(folder / "out")]
    code, line = invoke([*command, str(folder / "run"), *images])
    return (code, line) if code else (folder / "out" / "results.jsonl").read_text()


def both_sides(folder):
    found = ["robustness", "imagenet-o", "zoo:vanilla-digits", "--data", "digits", "id_data=digits", "device=cpu"]
    return invoke([*found, "--out", str(folder / "out")])


def too_large(folder):
    images, run = folders(folder / "images"), run_folder(folder / "run")
    words = ["device=cpu", "workers=0", "forward_batch=1000000000", "--out", str(folder / "out")]
    return invoke(["eval", str(run), "--data", str(images), *words])


CASES = [
    *(
        Case(f"{' '.join(command)} of the training images", trained_on, "was trained on", "said", command)
        for command in (
            ["eval"],
            ["robustness", "fgsm", "eps=[8]"],
            ["robustness", "occlusion", "modes=[random]", "grid=4"],
        )
    ),
    Case("imagenet-o of the known images", both_sides, says="are the known ones as well"),
    Case("a forward pass of 10^9 images", too_large, says="memory ran out"),
    Case("train: 100,000 threads", override, says="'threads' must lie between 1 and 1024", argument="threads=100000"),
    Case("occlusion: a shuffle of one patch", measured, says="must be at least 2", argument="shuffle=[1]"),
    *cases(
        MODEL_ARGS,
        of_the_network,
        "has no place there|must be at least 1|must be numbers of at least 0",
        "model_args: ",
    ),
    Case(
        "train: a decay at the end of the run",
        said_of,
        says="where no step is left",
        fate="said",
        argument="schedule=step|epochs=1|decay_epochs=[1]",
    ),
    *cases(["picked=[x]", "applied=[x]"], override, "is written by the program"),
    *cases(["device=mps", "device=meta", "device=xpu"], said_of, "unknown device", "train: "),
    Case("train: a mixup of alpha=0", said_of, "alpha=0 mixes nothing", "said", "mixup={name: cutmix, alpha: 0}"),
    Case(
        "train: a tag of weights that are not taken",
        said_of,
        "names weights that are not taken",
        "said",
        "model=resnet10t.c3_in1k|model_args={}",
    ),
    Case("train: ema=0", said_of, "averages nothing", "said", "ema=0"),
    Case(
        "train: a decay within the warm-up",
        said_of,
        says="the learning rate rises to the whole lr first",
        fate="said",
        argument="schedule=step|epochs=2|warmup_epochs=1|warmup_lr=0|decay_epochs=[0.5]",
    ),
    *(
        Case(f"auto_augment={text}", said_of, says="is not a RandAugment string", argument=f"auto_augment={text}")
        for text in AUGMENTS
    ),
    Case("a preset that is null", method, says="unknown cutmix preset", argument="{name: cutmix, preset: null}"),
    *(Case(f"train: {words}", said_of, "has no effect: ", "said", words) for words in NO_EFFECT),
    *cases(
        NOT_TAKEN,
        said_of,
        "has no |no effect|does not|unknown|must be|cache=device augments",
        "train: ",
    ),
    *(
        Case(f"transfer cls: {words}", probed, "draws nothing with mode=", "said", words)
        for words in ("mode=knn|k=[1]|seed=3", "mode=linear|sweep=[1]|seed=1")
    ),
    *(
        Case(f"export of a run whose recipe lacks {key}", exported, "export a checkpoint whose meta.json", argument=key)
        for key in ("interpolation", "eval_size", "image_size")
    ),
    Case(
        "micro_batch=1 before a batch norm of 1 x 1",
        alone,
        says="micro_batch=1 leaves batch norm one value .* layer4.0.bn1 .* set micro_batch=2 or more",
        argument="mixup=vanilla|model=resnet10_cifar|image_size=8",
    ),
    *(
        Case(f"micro_batch=1 with {mixup}", alone, "so none is mixed with another", "said", f"mixup={mixup}")
        for mixup in ("mixup", "{choice: [cutmix, vanilla]}")
    ),
    *cases(["data_dir=/x", "data=digits-photo|data_dir=/x"], embedded, "data_dir has no effect on .* add data=folder"),
    Case("a secret of the environment as label", secret, says="stands for nothing here"),
    *cases(REFERENCES, override, r"'\$\{' stands for nothing here"),
    *cases(SURPRISES, override, REFUSED),
    *cases(FILES, recipe, REFUSED, "in a file: "),
    *cases(IDLE, override, "has no effect here; "),
    *cases(METHODS, method, "key '.*' has no effect here; it belongs to ", "mixup="),
    *cases(IDLE_FILES, recipe, "recipe '.*mine.yaml': key '.*' has no effect here; ", "in a file: "),
    *cases(IMPOSSIBLE, override, IMPOSSIBLE_SAYS),
    *cases(TRANSFER, transferred, "has no effect here; ", "transfer: "),
    *cases(
        TRANSFER_NOT, transferred, "never leaves|averages nothing|larger than 0|leaves nothing|each once", "transfer: "
    ),
    *cases(["lr=1e-4|min_lr=1e-3"], transferred, "min_lr=0.001 is above", "transfer: "),
    *cases(OCCLUSION, measured, "has no effect here; ", "occlusion: "),
    *cases(EVAL, evaluated, REFUSED, "eval: "),
    Case("eval: a split of a folder", split_of_a_folder, says="split=train belongs to data by name"),
    Case("eval: --data twice", doubled, says="--data is given more than once"),
    Case("a number in other digits", override, says="must be an integer", argument="seed=1\u0660"),
    *(Case(f"given twice: {words}", given_twice, "is given more than once", "said", words) for words in AGAIN),
    *(Case(f"{name}={text} is kept", kept, fate="mended", argument=(name, text, value)) for name, text, value in KEPT),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_what_counts_with_what_exists():
    for name, cls in EVERY.items():
        known = arguments(cls)
        for key, (other, values) in cls.counts_with.items():
            assert {key, other} <= set(known) and len(values), name
