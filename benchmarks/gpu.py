"""Certifies the GPU path in nine parts of at most a few minutes each, without network or data.

    python benchmarks/gpu.py                       all parts, one after the other; --part NAME for one (see --help)
    python benchmarks/gpu.py --small --device cpu  a dry run at small size, as in CI

Python 3.11 or 3.12 with torch >= 2.11 and torchvision of the same CUDA build; wheels: timm, numpy, pillow,
opencv-python, scikit-learn, scipy, omegaconf, pyyaml, packaging, typer, rich, matplotlib, jinja2,
safetensors, tensorboard, pytest, psutil, and evalkit itself (pip install --no-deps). Each part adds its numbers to
--out as soon as it has them, so that a part that fails or is cut off costs no other. The table at the end
names the device, gives every number and says which goals are met. After 200 seconds a part begins nothing new and names
what it left out. Shares of the peak are of 800 TFLOP/s, what large matrix products reach on an H100 or H200 in bf16,
and of 989, what the data sheet says.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalkit import config, inference
from evalkit.data.batched_augment import augment
from evalkit.data.decode import to_image, to_tensor
from evalkit.data.kept import DeviceImages, keep
from evalkit.data.randaugment import RandAugment
from evalkit.data.transforms import IMAGENET_MEAN, INTERPOLATIONS, EvalTransform, TrainTransform
from evalkit.errors import EvalkitError
from evalkit.runtime import derive_rng, environment, pick_device, write_atomic
from evalkit.train import loop, session
from evalkit.train.config import TrainConfig
from evalkit.train.micro_batch import settle_micro_batch
from evalkit.train.mixups import METHODS
from evalkit.train.showcase import step_bench

try:
    from .gpu_table import table
except ImportError:  # run as a script
    from gpu_table import table  # type: ignore[import-not-found,no-redef]

REACHABLE, NOMINAL = 800.0, 989.0
CLOSED_FORM_GOAL, PUZZLEMIX_GOAL = 1.03, 2.0
GOALS = {"deit_small_patch16_224": 0.35, "deit_base_patch16_224": 0.45}  # share of what is reachable, bf16
WITH_TEACHERS = {name: "left out: wants a trained teacher" for name, cls in METHODS.items() if cls.stand_in}
ALONE = [name for name in METHODS if name not in WITH_TEACHERS]
ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 8  # steps
SECONDS = 200  # of a part, after which it begins nothing new
LATE = "left out: the part's time was over"
CIFAR: dict[str, Any] = {"augment": "pad-crop-flip", "auto_augment": None, "erasing": 0.0, "image_size": 32}


@dataclass(frozen=True)
class Setting:
    """Sizes of a run of this script."""

    device: torch.device
    small: bool
    ends: float = float("inf")  # by the monotonic clock: when a part begins nothing new

    @property
    def late(self) -> bool:
        return time.monotonic() > self.ends

    def recipe(self, *words: str) -> TrainConfig:
        """DeiT's recipe on this device, layout and compilation as asked for; with `small` a network and images that a
        CPU takes."""
        size = ["model=vit_nano_patch4_32", "image_size=32", "eval_resize=36", "model_args={depth: 2}"] * self.small
        words = (
            "data_dir=-",
            "ema=null",
            "repeats=1",
            "workers=0",
            "threads=1",
            f"device={self.device}",
            "channels_last=false",
            "compile=false",
            f"opt_kernels={'for-loop' if self.device.type == 'cpu' else 'fused'}",
            *words,
            *size,
        )
        return config.load(TrainConfig, "deit-300", list(words))

    def methods(self) -> list[str]:
        """All that train without a teacher but vanilla, which they are compared with; in a dry run a few."""
        some = ("automix", "cutmix", "manifold", "mixpro", "puzzlemix", "transmix")
        return [name for name in ALONE if name != "vanilla" and (name in some or not self.small)]

    def batch(self, large: int) -> list[str]:
        size = 8 if self.small else large
        return [f"batch_size={size}", f"micro_batch={size}"]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def tests(at: Setting) -> dict[str, Any]:
    """pytest -m gpu: training in every precision, compile, channels_last, bit-exact resume in deterministic mode."""
    words = ["--collect-only"] if at.small else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-q", *words, "tests"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode not in (0, 5):
        raise EvalkitError(f"pytest -m gpu: {' '.join(done.stdout.splitlines()[-3:])}")
    return {"pytest": done.stdout.strip().splitlines()[-1], "collected_only": at.small}


def precision(at: Setting) -> dict[str, Any]:
    """The loss of the first steps in bf16 and fp16, beside float32."""
    found = {}
    for amp in ("none", "bf16", "fp16"):
        one = trained(at, "mixup", f"amp={amp}", *at.batch(64))
        losses = []
        for step in range(3 if at.small else 20):
            ctx = one.context(step, 0)
            loss = loop.forward(one.s, one.s.trainee, ctx, replace(one.batch, step=step))
            one.s.scaler.scale(loss).backward()
            loop.update(one.s, one.context(step, None), measured=False)
            losses.append(float(loss))
        found[amp] = {"first": losses[0], "last": losses[-1]}
        apart = abs(losses[0] - found["none"]["first"])
        if not np.isfinite(losses).all() or apart > 0.05:
            raise EvalkitError(f"amp={amp}: the losses {losses[:3]} ... {losses[-1]} are not those of float32")
    return found


def syncs(at: Setting) -> dict[str, Any]:
    """Methods whose step makes the host wait for the device (torch.cuda.set_sync_debug_mode)."""
    found: dict[str, Any] = dict(WITH_TEACHERS)
    for name, amp in [(name, "bf16") for name in at.methods()] + [("vanilla", "fp16")]:
        if at.late:
            found[name] = LATE
            continue
        try:
            one = trained(at, name, f"amp={amp}", *at.batch(16))
            for _ in range(
                WARM_UP
            ):  # what is new to the allocators waits once; every branch of a choice must have had it
                one.step()
            if at.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            one.step()
            found[name] = "no wait"
        except EvalkitError as e:
            found[name] = f"left out: {e}"
        except RuntimeError as e:
            found[name] = f"waits: {str(e).splitlines()[0]}"
        finally:
            if at.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return found


def compiled(at: Setting) -> dict[str, Any]:
    """torch.compile with the attention tap (transmix), masks (mixpro) and mixing inside the network (manifold): its
    loss beside the eager one, and seconds per step."""
    found: dict[str, Any] = {}
    for name in ("transmix", "mixpro", "manifold"):
        if at.late:
            found[name] = LATE
            continue
        losses, seconds = [], []
        for wanted in ("false", "true"):
            whole = "model_args={drop_path_rate: 0.0}"  # compiled code draws the paths that it drops for itself
            one = trained(at, name, "amp=none", whole, f"compile={wanted}", *at.batch(64))
            with torch.no_grad():
                losses.append(float(loop.forward(one.s, one.s.trainee, one.context(0, 0), one.batch)))
            one.step(), one.step()
            seconds.append(step_bench._timed(one.step, at.device))
        apart = abs(losses[0] - losses[1])
        found[name] = {"loss_apart": apart, "compiled_over_eager": seconds[1] / seconds[0]}
        if apart > 1e-3:
            raise EvalkitError(f"{name}: the compiled loss is {losses[1]}, the eager one {losses[0]}")
    return found


def methods(at: Setting) -> dict[str, Any]:
    """Every method's eager step relative to vanilla: DeiT-S, batch 128, bf16."""
    found: dict[str, Any] = dict(WITH_TEACHERS)
    cfg = at.recipe("amp=bf16", *at.batch(128))
    for name in at.methods():
        if at.late:
            found[name] = LATE
            continue
        try:
            cost = step_bench.bench(cfg, [name], at.device, 1 if at.small else 7, steps=1 if at.small else 3)[1]
        except (EvalkitError, RuntimeError) as e:
            found[name] = f"left out: {str(e).splitlines()[0]}"
            continue
        alone = METHODS[name].own_passes not in ("whole", "layers")  # a choice's follow from its branches
        goal = PUZZLEMIX_GOAL if name == "puzzlemix" else CLOSED_FORM_GOAL if alone else None
        found[name] = {"relative": cost.relative, "goal": goal, "memory": cost.memory}
    return found


