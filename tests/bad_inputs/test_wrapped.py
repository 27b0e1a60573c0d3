"""Weights in the wrappings and number formats of other trainers, and networks that compute otherwise with the same
tensors."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from evalkit import models
from evalkit.cli import invoke
from evalkit.downstream.backbone import Backbone
from evalkit.models import load

from .cases import Case
from .make import ARGS, NAME, run_folder, splits, training
from .test_weights import KIND as KIND

FLOAT32 = "tensors of the file are {}, and computed with in float32"


def state():
    torch.manual_seed(0)
    return timm.create_model(NAME, num_classes=2, **ARGS).state_dict()


def read(folder, wrap):
    torch.save(wrap(state()), folder / "w.pth")
    return "; ".join(models.describe(load(str(folder / "w.pth"), model=NAME, model_args=ARGS).report))


def behind(*prefixes, **more):
    return lambda s: {f"{p}{k}": v + n for n, p in enumerate(prefixes) for k, v in s.items()} | more


def told(folder, command):
    """What every command says of a file of half precision whose making is not known."""
    torch.save({k: v.half() for k, v in state().items()}, folder / "w.pth")
    path = str(folder / "w.pth")
    if command == "transfer":
        return "; ".join(models.describe(Backbone(NAME, 32, [0], model_args=ARGS, checkpoint=path).report))
    code, line = invoke(training(splits(folder / "data"), f"init={path}", f"model={NAME}"))
    return (code, line) if code else (folder / "run" / "results.jsonl").read_text()


def grey(folder):
    torch.save(timm.create_model(NAME, num_classes=2, in_chans=1, **ARGS).state_dict(), folder / "w.pth")
    return load(str(folder / "w.pth"), model=NAME, model_args={**ARGS, "in_chans": 1})


CASES = [
    *(
        Case(f"the network {what}", read, says=says, argument=wrap)
        for what, wrap, says in (
            ("of Lightning beside a loss", behind("model.", **{"loss.w": torch.ones(2)}), "behind 'model.', and other"),
            (
                "of Lightning and its averages",
                behind("model.", "ema_model."),
                "behind 'model.' and behind 'ema_model.'",
            ),
            ("of ema-pytorch", behind("online_model.", "ema_model.", step=torch.ones(1)), "behind 'ema_model.'"),
            (
                "of MoCo v3",
                lambda s: {"state_dict": behind("module.base_encoder.", "module.momentum_encoder.")(s)},
                "behind 'base_encoder.' and behind 'momentum_encoder.'",
            ),
            (
                "of DINO's student and teacher",
                lambda s: {"student": s, "teacher": s, "epoch": 1},
                "lie under 'student' and 'teacher'",
            ),
            *(
                (f"under {key}", lambda s, key=key: {key: s, "epoch": 3}, f"lie under '{key}'")
                for key in ("model_state_dict", "net", "params", "weights")
            ),
            ("with LoRA", lambda s: s | {"blocks.0.attn.qkv.lora_A.weight": torch.ones(4, 32)}, "has not, 1 tensors"),
            ("in 8 bits with scales", lambda s: s | {"blocks.0.attn.qkv.SCB": torch.ones(96)}, "has not, 1 tensors"),
            (
                "with masks of pruning",
                lambda s: {k.replace("fc1.weight", "fc1.weight_orig"): v for k, v in s.items()},
                "lacks 1 tensors .blocks.0.mlp.fc1.weight",
            ),
            (
                "with a normed head",
                lambda s: {k.replace("head.weight", "head.weight_v"): v for k, v in s.items()},
                "lacks 1 tensors .head.weight",
            ),
            ("of weights that are all 0", lambda s: {k: 0 * v for k, v in s.items()}, "all weights are 0"),
            (
                "with a head that is a number",
                lambda s: s | {"head.weight": torch.tensor(3.0)},
                "other shapes for 2 tensors",
            ),
            ("with a head of no class", lambda s: s | {"head.weight": torch.ones(0, 32)}, "has 0 classes"),
        )
    ),
    *(
        Case(f"weights of {kind}", read, FLOAT32.format(kind), "said", lambda s, k=kind: cast(s, getattr(torch, k)))
        for kind in ("float16", "bfloat16", "float64", "float8_e4m3fn")
    ),
    *(
        Case(f"weights of float16, {c}", told, FLOAT32.format("float16"), "said", c)
        for c in ("train init=", "transfer")
    ),
    *(
        Case(f"a file without a normalisation, {c}", told, f"as timm does for {NAME}, mean", "said", c)
        for c in ("train init=", "transfer")
    ),
    Case(
        "averages of torch.optim.swa_utils",
        read,
        "not used: n_averaged",
        "said",
        behind("module.", n_averaged=torch.tensor(3)),
    ),
    Case("a network of grey images", grey, says="in_chans must be 3"),
]


def tagged(folder):
    """A folder of the Hub whose architecture has a tag of weights that timm does not know."""
    save_file(state(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": f"{NAME}.mine", "model_args": ARGS}))
    return load(str(folder))


def normalised_for_255(folder):
    overlay = {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}
    return load(str(run_folder(folder)), model_args={"pretrained_cfg_overlay": overlay})


def other_names(folder):
    """meta.json with a name more than the network has outputs."""
    (meta,) = run_folder(folder).glob("checkpoints/*/meta.json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"classes": ["a", "b", "c"]}))
    return load(str(folder))


CASES += [
    Case("a folder of the Hub with a tag that timm lacks", tagged, says="no weights tag of .*; leave the tag out"),
    Case("an overlay for pixels up to 255", normalised_for_255, says="`mean` is .*, since pixels lie within 0 to 1"),
    Case("meta.json with three names for two outputs", other_names, says="names 3 classes, but says that it has 2"),
]


def cast(tensors, kind):
    return {k: v.to(kind) for k, v in tensors.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)
