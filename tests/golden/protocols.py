"""What evalkit gives for a golden vector with a `kind`: attention and learned methods with a network, optimizer steps,
metrics, class maps, transforms, occlusion, whole models.

Weights are not stored: they follow from `seed` by the rule of `fill`. `expect/` holds what the official code returned,
`step<j>/expect/` the same for step j of plain gradient descent."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evalkit import metrics, models
from evalkit.data.images import ArrayImages
from evalkit.data.transforms import eval_transform, to_image
from evalkit.models import Network
from evalkit.models.network import Output
from evalkit.robustness import imagenet_c, layouts, masks, sweep
from evalkit.train import Context, MixMethod, create, train_step

from .mixups import IMAGENET
from .vectors import Arrays, Case

Results = dict[str, Any]
PIXEL_STEP = 7  # of the recorded pixels of a transform
READOUTS = 40  # classes of the linear map that reads occluded pixels


def fill(module: nn.Module, seed: int, gain: float = 1.5) -> list[float]:
    """Weights from a frozen stream over the sorted names. Returns their number, sum of magnitudes and of squares."""
    rng, state = np.random.RandomState(seed), {}
    for name in sorted(key for key, t in module.state_dict().items() if t.is_floating_point()):
        t = module.state_dict()[name]
        state[name] = torch.from_numpy(weight(name, t, rng.standard_normal(tuple(t.shape)), gain)).to(t.dtype)
    module.load_state_dict(state, strict=False)  # integers, which count batches, stay
    flat = torch.cat([t.double().flatten() for t in state.values()])
    return [len(flat), float(flat.abs().sum()), float(flat.square().sum())]


def weight(name: str, like: Tensor, z: np.ndarray, gain: float) -> np.ndarray:
    """The rule for one entry of a state dict from standard normals `z`."""
    last = name.split(".")[-1]
    if last == "running_var":
        return np.exp(0.3 * z)
    if like.ndim < 2 or "scale" in name or "sigma" in name or "token" in name:
        if last == "running_mean" or last.endswith("bias"):
            return 0.1 * z
        return (1 + 0.1 * z) * (0.1 if "layer_scale" in name else 1)
    if "pos_embed" in name:
        return 0.3 * z
    return gain * z / (like.numel() / like.shape[0]) ** 0.5


def network_of(meta: dict[str, Any]) -> Network:
    how = meta["model"]
    network = models.create(how["name"], **how["args"])
    checksum = fill(network.model, how["seed"], how.get("gain", 1.5))
    if not np.allclose(checksum, how["checksum"], rtol=1e-6):
        raise AssertionError(f"the weights of {how['name']} are not those the vector was made with")
    return (network.double() if meta.get("double") else network).train(meta.get("training", True))


def method_of(meta: dict[str, Any], network: Network | None, **arguments: Any) -> MixMethod:
    method = create(meta["method"], **{**meta["create"], **arguments})
    if network is not None:
        method.setup(network)
    for path, seed in meta.get("modules", {}).items():
        fill(method.get_submodule(path), seed)
    return method.train()


def context(case: Case, draws: str = "draws", step: int = 0) -> Context:
    return Context.simple(
        int(case.arrays["num_classes"]),
        np.random.default_rng(0),
        smoothing=float(case.arrays["smoothing"]),
        draws=case.draws(draws),
        extras=case.tensors("extras"),
        step=step,
        total_steps=case.meta.get("total_steps", 10),
    )


def gradients(expected: Arrays, network: Network, method: MixMethod) -> Results:
    """The gradients that `expected` has keys for: of network parameters, "method:<name>", and the whole network's
    "norm"."""
    named = dict(network.model.named_parameters())
    named |= {f"method:{name}": p for name, p in method.named_parameters()}
    every = [p.grad.double().norm() for p in network.model.parameters() if p.grad is not None]
    found: Results = {name: named[name].grad for name in expected if name != "norm"}
    return {f"grad/{name}": value for name, value in (found | {"norm": torch.stack(every).norm()}).items()}


def mix(case: Case) -> Results:
    meta, targets = case.meta, []
    x, y = (torch.from_numpy(case.arrays[key]) for key in ("x", "y"))
    network = network_of(meta) if meta["model"] else None
    method = method_of(meta, network)
    base = context(case)

    def criterion(logits: Tensor, target: Tensor) -> Tensor:
        if logits is out.logits:
            targets.append(target)
        return base.criterion(logits, target)

    ctx = replace(base, criterion=criterion)
    batch = method.mix(ctx, x, y, network)
    if network is None:
        out = Output(torch.from_numpy(case.arrays["net/logits"]))
    else:
        features = method.features or "features" in case.below("expect")
        out = network(batch.x, attention=method.attention, features=features, inject=batch.inject)
    loss = method.loss(ctx, x, y, batch, out, network)
    got = {"x": batch.x, "loss": loss, "attention": out.attention, "features": out.features, "logits": out.logits}
    if targets:
        got["target"] = targets[-1]
    if network is not None:
        loss.backward()
        got |= gradients(case.below("expect/grad"), network, method)
    return under("expect", got)


def steps(case: Case) -> Results:
    meta, got = case.meta, {}
    x, y, network = torch.from_numpy(case.arrays["x"]).double(), torch.from_numpy(case.arrays["y"]), network_of(meta)
    method = method_of(meta, network)
    trained = [*network.parameters(), *(p for p in method.parameters() if p.requires_grad)]
    optimizer = torch.optim.SGD(trained, lr=meta["lr"])
    for step in range(meta["steps"]):
        ctx = context(case, f"step{step}/draws", step)
        optimizer.zero_grad()
        loss = train_step(ctx, network, method, x, y)
        loss.backward()
        found = {"loss": loss} | gradients(case.below(f"step{step}/expect/grad"), network, method)
        optimizer.step()
        method.after_step(ctx, network)
        encoder: Any = method.encoder
        slow = [*encoder.network.model.parameters(), encoder.head_k.weight]
        found["k_norm"] = torch.stack([p.detach().norm() for p in slow]).norm()
        got |= under(f"step{step}/expect", found)
    return got


def mask_loss_weight(case: Case) -> Results:
    """The weight of AutoMix's mask loss at the recorded steps, as a difference of losses: the rest of the loss does not
    depend on the step."""
    meta, full = case.meta, case.meta["weight"]
    x, y, network = torch.from_numpy(case.arrays["x"]).double(), torch.from_numpy(case.arrays["y"]), network_of(meta)

    def loss(value: float, schedule: str, step: int = 0) -> float:
        method = method_of(meta, network, mask_loss_weight=value, mask_loss_schedule=schedule)
        return train_step(context(case, step=step), network, method, x, y).item()

    without, with_it = loss(0.0, "constant"), loss(full, "constant")
    schedule = meta["create"]["mask_loss_schedule"]
    found = [full * (loss(full, schedule, t) - without) / (with_it - without) for t in case.arrays["t"].tolist()]
    return {"expect/weight": np.array(found)}


def occlusion(case: Case) -> Results:
    meta, levels = case.meta, case.arrays["levels"].tolist()
    grid, mode = meta["grid"], meta["mode"]
    if mode == "random":
        return {"expect/count": np.array([masks.dropped_count(level, grid**2) for level in levels])}
    pixels, attention = case.arrays["x"], case.arrays["attention"]
    images = ArrayImages("golden", [str(i) for i in range(len(pixels))], [0] * len(pixels), ["0"], pixels)
    readout = nn.Linear(pixels[0].size, READOUTS, bias=False)
    weights = np.random.RandomState(meta["readout_seed"]).standard_normal((pixels[0].size, READOUTS))
    readout.weight.data = torch.from_numpy(weights.T.copy()).float()
    net: Any = nn.Sequential(nn.Flatten(), readout).eval()
    net.mean, net.std = IMAGENET["mean"], IMAGENET["std"]
    got = sweep.sweep(
        net,
        images,
        lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
        masks.settings([mode], levels, 1),
        grid=grid,
        saliency=lambda x, ids: (attention[[int(i) for i in ids]], (grid, grid)),
        device=torch.device("cpu"),
        workers=0,
    )
    chosen = masks.salient_masks if mode == "salient" else masks.nonsalient_masks
    return {"expect/mask": chosen(attention, levels), "expect/predictions": got.predictions[:, 1:]}


def metric(case: Case) -> Results:
    meta = case.meta
    function = getattr(metrics, meta["metric"])
    return {"expect/value": function(*(case.arrays[name] for name in meta["arguments"]), **meta["options"])}


def class_map(case: Case) -> Results:
    every = models.imagenet_classes()
    places = [every.index(wnid) for wnid in layouts.wnids(case.meta["set"])]
    return {"expect/index": np.array(places)[case.arrays["rows"]]}


def transform(case: Case) -> Results:
    image = to_image(torch.from_numpy(case.arrays["image"]).permute(2, 0, 1))
    pixels = eval_transform("published", case.meta["size"])(image).permute(1, 2, 0).long()
    got = {"pixels": pixels[::PIXEL_STEP, ::PIXEL_STEP], "row_sum": pixels.sum(1), "column_sum": pixels.sum(0)}
    return under("expect", got)


def mce(case: Case) -> Results:
    arrays = {key: case.arrays[key] for key in ("labels", "predictions", "severity")}
    arrays["corruption"] = np.array(case.meta["corruptions"])[case.arrays["corruption"]]
    arrays["ids"] = np.array([f"{i:04d}" for i in range(len(arrays["labels"]))])
    return {"expect/mce": imagenet_c.PROTOCOL.evaluate(arrays).metrics["mce"]}


def logits(case: Case) -> Results:
    with torch.no_grad():
        return {"expect/logits": network_of(case.meta)(torch.from_numpy(case.arrays["x"])).logits}


def under(prefix: str, values: Results) -> Results:
    return {f"{prefix}/{key}": value for key, value in values.items()}


KINDS = {
    "class_map": class_map,
    "logits": logits,
    "mask_weight": mask_loss_weight,
    "mce": mce,
    "metric": metric,
    "mix": mix,
    "occlusion": occlusion,
    "steps": steps,
    "transform": transform,
}


def results(case: Case) -> Results:
    """evalkit's values, by the keys of the case."""
    return KINDS[case.meta["kind"]](case)