def peak(at: Setting) -> dict[str, Any]:
    """Images per second and share of the peak of whole steps, bf16: DeiT as it is and compiled, a ResNet in both
    layouts, DeiT-S with each of opt_kernels."""
    ways: list[tuple[str, float | None, str]] = []
    for model, goal in GOALS.items():
        ways += [(model, goal, f"compile={tried}") for tried in (["false"] if at.small else ["false", "true"])]
    ways += [("resnet50", None, f"channels_last={tried}") for tried in ("false", "true")]
    ways += [("deit_small_patch16_224", None, f"opt_kernels={tried}") for tried in ("for-loop", "foreach", "fused")]
    found: dict[str, Any] = {}
    for model, goal, way in ways:
        cfg = at.recipe("amp=bf16", f"model={model}", way, *at.batch(256))
        if at.small and model == "resnet50":
            cfg = replace(cfg, model="resnet10_cifar", model_args={})
        if at.late:
            found[f"{cfg.model}, {way}"] = LATE
            continue
        cost = step_bench.bench(cfg, [], at.device, 1 if at.small else 5, steps=1 if at.small else 5)[0]
        rate = cfg.micro_batch / cost.seconds[0]
        tflops = rate * step_bench.flops_per_image(cfg) / 1e12
        shares = {"share_of_800": tflops / REACHABLE, "share_of_989": tflops / NOMINAL, "goal": goal}
        times = {"images_per_second": rate, "update_ms": 1000 * cost.parts["update"]}
        found[f"{cfg.model}, {way}"] = times | {"tflops": tflops, "memory": cost.memory} | shares
    return found


