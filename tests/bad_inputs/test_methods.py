"""A user's own method that gives something else than it should: one line in training, in somebody's own loop, in the
preview and in the timing."""

import random
import sys
import types

import numpy as np
import pytest
import torch

from evalkit import models, robustness
from evalkit.cli import invoke
from evalkit.errors import own_code
from evalkit.train import Context, create, train_step
from evalkit.train.mixups.base import Mixed, MixMethod, pair_weights

from .cases import Case
from .make import folders, splits, training

KIND = "A user's own method"
X = torch.zeros(4, 3, 8, 8)
Y = torch.tensor([0, 1, 1, 0])


def own(**functions) -> type[MixMethod]:
    """A class of these functions, with a `mix` that mixes nothing."""
    plain = {"mix": lambda self, ctx, x, y, net: Mixed(x, torch.eye(len(x)))}
    return type("Mine", (MixMethod,), plain | functions)


def mixes(make) -> type[MixMethod]:
    """Its `mix` gives make(images, identity)."""
    return own(mix=lambda self, ctx, x, y, net: make(x, torch.eye(len(x))))


def spoil(x, weights):
    x.mul_(0.5)
    return Mixed(x, weights)


def relabel(self, ctx, x, y, net):
    y.zero_()
    return Mixed(x, torch.eye(len(x)))


def gives(value):
    return lambda self, *others: value


MIXES = {
    "weights of shape (B,)": (lambda x, w: Mixed(x, w[0]), r"label weights must be \(M, B\)"),
    "weights as a list": (lambda x, w: Mixed(x, [1.0] * len(x)), "`Mixed.weights` is list"),
    "weights as an array": (lambda x, w: Mixed(x, w.numpy()), "`Mixed.weights` is ndarray"),
    "weights that are integers": (lambda x, w: Mixed(x, w.long()), "torch.int64 for 4 images"),
    "weights that are NaN": (lambda x, w: Mixed(x, w / 0), "not finite"),
    "weights below 0": (lambda x, w: Mixed(x, 1.5 * w - 0.5 * w.flip(0)), "down to -0.5, which are shares"),
    "weights on another device": (lambda x, w: Mixed(x, w.to("meta")), "weights on meta; the batch is on cpu"),
    "rows that add up to 0.5": (lambda x, w: Mixed(x, w / 2), "adds up to 0.5 instead of 1"),
    "images of other sizes": (lambda x, w: Mixed(x[..., ::2], w), "must give images like those of the batch"),
    "images of one channel": (lambda x, w: Mixed(x[:, :1], w), "must give images like those of the batch"),
    "images in double precision": (lambda x, w: Mixed(x.double(), w), "must give images like those of the batch"),
    "images on another device": (lambda x, w: Mixed(x.to("meta"), w), "must give images like those of the batch"),
    "images that are integers": (lambda x, w: Mixed(x.byte(), w), "`Mixed.x` must be a tensor of floats"),
    "images that are NaN": (lambda x, w: Mixed(x / 0 * 0, w), "pixels are not finite"),
    "images as an array": (lambda x, w: Mixed(x.numpy(), w), "`Mixed.x` must be .* but is ndarray"),
    "no image at all": (lambda x, w: Mixed(x[:0], w[:0]), "M at least 1"),
    "a batch changed in place": (spoil, "changed the batch that it was given in place"),
    "nothing at all": (lambda x, w: None, r"must return Mixed\(x, weights\), but gave NoneType"),
    "a pair instead of a Mixed": (lambda x, w: (x, w), r"must return Mixed\(x, weights\), but gave tuple"),
    "a mask of another size": (lambda x, w: Mixed(x, w, x[:, :1, :3, :3]), r"a mask must be \(4, 1, "),
    "a mask of 7": (lambda x, w: Mixed(x, w, 0 * x[:, :1] + 7), "a mask from 7 to 7, which is a share"),
    "partners beyond the batch": (lambda x, w: Mixed(x, w, None, torch.arange(4) + 99), "partners from 99 to 102"),
    "partners that are floats": (lambda x, w: Mixed(x, w, None, w[0]), r"partners must be \(4,\) integers"),
}
OTHERS = {
    "labels changed in place": ({"mix": relabel}, "changed the batch that it was given in place"),
    "weights of one row, by relabel": ({"relabel": gives(torch.eye(4)[:1])}, r"of shape \(4, 4\), .* gave \(1, 4\)"),
    "no weights, by relabel": ({"relabel": gives(None)}, "the label weights of Mine.relabel .* but is NoneType"),
    "weights that are integers, by relabel": ({"relabel": gives(torch.eye(4).long())}, "must be a tensor of floats"),
    "weights below 0, by relabel": ({"relabel": gives(2 * torch.eye(4) - torch.eye(4).flip(0))}, "down to -1"),
    "no loss": ({"loss": gives(None)}, "must give one number .* but gave NoneType"),
    "a loss for each image": ({"loss": lambda s, c, x, y, m, out, n: out.logits.sum(1)}, r"one number .* gave \(4,\)"),
    "a constant as loss": ({"loss": gives(torch.tensor(1.0))}, "depends on the network's output, but gave a constant"),
    "no method, by pick": ({"pick": gives(None)}, "pick must return a method, but gave NoneType"),
}


