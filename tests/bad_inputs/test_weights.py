"""Weights that are not what the name says: whatever does not fit as it is, is refused by every command."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from evalkit import models
from evalkit.cli import invoke
from evalkit.data.transforms import eval_transform
from evalkit.downstream.backbone import Backbone
from evalkit.errors import EvalkitError
from evalkit.models import create, load
from evalkit.robustness.saliency import open_saliency
from evalkit.train.mixups.parts.teacher import Teacher

from .cases import Case
from .make import ARGS, NAME, folders, run_folder, splits, training

KIND = "Weights that are not what the name says"
VIT = {"depth": 1, "embed_dim": 32, "num_heads": 2}
SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}


def saved(folder, name, args, change=None, **more):
    """The weights file of a timm model of random weights."""
    torch.manual_seed(0)
    model = timm.create_model(name, **args, **more)
    state = {k: v + 0.01 * torch.randn_like(v) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(change(state) if change else state, folder / "w.pth")
    return str(folder / "w.pth")


# (as which model, of which model, its other arguments)
OTHERS = {
    "patch 32 as patch 16": ("vit_small_patch16_224", "vit_small_patch32_224", VIT),
    "patch 8 as patch 16": ("vit_small_patch16_224", "vit_small_patch8_224", VIT),
    "384 pixels as 224": ("vit_small_patch16_224", "vit_small_patch16_384", VIT),
    "224 pixels as 384": ("vit_small_patch16_384", "vit_small_patch16_224", VIT),
    "Swin window 12 as 7": ("swin_tiny_patch4_window7_224", "swin_base_patch4_window12_384", SWIN),
    "a distilled model as a plain one": ("deit_small_patch16_224", "deit_small_distilled_patch16_224", VIT),
    "BEiT 384 pixels as 224": ("beit_base_patch16_224", "beit_base_patch16_384", VIT),
}


def with_buffers(folder):
    """SwinV2's window shows in nothing but the buffers that its authors' files hold."""
    model = timm.create_model("swinv2_tiny_window16_256", **SWIN)
    buffers = {k: v for k, v in model.named_buffers() if "relative" in k}
    path = saved(folder, "swinv2_tiny_window16_256", SWIN, lambda state: state | buffers)
    assert load(path, model="swinv2_tiny_window16_256", model_args=SWIN).report["unexpected"] == []
    return load(path, model="swinv2_tiny_window8_256", model_args=SWIN)


def loaded_as(folder, what):
    to, of, args = OTHERS[what]
    return load(saved(folder, of, args), model=to, model_args=args)


def spoilt(folder, change):
    return load(saved(folder, NAME, ARGS, change, num_classes=10), model=NAME, model_args=ARGS)


def without(part):
    return lambda state: {k: v for k, v in state.items() if part not in k}


def cast(change):
    return lambda state: {k: change(v) for k, v in state.items()}


def with_more(name):
    return lambda state: state | {name: torch.ones(32)}


def repaired(folder, change):
    """The same tensors are read from another wrapping."""
    model = timm.create_model(NAME, num_classes=10, **ARGS)
    torch.save(change(model.state_dict()), folder / "w.pth")
    found = load(str(folder / "w.pth"), model=NAME, model_args=ARGS).network.model.state_dict()
    assert all(torch.equal(v, found[k]) for k, v in model.state_dict().items())


def prefixed(prefix):
    return lambda state: {f"{prefix}{k}": v for k, v in state.items()}


def hub(folder, change):
    """A folder as timm writes it for the Hugging Face Hub."""
    model = timm.create_model(NAME, num_classes=3, **ARGS)
    config = {"architecture": NAME, "num_classes": 3, "model_args": ARGS, "label_names": ["a", "b", "c"]}
    (folder / "config.json").write_text(json.dumps(change(config)))
    save_file(model.state_dict(), folder / "model.safetensors")
    found = load(str(folder))
    assert found.network.num_classes == 3 and found.classes == ["a", "b", "c"]
    assert torch.equal(found.network.model.norm.weight, model.norm.weight)


def hub_says(folder, config):
    """A folder of the Hub whose config.json says this besides; what becomes of it."""
    args = {**ARGS, **config.pop("built", {})}
    model = timm.create_model(NAME, num_classes=3, **args)
    save_file(model.state_dict(), folder / "model.safetensors")
    whole = {"architecture": NAME, "num_classes": 3, "model_args": ARGS, "label_names": ["a", "b", "c"]} | config
    (folder / "config.json").write_text(json.dumps(whole))
    return load(str(folder)), model


def prepared_as_said(folder):
    """The normalisation and the crop are those of the file, not those that timm has for the architecture."""
    cfg = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "crop_pct": 0.7, "interpolation": "bilinear"}
    loaded, _ = hub_says(folder, {"pretrained_cfg": cfg | {"input_size": [3, 32, 32]}})
    assert loaded.network.mean == (0.5, 0.4, 0.3) and loaded.network.std == (0.2, 0.3, 0.4)
    assert (
        str(eval_transform("model", 32, loaded.network.model.pretrained_cfg))
        == "timm's for the model (0.7, bilinear, center), 32"
    )


def pooled_as_said(folder):
    loaded, model = hub_says(
        folder,
        {
            "built": {"global_pool": "avg", "fc_norm": False},
            "global_pool": "avg",
            "model_args": ARGS | {"fc_norm": False},
        },
    )
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.network(x).logits, model.eval()(x))


def labelled_by_number(folder):
    assert hub_says(folder, {"label_names": {"2": "c", "0": "a", "1": "b"}})[0].classes == ["a", "b", "c"]


def two_files(folder):
    hub_says(folder, {})
    torch.save(timm.create_model(NAME, num_classes=3, **ARGS).state_dict(), folder / "pytorch_model.bin")
    return "; ".join(models.describe(load(str(folder)).report))


def of_images(folder, change):
    """Batch norm's statistics of a residual network."""
    state = timm.create_model("resnet10t", num_classes=2).state_dict()
    torch.save({k: change(v) if k.endswith("running_var") else v for k, v in state.items()}, folder / "w.pth")
    return load(str(folder / "w.pth"), model="resnet10t")