def protocols(at: Setting) -> dict[str, Any]:
    """Images per second of the pass that evaluation and robustness share, beside the bare forward pass."""
    cfg = at.recipe(*at.batch(64))
    network = session.make_network(cfg, step_bench.CLASSES).to(at.device).eval()
    images = step_bench.synthetic(cfg.image_size, 16 if at.small else 4096, "val")
    transform = EvalTransform(cfg.image_size, cfg.image_size)
    began = time.perf_counter()
    inference.predict(network, images, transform, inference.Pass(at.device, workers=0 if at.small else 8))
    whole = len(images) / (time.perf_counter() - began)
    x = torch.zeros(8 if at.small else 256, 3, cfg.image_size, cfg.image_size, device=at.device)
    with torch.no_grad():
        network(x)
        bare = len(x) / step_bench._timed(lambda: network(x), at.device)
    return {"images_per_second": whole, "bare_forward": bare}


def augmentation(at: Setting) -> dict[str, Any]:
    """RandAugment in batch on the device: its pixels beside Pillow's, and images per second."""
    size, count = (32, 16) if at.small else (224, 256)
    ours = RandAugment("rand-m9-mstd0.5-inc1", size, IMAGENET_MEAN, INTERPOLATIONS["bicubic"])
    coarse = derive_rng("gpu").integers(0, 256, (count, 3, size // 8, size // 8), dtype=np.uint8)
    x = torch.from_numpy(coarse.repeat(8, 2).repeat(8, 3))
    drawn = [ours.draw(derive_rng("gpu", i)) for i in range(count)]
    codes = np.array([ours.coded(d, size) for d in drawn])
    operations, values = codes[..., 0].astype(int), codes[..., 1]
    on_device = x.to(at.device)
    got = augment(on_device, operations, values, ours.fill, "bicubic").cpu()
    exact = torch.stack([to_tensor(ours.apply(to_image(image), d)) for image, d in zip(x, drawn)])
    share = float(((got.int() - exact.int()).abs() > 2).float().mean())
    if share > 1e-3:
        raise EvalkitError(f"{100 * share:.2f} % of the values are more than 2 grey levels off Pillow's")
    work = [step_bench._timed(lambda: augment(on_device, operations, values, ours.fill, "bicubic"), at.device)]
    work += [step_bench._timed(lambda: augment(on_device, operations, values, ours.fill, "bicubic"), at.device)]
    small = step_bench.synthetic(32, count, "train")
    held = keep(small, TrainTransform(replace(at.recipe(), **CIFAR)), "device", at.device, threads=1)
    assert isinstance(held, DeviceImages), "as asked for"
    index, offsets = torch.arange(count), torch.tensor([[i % 9 - 4, i // 9 % 9 - 4, i % 2] for i in range(count)])
    crops = [step_bench._timed(lambda: held.cropped(index, offsets), at.device) for _ in range(2)]
    return {
        "share_beyond_2_levels": share,
        "images_per_second": count / work[-1],
        "crops_per_second_of_images_on_the_device": count / crops[-1],
    }


def overhead(at: Setting) -> dict[str, Any]:
    """A step of the loop beside a bare step of the same network and optimizer: forward, backward, update."""
    one = trained(at, "vanilla", "amp=none" if at.small else "amp=bf16", *at.batch(64))
    bare = trained(at, "vanilla", "amp=none" if at.small else "amp=bf16", *at.batch(64)).s
    x, y = loop.prepare(bare, one.batch, one.context(0, 0))
    dtype = loop.AMP_DTYPES[bare.cfg.amp]

    def plain() -> None:
        with torch.autocast(at.device.type, dtype=dtype, enabled=dtype is not None):
            loss = torch.nn.functional.cross_entropy(bare.network.model(x), y, label_smoothing=0.1)
        loss.backward()
        bare.optimizer.step()
        bare.optimizer.zero_grad(set_to_none=True)

    ratios = []
    for _ in range(2 if at.small else 30):
        ratios.append(step_bench._timed(one.step, at.device) / step_bench._timed(plain, at.device))
    found = {"loop_over_bare": statistics.median(ratios), "range": [min(ratios), max(ratios)]}
    return found | {"auto_micro_batch": fitting(at)}


def fitting(at: Setting) -> dict[str, Any]:
    """What auto_micro_batch makes of a step that no memory holds, or on a CPU one does, and how long that takes."""
    cfg = replace(at.recipe("amp=bf16", "mixup=mixpro", *at.batch(2**15)), auto_micro_batch=True, augment="none")
    cfg = replace(cfg, auto_augment=None, erasing=0.0)
    images = (step_bench.synthetic(cfg.image_size, cfg.micro_batch, split) for split in ("train", "val"))
    began = time.monotonic()
    settled = settle_micro_batch(cfg, at.device, tuple(images))
    return {"of": cfg.micro_batch, "fits": settled.micro_batch, "seconds": round(time.monotonic() - began, 1)}


def trained(at: Setting, method: str, *words: str) -> step_bench._Trained:
    """A session of DeiT's recipe with a method, on synthetic images."""
    cfg = replace(at.recipe(*words), mixup=method, methods={}, augment="none", auto_augment=None, erasing=0.0)
    images = (step_bench.synthetic(cfg.image_size, cfg.micro_batch, split) for split in ("train", "val"))
    return step_bench._Trained(session.build(replace(cfg, epochs=10**6), at.device, tuple(images)))


PARTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    part.__name__: part
    for part in (tests, precision, syncs, compiled, methods, peak, protocols, augmentation, overhead)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="one or more; absent: all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a dry run")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    args = parser.parse_args()
    at = Setting(pick_device(args.device), args.small)
    found = json.loads(args.out.read_text()) if args.out.exists() else {"parts": {}}
    found |= {"environment": environment(at.device), "small": args.small}
    failed = []
    for name in args.part or PARTS:
        began = time.monotonic()
        try:
            numbers = PARTS[name](replace(at, ends=began + SECONDS))
        except Exception as e:  # the other parts are worth having
            numbers = {"failed": f"{type(e).__name__}: {' '.join(str(e).split())[:500]}"}
            failed.append(name)
        found["parts"][name] = numbers | {"seconds": round(time.monotonic() - began, 1)}
        write_atomic(args.out, lambda f: f.write((json.dumps(found, indent=1) + "\n").encode()))
        print(f"{name}: {json.dumps(found['parts'][name])}", flush=True)
    print(f"\n{table(found)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