def stepped(folder, cls):
    """A step in somebody's own loop."""

    def net(x, **asked):
        return types.SimpleNamespace(logits=x.mean((2, 3)) * torch.ones(3, requires_grad=True))

    return str(train_step(Context.simple(3, np.random.default_rng(0)), net, cls(), X.clone(), Y.clone()))


def named(monkeypatch, cls):
    """The class as `module:Class`."""
    module = types.ModuleType("own_methods")
    module.Mine = cls
    monkeypatch.setitem(sys.modules, "own_methods", module)
    return "own_methods:Mine"


def created(folder, cls):
    with pytest.MonkeyPatch.context() as patch:
        return str(create(named(patch, cls)))


def init(self):
    self.alpha = 1


CASES = [Case(f"{name}, own loop", stepped, says=says, argument=mixes(make)) for name, (make, says) in MIXES.items()]
CASES += [Case(f"{name}, own loop", stepped, says=says, argument=own(**how)) for name, (how, says) in OTHERS.items()]
CASES += [
    Case("a method without mix", created, says="has no `mix`", argument=type("Mine", (MixMethod,), {})),
    Case("a mix of other arguments", created, says="must take .self, ctx", argument=own(mix=lambda self, x, y: None)),
    Case("an __init__ without super", created, says=r"must begin with super\(\)", argument=own(__init__=init)),
]


def trained(folder, cls):
    splits(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        spec = named(patch, cls)
        choice = f"mixup={{choice: [{{name: '{spec}', prob: 1.0}}]}}"
        words = [word for word in training(folder / "data") if not word.startswith("mixup=")]
        return invoke([*words, choice])


def shown(folder, cls):
    with pytest.MonkeyPatch.context() as patch:
        return invoke(["mixup", "preview", "--methods", named(patch, cls), "--out", str(folder / "sheet.png")])


def timed(folder, cls):
    words = ["--batch", "4", "--size", "32", "--repeats", "1", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        return invoke(["mixup", "bench", "--methods", named(patch, cls), *words])


def breaks(self, ctx, x, y, net):
    return {}["a key that is not there"]


class Foreign(MixMethod):
    def param_groups(self):
        return [{"params": [torch.ones(1)]}]

    mix = own().mix


EVERYWHERE = {
    "rows that add up to 0.5": (mixes(MIXES["rows that add up to 0.5"][0]), "adds up to 0.5"),
    "nothing at all": (mixes(MIXES["nothing at all"][0]), "must return Mixed"),
    "no method, by pick": (own(pick=gives(None)), "pick must return a method"),
    "what is made of an image is no tensor": (own(loader_extras={"a": lambda image, rng: 3}), "must give a tensor"),
    "a mistake in its own code": (own(mix=breaks), r"KeyError: .*\(test_methods.py, line \d+, in breaks\)"),
}
CASES += [
    Case(f"{name}, {command}", meet, says=says, argument=cls)
    for name, (cls, says) in EVERYWHERE.items()
    for command, meet in (("train, in a choice", trained), ("mixup preview", shown), ("mixup bench", timed))
]


def blends(draw, net=None):
    """A mixup whose lambda is drawn so, and which does this to the network before."""

    def mix(self, ctx, x, y, network):
        if net is not None:
            net(network)
        lam, partner = draw(ctx), torch.arange(len(x)).flip(0)
        return Mixed(lam * x + (1 - lam) * x[partner], pair_weights(lam, partner))

    return own(mix=mix)


def fixed(ctx):
    return 0.3


def other_classes(self, net):
    return models.create("vit_nano_patch4_32", num_classes=5, depth=1, embed_dim=32, num_heads=2)


def injects(change):
    mix = lambda self, ctx, x, y, net: Mixed(x, torch.eye(len(x)), inject=("blocks.0", change))  # noqa: E731
    return own(mix=mix, inject_layers=("blocks.0",))


def leaves(self, ctx, x, y, net):
    raise SystemExit(0)


def detached(self, ctx, x, y, mixed, out, net):
    return ctx.criterion(out.logits.detach(), ctx.target(y)) + torch.zeros(1, requires_grad=True).sum()


CASES += [
    Case(f"{name}, train", trained, says=says, argument=cls)
    for name, (cls, says) in {
        "draws from `random`": (blends(lambda ctx: random.random()), "draws from `random`, which no run sets"),
        "draws from `numpy.random`": (blends(lambda ctx: np.random.beta(1, 1)), "draws from `numpy.random`"),
        "the network left in evaluation mode": (blends(fixed, lambda net: net.eval()), "another mode than it was in"),
        "the network frozen": (blends(fixed, lambda net: net.requires_grad_(False)), "froze the network"),
        "a head of other classes, by setup": (
            own(setup=lambda self, net: net.model.reset_classifier(3)),
            "other classes",
        ),
        "other classes to evaluate": (own(eval_network=other_classes), "a network of other classes than the 2"),
        "a loss without the network": (own(loss=detached), "depends on no weight of the network"),
        "row_sum that is text": (own(row_sum="any"), "`row_sum` is a number, or None"),
        "attention of a name": (own(attention="foo"), "`attention` is a block, True or 'rollout'"),
        "an injection of nothing": (injects(lambda tokens: None), "must give features like those"),
        "an injection of fewer tokens": (injects(lambda tokens: tokens[:, :3]), "must give features like those"),
        "an end of the program": (own(mix=leaves), "code of yours ended the program"),
    }.items()
]


def wrapped(folder, fn):
    """A user's function under a robustness protocol."""
    mine = models.wrap(fn, name="mine", classes=["a", "b"], version="1", input_size=32)
    cfg = robustness.PROTOCOLS["imagenet-val"].config(
        data=str(folders(folder / "images")), out=str(folder / "out"), workers=0, device="cpu"
    )
    try:
        return str(robustness.run("imagenet-val", [mine], cfg))
    finally:
        assert not list(folder.glob("out/results.jsonl"))


def two(x):
    return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)


def normed():
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.5))
    return lambda x: two(network(x))