def hidden_set(folder, content):
    """Averaged weights that lie deeper than the raw ones."""
    state = timm.create_model(NAME, num_classes=2, **ARGS).state_dict()
    torch.save({"model": state} | content(state), folder / "w.pth")
    return "; ".join(models.describe(load(str(folder / "w.pth"), model=NAME, model_args=ARGS).report))


def read_as_another(folder, command):
    """The same tensors under other arguments of the network: nothing made before is used again."""
    run, data = run_folder(folder / "run"), splits(folder / "data")
    same = [*command, str(run), "device=cpu", "workers=0"]
    same += [f"data={data}"] if "cls" in command else ["--data", str(data / "val"), "eps=[8]"]
    found = []
    for more in ([], ["model_args={num_heads: 4}"]):
        assert invoke([*same, *more, "--out", str(folder / "out")])[0] == 0
        kind = "features/*.npz" if "cls" in command else "records/*.npz"
        found.append(len(list((folder / "out").glob(kind))))
    assert found[1] == 2 * found[0] > 0


def wrong_patch(folder):
    return saved(folder, "vit_small_patch32_224", VIT), "vit_small_patch16_224"


def evaluated(folder):
    path, name = wrong_patch(folder)
    data = folders(folder / "data", ["n01440764", "n01443537"])
    return invoke(["eval", path, "--data", str(data), f"model={name}", "device=cpu", "--out", str(folder / "out")])


def attacked(folder):
    path, name = wrong_patch(folder)
    data = ["--data", str(folders(folder / "data", ["n01440764"]))]
    keys = [f"model={name}", "model_args={depth: 1, embed_dim: 32, num_heads: 2}", "device=cpu", "--out", f"{folder}/o"]
    return invoke(["robustness", "fgsm", path, *data, *keys])


def begun(folder):
    path, name = wrong_patch(folder)
    return invoke(training(splits(folder / "data"), f"init={path}", f"model={name}"))


def asked(folder):
    path, name = wrong_patch(folder)
    return Teacher(path, model=name).load()


def looked_at(folder):
    path, _ = wrong_patch(folder)
    return open_saliency(
        path, "auto", load(saved(folder, NAME, ARGS), model=NAME, model_args=ARGS), torch.device("cpu")
    )


def transferred(folder, img_size):
    path, name = wrong_patch(folder)
    return Backbone(name, img_size, [0], model_args=VIT, checkpoint=path)


def moved(folder, sizes):
    """Positions of another image size are resampled where that is asked for, and said."""
    of, to = sizes
    path = saved(folder, "vit_small_patch16_224", VIT, img_size=of)
    found = load(path, model="vit_small_patch16_224", model_args=VIT | {"img_size": to})
    return "; ".join(models.describe(found.report))


def moved_in_transfer(folder):
    path = saved(folder, "vit_small_patch16_224", VIT)
    return "; ".join(
        models.describe(Backbone("vit_small_patch16_224", 64, [0], model_args=VIT, checkpoint=path).report)
    )


def other_head(folder):
    """A head for other classes is left out by init=, and the record says so."""
    path = saved(folder, NAME, ARGS, num_classes=7)
    code, line = invoke(training(splits(folder / "data"), f"init={path}", f"model={NAME}"))
    assert code == 0, line
    return (folder / "run" / "results.jsonl").read_text()


