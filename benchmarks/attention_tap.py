"""Cost of reading the class attention: a training step with the tap against the same step without it, in one process.

    python benchmarks/attention_tap.py [--model NAME] [--batch 16] [--repeats 9] [--device cpu] [--amp]

Prints the median over interleaved repeats of (step with attention) / (step without). Goal: at most 1.03.
"""

import argparse
import json
import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from evalkit import models
from evalkit.runtime import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--json", help="write the result to this file")
    args = parser.parse_args()
    device = torch.device(args.device)

    network = models.create(args.model).to(device).train()
    network.prepare(attention=True)
    x = torch.randn(args.batch, 3, *network.input_size, device=device)
    y = torch.randint(network.num_classes, (args.batch,), device=device)

    def step(attention: bool) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            out = network(x, attention=attention)
        loss = cross_entropy(out.logits.float(), y)
        if attention:  # use it as TransMix does, detached
            loss = loss * (1 + 0 * out.attention.mean())
        loss.backward()
        network.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    for attention in (False, True, False, True):
        step(attention)
    pairs = []
    for i in range(args.repeats):  # alternate which side goes first, so that a drifting machine favours neither
        first = bool(i % 2)
        a, b = step(first), step(not first)
        pairs.append((b, a) if not first else (a, b))  # (with, without)
    ratios = [with_tap / without for with_tap, without in pairs]
    result = {
        "benchmark": "attention_tap",
        "model": args.model,
        "batch": args.batch,
        "amp": args.amp,
        "seconds_without_median": statistics.median(without for _, without in pairs),
        "seconds_with_median": statistics.median(with_tap for with_tap, _ in pairs),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "repeats": args.repeats,
        "environment": environment(device),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