CASES += [
    Case(f"a function that gives {what}", wrapped, says=says, argument=fn)
    for what, (fn, says) in {
        "integers": (lambda x: two(x).long(), "logits that are floats, but gave torch.int64"),
        "truth values": (lambda x: two(x) > 0, "logits that are floats, but gave torch.bool"),
        "complex numbers": (lambda x: two(x).to(torch.complex64), "logits that are floats"),
        "random numbers": (lambda x: torch.rand(len(x), 2), "other logits for the same images"),
        "what depends on the batch": (lambda x: two(x) - two(x).mean(0), "other logits for the same images"),
        "what a network in training mode gives": (normed(), "in training mode"),
        "logits of changed images": (lambda x: two(x.mul_(0.5)), "changes the images that it is given in place"),
        "another number of classes": (lambda x: two(x)[:, :1], "one column per class"),
        "NaN": (lambda x: two(x) * float("nan"), "output is not finite"),
        "nothing": (lambda x: None, "but gave NoneType"),
    }.items()
]
CASES += [
    Case("parameters that are none of its own, train", trained, says="no checkpoint would keep", argument=Foreign),
    Case("no network to evaluate, train", trained, says="eval_network", argument=own(eval_network=gives(None))),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input(case, tmp_path):
    case.check(tmp_path)


def test_weights_of_other_precision_train_the_same():
    losses = {
        dtype: stepped(None, mixes(lambda x, w, dtype=dtype: Mixed(x, w.to(dtype))))
        for dtype in (torch.float32, torch.float64, torch.float16)
    }
    assert len(set(losses.values())) == 1


def test_fewer_mixed_images_than_sources(tmp_path):
    assert trained(tmp_path, mixes(lambda x, w: Mixed(x[:1], w[:1]))) == (0, "")
    with np.load(tmp_path / "run" / "mixed.npz") as file:
        assert file["weights"].shape == (4, 4)


def test_only_the_users_code_is_named():
    def mine():
        int("x")

    try:
        mine()
    except ValueError as e:
        assert own_code(e).startswith("test_methods.py, line ") and own_code(e).endswith("in mine")
    try:
        create("mixup", alpha="x")
    except ValueError as e:
        assert "test_methods.py" in own_code(e)  # who called it
        e.__traceback__ = e.__traceback__.tb_next
        assert own_code(e) is None