def several(folder, how):
    """(keys of the file, who reads it): which of several sets of weights was read."""
    keys, reader = how
    state = timm.create_model(NAME, num_classes=2, **ARGS).state_dict()
    content = {key: {f"module.{k}": v + n for k, v in state.items()} for n, key in enumerate(keys)}
    torch.save(content | {"optimizer": {"state": {}}, "epoch": 3}, folder / "w.pth")
    path = str(folder / "w.pth")
    if reader == "train":
        code, line = invoke(training(splits(folder / "data"), f"init={path}", f"model={NAME}"))
        return (code, line) if code else (folder / "run" / "results.jsonl").read_text()
    if reader == "transfer":
        return "; ".join(models.describe(Backbone(NAME, 32, [0], model_args=ARGS, checkpoint=path).report))
    return "; ".join(models.describe(load(path, model=NAME, model_args=ARGS, weights=reader).report))


def scalars(state):
    return {"state_dict": state, "best_acc": np.float64(0.5), "epoch": np.int64(3), "lr": np.float32(0.1)}


CASES = [
    *(Case(what, loaded_as, says="does not fit model|classes, but the model", argument=what) for what in OTHERS),
    Case("SwinV2 window 16 as 8", with_buffers, says="is for another size of"),
    *(
        Case(f"{what}, by {command}", meet, says="does not fit model", argument=argument)
        for command, meet, what, argument in (
            ("eval", evaluated, "patch 32 as patch 16", None),
            ("robustness", attacked, "patch 32 as patch 16", None),
            ("train init=", begun, "patch 32 as patch 16", None),
            ("a teacher", asked, "patch 32 as patch 16", None),
            ("a saliency model", looked_at, "patch 32 as DINO's patch 16", None),
            ("transfer at its own size", transferred, "patch 32 as patch 16", None),
            ("transfer at another size", transferred, "patch 32 as patch 16", 64),
        )
    ),
    *(
        Case(f"a file without {part}", spoilt, says="it lacks", argument=without(part))
        for part in ("cls_token", "norm1", "qkv.bias", "head", "pos_embed")
    ),
    *(
        Case(f"a file with {name} besides", spoilt, says="layers that the model has not", argument=with_more(name))
        for name in (
            "blocks.0.ls1.gamma",
            "blocks.0.attn.q_norm.weight",
            "patch_embed.norm.weight",
            "reg_token",
            "register_tokens",
            "fc_norm.weight",
            "norm_pre.weight",
            "dist_token",
            "head_dist.weight",
            "pre_logits.fc.weight",
            "blocks.7.norm1.bias",
        )
    ),
    *(
        Case(f"weights that are {what}", spoilt, says=says, argument=change)
        for what, says, change in (
            ("8-bit integers", "no floating-point numbers", cast(lambda v: (100 * v).to(torch.int8))),
            ("truth values", "no floating-point numbers", cast(lambda v: v > 0)),
            ("complex numbers", "no floating-point numbers", cast(lambda v: v.to(torch.complex64))),
            ("NaN", "NaN or infinite", cast(lambda v: v * float("nan"))),
            ("infinite", "NaN or infinite", cast(lambda v: v / 0)),
            ("unsigned integers", "no floating-point numbers", cast(lambda v: (100 * v.abs()).to(torch.uint8))),
            (
                "sparse, by rows",
                "quantised, sparse or without",
                cast(lambda v: v.to_sparse_csr() if v.ndim == 2 else v),
            ),
            ("sparse", "quantised, sparse or without", cast(lambda v: v.to_sparse())),
            ("without values", "quantised, sparse or without", cast(lambda v: v.to("meta"))),
        )
    ),
    *(
        Case(f"two networks in one, {what}", spoilt, says="twice, as it is and behind", argument=change)
        for what, change in (
            ("behind module. and not", lambda s: s | {f"module.{k}": v + 1 for k, v in s.items()}),
            ("behind _orig_mod. and not", lambda s: s | {f"_orig_mod.{k}": v + 1 for k, v in s.items()}),
            ("behind model. and not", lambda s: s | {f"model.{k}": v + 1 for k, v in s.items()}),
            ("behind net.teacher. and not", lambda s: s | {f"net.teacher.{k}": v + 1 for k, v in s.items()}),
        )
    ),
    *(
        Case(f"names behind {prefix}", repaired, fate="mended", argument=prefixed(prefix))
        for prefix in (
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "model.",
            "net.encoder.",
            "backbone.",
        )
    ),
    Case("NumPy scalars beside the weights", repaired, fate="mended", argument=scalars),
    Case("a folder of the Hugging Face Hub", hub, fate="mended", argument=lambda config: config),
    Case("a folder of the Hub with a normalisation and a crop of its own", prepared_as_said, fate="mended"),
    Case("a folder of the Hub that pools otherwise", pooled_as_said, fate="mended"),
    Case("a folder of the Hub whose classes are numbered", labelled_by_number, fate="mended"),
    Case("a folder of the Hub with two weights files", two_files, says="not pytorch_model.bin beside it", fate="said"),
    *(
        Case(f"a folder of the Hub with {what}", hub_says, says="config.json: `", argument=config)
        for what, config in {
            "two names for three outputs": {"label_names": ["a", "b"]},
            "a name twice": {"label_names": ["a", "a", "b"]},
            "names under other numbers": {"label_names": {"1": "a", "2": "b", "3": "c"}},
            "a count of classes that is text": {"num_classes": "3"},
            "a count of classes that is true": {"num_classes": True},
            "arguments that are a list": {"model_args": [1]},
            "a preparation that is text": {"pretrained_cfg": "x"},
            "a mean of two colours": {"pretrained_cfg": {"mean": [0.5, 0.5]}},
            "a deviation of 0": {"pretrained_cfg": {"std": [0.0, 0.2, 0.2]}},
            "images of no size": {"pretrained_cfg": {"input_size": [3, 0, 0]}},
            "images of 10^6 pixels": {"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}},
            "an interpolation that is a number": {"pretrained_cfg": {"interpolation": 3}},
            "an interpolation by chance": {"pretrained_cfg": {"interpolation": "random"}},
            "an unknown crop": {"pretrained_cfg": {"crop_mode": "corner"}},
            "a mean of pixels up to 255": {"pretrained_cfg": {"mean": [123.7, 116.3, 103.5]}},
            "a deviation of pixels up to 255": {"pretrained_cfg": {"std": [58.4, 57.1, 57.4]}},
            "a mean that is NaN": {"pretrained_cfg": {"mean": [float("nan")] * 3}},
        }.items()
    ),
    *(
        Case(f"batch norm's variances {what}", of_images, says="though they are variances", argument=change)
        for what, change in (("below 0", lambda v: -v), ("of 0", lambda v: 0 * v))
    ),
    *(
        Case(
            f"averaged weights {where}", hidden_set, says="'model' were read, not 'ema'", fate="said", argument=content
        )
        for where, content in (
            ("within a mapping", lambda s: {"ema": {"module": {k: v + 1 for k, v in s.items()}, "updates": 3}}),
            ("as a list", lambda s: {"ema": {"decay": 0.9, "shadow_params": [v + 1 for v in s.values()]}}),
        )
    ),
    *(
        Case(
            f"the same weights with other heads of attention, {command[-1]}",
            read_as_another,
            fate="mended",
            argument=command,
        )
        for command in (["robustness", "fgsm"], ["transfer", "cls"])
    ),
    Case("such a folder of another library", hub, says="names no timm", argument=lambda c: {"architectures": ["ViT"]}),
    Case("such a folder with a damaged config", hub, says="names no timm", argument=lambda c: [c]),
    Case(
        "positions of 32 pixels, asked for at 64",
        moved,
        says="1 tensors of the file resampled",
        fate="said",
        argument=(224, 64),
    ),
    Case("positions of 64 pixels under a name of 224, at 96", moved, says="another size of 1", argument=(64, 96)),
    Case("positions resampled by transfer", moved_in_transfer, says="1 tensors of the file resampled", fate="said"),
    *(
        Case(
            f"weights under {' and '.join(keys)}, read by {reader or 'a command'}",
            several,
            says=f"those under '{read}' were read, not .*{'|'.join(set(keys) - {read})}",
            fate="said",
            argument=(keys, reader),
        )
        for keys, reader, read in (
            (("model", "model_ema"), None, "model_ema"),
            (("model", "model_ema"), "raw", "model"),
            (("state_dict", "state_dict_ema"), "train", "state_dict_ema"),
            (("state_dict", "ema_state_dict"), "transfer", "state_dict"),
            (("state_dict", "teacher"), "raw", "state_dict"),
        )
    ),
    Case("a head of other classes, by train init=", other_head, says="head of 7 classes was left out", fate="said"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_what_timm_would_resample_of_its_own_weights():
    own = create("vit_small_patch16_224", num_classes=10, **{"img_size": 64}).model
    assert models.resized_by_timm("vit_small_patch16_224", own, {"img_size": 64}) == ["pos_embed"]
    assert models.resized_by_timm("vit_small_patch16_224", own, {}) == []
    other = create("vit_small_patch16_224", patch_size=32).model
    with pytest.raises(EvalkitError, match="another size of 2 tensors"):
        models.resized_by_timm("vit_small_patch16_224", other, {"patch_size": 32})
