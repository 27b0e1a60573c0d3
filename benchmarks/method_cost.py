"""What a training step costs with each method, relative to the same step of the same model without mixing, in one
process.

    python benchmarks/method_cost.py [--model NAME] [--batch 8] [--repeats 7] [--methods a,b] [--json FILE]

A step is mixing with all of the method's passes, forward, backward and AdamW. Methods take turns, each right after a
step without mixing, which its ratio is to (median over the repeats). Teachers are ResNet-50 with random weights. Beside
it: the ratio that the papers state, on a V100 (TokenMix's with maps made before the training). Goals: at most 1.03 for
methods that label by attention, at most 3.0 for AutoMix and SAMix.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.runtime import derive_rng, environment, seed_torch, write_atomic
from evalkit.train import METHODS, Context, MixMethod, create, train_step

PAPERS = {  # throughput of training DeiT-S, baseline / method: MixPro (ICLR 2023), Table 2
    **{"transmix": 1.0, "tokenmix": 1.0, "mixpro": 1.0},
    **{"attentive_cutmix": 1.35, "saliencymix": 1.03, "puzzlemix": 2.3},
}
# the argument that takes one
TEACHERS = {"attentive_cutmix": "teacher", "attentivemix_plus": "teacher", "tokenmix": "network"}
LEFT_OUT = {  # and why
    "augmix": "its cost is in the data loader",
    "choice": "costs what its branches do",
    "decouplemix": "costs what its method does",
    "supermix": "a trained teacher decides how long it takes",
}
CLASSES = 1000


def stepper(name: str, model: str, teacher: models.Network, x: torch.Tensor, y: torch.Tensor) -> Callable[[int], float]:
    """A function that takes a training step of a fresh `model` with the method `name` and returns its seconds."""
    device = x.device
    seed_torch("method-cost")
    net = models.create(model, num_classes=CLASSES).to(device).train()
    method: MixMethod = create(name, **({TEACHERS[name]: teacher} if name in TEACHERS else {}))
    method.setup(net)
    method.to(device)
    net.prepare(attention=method.attention, inject_layers=method.inject_layers)
    groups = [{"params": list(net.parameters())}, *({"params": group["params"]} for group in method.param_groups())]
    optimizer = torch.optim.AdamW(groups, lr=1e-5)

    def step(repeat: int) -> float:
        ctx = Context.simple(
            CLASSES, derive_rng("method-cost", repeat), step=repeat, total_steps=1000, mean=net.mean, std=net.std
        )
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = train_step(ctx, net, method, x, y)
        loss.backward()
        optimizer.step()
        method.after_step(ctx, net)
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--methods", help="names with commas; all but those without a fixed cost")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", help="write the result to this file")
    args = parser.parse_args()
    device = torch.device(args.device)
    names = (
        args.methods.split(",")
        if args.methods
        else [name for name in METHODS if name not in LEFT_OUT and name != "vanilla"]
    )
    teacher = models.create("resnet50", num_classes=CLASSES).to(device)
    x = torch.randn(args.batch, 3, *models.create(args.model).input_size, device=device)
    y = torch.randint(CLASSES, (args.batch,), device=device)

    plain = stepper("vanilla", args.model, teacher, x, y)
    rows, refused = {}, {}
    for name in names:  # one method's network at a time in memory
        try:
            own = stepper(name, args.model, teacher, x, y)
            for repeat in range(2):
                plain(repeat), own(repeat)
        except EvalkitError as error:
            refused[name] = str(error)
            continue
        pairs = [(plain(repeat), own(repeat)) for repeat in range(args.repeats)]
        ratios = sorted(mixed / bare for bare, mixed in pairs)
        rows[name] = {
            "ratio": statistics.median(ratios),
            "lowest": ratios[0],
            "highest": ratios[-1],
            "papers": PAPERS.get(name),
        }
        print(
            f"{name:20} {rows[name]['ratio']:6.2f}   ({ratios[0]:.2f} to {ratios[-1]:.2f})   papers:"
            f" {rows[name]['papers'] or '-'}",
            flush=True,
        )
    for name, reason in refused.items():
        print(f"{name:20} not with {args.model}: {reason}")
    result = {
        "benchmark": "method_cost",
        "model": args.model,
        "batch": args.batch,
        "repeats": args.repeats,
        "methods": rows,
        "not_with_this_model": refused,
    }
    if args.json:
        text = json.dumps(result | {"environment": environment(device)}, indent=1) + "\n"
        write_atomic(args.json, lambda f: f.write(text.encode()))


if __name__ == "__main__":
    main()
