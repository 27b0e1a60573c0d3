"""Which configs of mmsegmentation and mmdetection a transferred backbone takes part in: each config with each backbone
is built, trained for three steps, killed after the second, resumed, and measured, on miniatures.

Heads are narrowed and images made small, everything else is the config's own. A cell of the table is "exact" where the
resumed run ends with the bytes and the losses of one that was never killed and both measure the same, else the reason
in one line. Detectors that ask for no masks are trained on boxes alone. Cells that the file holds already are not run
again.

    nice -n 10 python benchmarks/stock_configs.py --out benchmarks/results/stock_configs.json [--only upernet]
"""

import argparse
import gc
import json
import os
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

BACKBONES = {
    "vit": ("vit_nano_patch4_32", {"depth": 4}),
    "vit16": ("vit_tiny_patch16_224", {"depth": 4, "embed_dim": 32, "num_heads": 2}),
    "pvt": ("pvt_nano", {}),
    "resnet": ("resnet18", {}),
    "swin": ("swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [16, 32, 48, 64]}),
}
SEG = {
    "mask2former_r50_8xb2-160k_ade20k-512x512": ("resnet", "swin"),
    "deeplabv3plus_r101-d8_4xb4-40k_pascal-context-480x480": ("resnet", "vit16"),
    "convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512": ("convnext", "resnet"),
    "segmenter_vit-s_mask_8xb1-160k_ade20k-512x512": ("vit16", "vit"),
    "upernet_r50_4xb4-160k_ade20k-512x512": ("vit16", "pvt"),
    "fpn_r50_4xb4-160k_ade20k-512x512": ("pvt", "swin"),
    "segformer_mit-b0_8xb2-160k_ade20k-512x512": ("pvt", "convnext"),
}
DET = {
    "retinanet_pvt-s_fpn_1x_coco": ("pvt", "swin"),
    "deformable-detr_r50_16xb2-50e_coco": ("resnet", "pvt"),
    "fcos_r50-caffe_fpn_gn-head_1x_coco": ("resnet", "convnext"),
    "mask2former_r50_8xb2-lsj-50e_coco": ("resnet", "swin"),
    "mask-rcnn_r50_fpn_1x_coco": ("resnet", "vit16"),
    "faster-rcnn_r50_fpn_1x_coco": ("pvt", "convnext"),
    "cascade-mask-rcnn_r50_fpn_1x_coco": ("swin", "resnet"),
}
STEPS, KILLED_AT, SIDE = 3, 2, 64
NARROW = {width: width // 8 for width in (128, 256, 384, 512, 768, 1024, 2048)}


# ---- miniatures


def write_seg(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            pixels, labels = rng.integers(0, 60, (SIDE, SIDE, 3)), np.zeros((SIDE, SIDE), np.uint8)
            for label in (1, 2):
                top, left = rng.integers(0, 30, 2)
                labels[top : top + 30, left : left + 30] = label
                pixels[top : top + 30, left : left + 30, label] = 230
            for kind, array in (("images", pixels.astype(np.uint8)), ("masks", labels)):
                path = root / kind / split / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    (root / "classes.txt").write_text("background\nred\nblue\n")
    return root


def write_det(root: Path, masks: bool = True) -> Path:
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 4), ("val", 2)):
        images, objects = [], []
        (root / split).mkdir(exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
            for label in (1, 2):
                left, top = (int(v) for v in rng.integers(2, 30, 2))
                w, h = (int(v) for v in rng.integers(16, 30, 2))
                pixels[top : top + h, left : left + w, label] = 230
                corners = [left, top, left + w, top, left + w, top + h, left, top + h]
                objects.append(
                    {"id": len(objects) + 1, "image_id": i + 1, "category_id": label, "bbox": [left, top, w, h]}
                    | {"area": w * h, "iscrowd": 0}
                    | ({"segmentation": [corners]} if masks else {})
                )
            Image.fromarray(pixels).save(root / split / f"{i}.png")
            images.append({"id": i + 1, "file_name": f"{i}.png", "width": SIDE, "height": SIDE})
        categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
        content = {"images": images, "annotations": objects, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


def shrunk(config: dict[str, Any], readers: list[dict[str, Any]]) -> dict[str, Any]:
    """The config with narrow heads and images of `SIDE` pixels; what reads the backbone keeps the channels it reads."""
    kept = {id(r): {k: r[k] for k in ("in_channels", "embed_dim", "c1_in_channels") if k in r} for r in readers}

    def narrow(value: Any) -> Any:
        if isinstance(value, dict):
            own = {k: v if k in ("scale", "loss_weight") else narrow(v) for k, v in value.items()}
            return own | kept.get(id(value), {})
        if isinstance(value, list | tuple):
            return type(value)(narrow(v) for v in value)
        return NARROW.get(value, value) if isinstance(value, int) and not isinstance(value, bool) else value

    # parts of DETR have widths of 256 that stand in no config; FCOS normalises groups, of one place in small maps
    kept_wide = any(name in config["model"]["type"] for name in ("DETR", "FCOS"))
    wide = tuple(config["model"]) if kept_wide else ("backbone", "test_cfg", "train_cfg")
    model = {k: v if k in wide else narrow(v) for k, v in config["model"].items()}
    if "size" in model.get("data_preprocessor", {}):
        model["data_preprocessor"] = model["data_preprocessor"] | {"size": (SIDE, SIDE)}
    for augment in model.get("data_preprocessor", {}).get("batch_augments") or []:
        augment |= {"size": (SIDE, SIDE)} if "size" in augment else {}
    test = dict(model.get("test_cfg") or {})
    model["test_cfg"] = test | ({"crop_size": (SIDE, SIDE), "stride": (48, 48)} if "crop_size" in test else {})
    small = {k: v if k == "model" else _small(v) for k, v in config.items()}
    return small | {"model": model}


def _small(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_small(v) for v in value)
    if not isinstance(value, dict):
        return value
    found = {k: _small(v) for k, v in value.items()}
    kind = found.get("type")
    if kind in ("Resize", "RandomResize", "RandomChoiceResize", "Mosaic", "MixUp", "RandomCrop", "Pad", "CachedMosaic"):
        for key in ("scale", "scales", "img_scale", "crop_size", "size"):
            if found.get(key) is not None:
                found[key] = [(SIDE, SIDE)] * 2 if key == "scales" else (SIDE, SIDE)
    if kind == "ResizeShortestEdge" or found.get("resize_type") == "ResizeShortestEdge":
        found |= (
            {"scale": [SIDE], "max_size": SIDE}
            if kind == "ResizeShortestEdge"
            else {"scales": [SIDE], "max_size": SIDE}
        )
    if kind == "RandomCrop" and "allow_negative_crop" in found:
        found |= {"crop_type": "absolute", "crop_size": (48, 48)}
    return found


# ---- a cell


def in_child(work: Any, log: Path) -> int:
    """Exit status of `work` in a process of its own, whose output goes to `log`; negative for a signal."""
    child = os.fork()
    if child == 0:
        with open(log, "w", encoding="utf-8") as f:
            os.dup2(f.fileno(), 1)
            os.dup2(f.fileno(), 2)
        try:
            code = work()
        except BaseException as e:
            print(f"error: {type(e).__name__}: {e}", file=sys.stderr)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def command(task: str, run: Path, words: list[str], die: bool = False) -> int:
    """One `evalkit transfer`; with `die` it is killed right after the checkpoint of step `KILLED_AT`."""
    from evalkit.cli import invoke
    from evalkit.downstream.mm import checkpoints

    if die:
        save = checkpoints.save

        def killed(runner: Any, folder: Path, step: int, keep: int) -> None:
            save(runner, folder, step, keep)
            if step == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints.save = killed
    code, message = invoke(["transfer", task, *words])
    if message:
        print(f"error: {message}", file=sys.stderr)
    return code


def cell(
    task: str, config: str, backbone: str, folder: Path, data: dict[str, Path], extra: list[str] | None = None
) -> dict[str, Any]:
    """Whether a config and a backbone work together, in words, with seconds.

    Args:
        task: seg or det.
        config: Name of one that comes with them.
        backbone: Of BACKBONES.
        folder: Where the runs go.
        data: Miniatures: seg, det with masks, boxes without.
        extra: Further words of the command.
    """
    from mmengine.config import Config

    from evalkit.downstream.mm import plug, stock

    began, scope = time.monotonic(), f"mm{task}"
    name, args = BACKBONES[backbone]
    folder.mkdir(parents=True, exist_ok=True)
    import_module(f"{scope}.utils").register_all_modules(init_default_scope=True)
    content, _ = stock.read(config, scope)
    small = shrunk(content, plug._readers(content["model"]))
    (folder / f"{config}.py").write_text(Config(small).pretty_text)
    kind = "boxes" if task == "det" and "'with_mask': True" not in repr(content) else task
    words = [
        name,
        f"config={folder / f'{config}.py'}",
        f"data={data[kind]}",
        "init=random",
        "batch_size=2",
        "workers=0",
    ]
    words += [f"model_args={json.dumps(args)}"] if args else []
    words += ["device=cpu", "threads=1", "checkpoint_steps=1", "log_steps=1", *(extra or [])]
    length = f"steps={STEPS}" if task == "seg" else "epochs=2"
    whole, killed = folder / "whole", folder / "killed"
    result = {"task": task, "config": config, "backbone": name, "data": kind}
    runs = (
        (whole, lambda: command(task, whole, [*words, length, "--out", str(whole)]), 0),
        (killed, lambda: command(task, killed, [*words, length, "--out", str(killed)], die=True), -signal.SIGKILL),
        (killed, lambda: command(task, killed, ["--resume", str(killed)]), 0),
    )
    for run, work, expected in runs:
        code = in_child(work, folder / "log.txt")
        if code != expected:
            lines = [line for line in (folder / "log.txt").read_text().splitlines() if line.startswith("error")]
            return result | {"outcome": lines[-1] if lines else f"{run.name} ended with {code}"}
    result |= {"outcome": difference(whole, killed), "seconds": round(time.monotonic() - began, 1)}
    return result


def difference(whole: Path, killed: Path) -> str:
    """ "exact", or what differs between a run and one that was killed and resumed."""
    a, b = (torch.load(sorted((run / "checkpoints").glob("*.pth"))[-1], weights_only=True) for run in (whole, killed))
    odd = [k for k, v in a["state_dict"].items() if not torch.equal(v, b["state_dict"][k])]
    if odd:
        return f"{len(odd)} tensors differ, such as {odd[0]}"
    losses = [
        [json.loads(line).get("loss") for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (whole, killed)
    ]
    if losses[0] != losses[1]:
        return f"losses differ: {losses}"
    found = [json.loads((run / "results.jsonl").read_text().splitlines()[-1])["metrics"] for run in (whole, killed)]
    return "exact" if found[0] == found[1] else f"metrics differ: {found}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[], help="cells whose names hold this; may be given again")
    given = parser.parse_args()
    torch.set_num_threads(1)
    from evalkit.downstream.mm import require
    from evalkit.runtime import environment

    require("mmseg", "mmdet")
    # all that a cell imports, once, so that it is one version that is measured
    for module in ("evalkit.cli.app", "evalkit.downstream.run", "evalkit.downstream.mm.adopt"):
        import_module(module)
    for scope in ("mmseg", "mmdet"):
        import_module(f"{scope}.utils").register_all_modules()
        import_module(f"evalkit.downstream.mm.{scope.removeprefix('mm')}")
    for protocol in import_module("evalkit.downstream").PROTOCOLS.values():
        protocol.load()

    # a config is formatted for people each time that it is written, and each data set walks through all objects there
    # are: more than half of what a cell of three steps would take
    import_module("mmengine.config.config").FormatCode = lambda text, **_: (text, False)
    gc.freeze()

    rows = json.loads(given.out.read_text())["cells"] if given.out.exists() else []  # of the cells before
    done = {(row["task"], row["config"], row["backbone"]) for row in rows}
    with tempfile.TemporaryDirectory() as place:
        data = {"seg": write_seg(Path(place) / "seg"), "det": write_det(Path(place) / "det")}
        data["boxes"] = write_det(Path(place) / "boxes", masks=False)
        cells = [(t, c, b) for t, cs in (("seg", SEG), ("det", DET)) for c, bs in cs.items() for b in bs]
        for number, (task, config, backbone) in enumerate(cells):
            wanted = all(word in f"{task} {config} {backbone}" for word in given.only)
            if not wanted or (task, config, BACKBONES[backbone][0]) in done:
                continue
            row = cell(task, config, backbone, Path(place) / str(number), data)
            rows.append(row)
            print(json.dumps(row), flush=True)
            about = {"steps": STEPS, "killed_at": KILLED_AT, "side": SIDE}
            content = {"cells": rows, "about": about, "environment": environment(torch.device("cpu"), ("mmengine",))}
            given.out.write_text(json.dumps(content, indent=1) + "\n")
    exact = sum(row["outcome"] == "exact" for row in rows)
    print(f"{exact} of {len(rows)} exact")


if __name__ == "__main__":
    main()
