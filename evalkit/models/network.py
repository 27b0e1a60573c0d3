"""A timm classifier that also answers for its class attention, features, input saliency and feature map."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import EvalkitError, unknown
from .attention import Tap, has_class_attention, install_tap, token_grid
from .build import build
from .output import Output as Output
from .rollout import Rollout, RolloutTap, install_rollout

INPUT = ("", "input")  # names of the layer before the first: the image itself
# what the head reads, as timm calls the function that makes it; no layer can have this name
FEATURES = "forward_features"


class Slot:
    """A forward hook that replaces a layer's output by `fn(output)` while `fn` is set."""

    def __init__(self, layer: nn.Module):
        self.fn: Callable[[Tensor], Tensor] | None = None
        self.runs = 0
        layer.register_forward_hook(self._apply)

    def _apply(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        if self.fn is None:
            return None
        self.runs += 1
        changed = self.fn(out)
        if not isinstance(changed, Tensor) or (isinstance(out, Tensor) and changed.shape[1:] != out.shape[1:]):
            given, was = (tuple(getattr(v, "shape", ())) or type(v).__name__ for v in (changed, out))
            raise EvalkitError(
                f"what is injected into a layer must give features like those it was given, {was}, not {given}"
            )
        return changed


class Network(nn.Module):
    """Wraps a timm classifier; `net.model` is the plain timm model and `net.model.state_dict()` what is exported.

    `prepare` installs what later passes will ask for and must come before `compile`; uncompiled, everything is
    installed when first asked for.

    Args:
        model: A timm classifier, `net.model` from then on.
        name: Of the architecture.
        input_size: H and W that it was built for; None: as its configuration says.
    """

    def __init__(self, model: Any, name: str, input_size: tuple[int, int] | None = None):
        super().__init__()
        cfg = getattr(model, "pretrained_cfg", None) or {}
        self.model = model  # timm's classifiers have no type in common that says what they can do
        self.name = name
        self.num_classes: int = self.model.num_classes
        _, height, width = cfg.get("input_size") or (3, 224, 224)
        self.input_size: tuple[int, int] = input_size or (height, width)
        self.mean: tuple[float, ...] = tuple(cfg.get("mean") or timm.data.IMAGENET_DEFAULT_MEAN)
        self.std: tuple[float, ...] = tuple(cfg.get("std") or timm.data.IMAGENET_DEFAULT_STD)
        # side in pixels of a patch of the attention grid; None for models without class attention
        self.patch_size: int | None = self.model.feature_info[-1]["reduction"] if has_class_attention(model) else None
        self._taps: dict[int | None, Tap] = {}  # key: block, None = last
        self._rollout: RolloutTap | None = None
        self._slots: dict[str, Slot] = {}
        self._compiled: Callable[..., Any] | None = None

    def forward(
        self,
        x: Tensor,
        *,
        attention: bool | int | str = False,
        features: bool = False,
        inject: tuple[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> Output:
        """Logits of normalised images `x` (B, C, H, W) and, from the same pass, what else is asked for.

        attention: True for the class attention of the last block, d for block d (1-based among the blocks the class
        token runs through), "rollout" for `Output.rollout` instead.
        inject: (layer, fn) replaces the output of that layer (a module path of the timm model, "input", or
        "forward_features" for what the head reads, which is not compiled) by fn(output). Raises EvalkitError for a
        model without class attention (or rollout), an unknown layer, or what `prepare` did not install before
        `compile`."""
        tap = self._wanted(attention)
        slot = None
        before_head = inject is not None and inject[0] == FEATURES
        if inject is not None:
            layer, fn = inject
            if layer in INPUT:
                x = fn(x)
            elif not before_head:
                slot = self._slot(layer)
                slot.fn, slot.runs = fn, 0
        try:
            logits, taken, tokens, distilled = (self._compiled or self._pass)(
                x, tap, features or before_head, not before_head
            )
            if before_head:
                tokens = fn(tokens)
                logits, tokens = self.model.forward_head(tokens), tokens if features else None
            if slot is not None and slot.runs != 1:
                raise EvalkitError(
                    f"layer '{layer}' of model '{self.name}' ran {slot.runs} times in the pass, not once; inject at"
                    " another layer"
                )
        finally:
            if tap is not None:
                tap.stop()
            if slot is not None:
                slot.fn = None
        if taken is None:
            return Output(logits, features=tokens, distilled=distilled)
        if isinstance(tap, RolloutTap):
            prefix = self.model.num_prefix_tokens
            grid = token_grid(self.model, x.shape[-2:], taken[0][1].shape[2] - prefix)
            return Output(
                logits,
                grid=grid,
                features=tokens,
                distilled=distilled,
                rollout=Rollout(taken, tap.taps[0].scale, prefix),
            )
        row = self._patches(taken.mean(1))
        return Output(
            logits, row, token_grid(self.model, x.shape[-2:], row.shape[1]), features=tokens, distilled=distilled
        )

    def _pass(
        self, x: Tensor, tap: Tap | RolloutTap | None, features: bool, head: bool = True
    ) -> tuple[Any, Any, Any, Tensor | None]:
        """Logits (none if not `head`), what the tap took, features, logits of the distillation head: the part that is
        compiled."""
        if tap is not None:
            tap.listen()
        if features:
            tokens = self._features(x)
            out = self.model.forward_head(tokens) if head else None
        else:
            tokens, out = None, self.model(x)
        logits, distilled = out if isinstance(out, tuple) else (out, None)
        return logits, None if tap is None else tap.take(), tokens, distilled

    def train_distilled(self) -> None:
        """From now on `logits` are those of the class head alone while training, and `Output.distilled` those of the
        distillation head; in evaluation `logits` stay the mean of both (DeiT, arXiv 2012.12877, section 4). Raises
        EvalkitError for a model without such a head."""
        if not hasattr(self.model, "set_distilled_training"):
            raise EvalkitError(
                f"model '{self.name}' has no distillation head; take one that has, such as"
                " deit_small_distilled_patch16_224"
            )
        self.model.set_distilled_training(True)

    def prepare(self, attention: bool | int | str = False, inject_layers: Sequence[str] = ()) -> None:
        """Install the tap and the injection points that later passes will ask for."""
        self._wanted(attention)
        for layer in inject_layers:
            if layer not in (*INPUT, FEATURES):
                self._slot(layer)

    def compile(self, **options: Any) -> None:
        """Run forward passes through torch.compile(**options); the modules stay as they are. A copy of the network is
        not compiled."""
        self._compiled = torch.compile(self._pass, **options)

    def class_attention(
        self, x: Tensor, *, block: int | None = None, head: int | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """(B, N) float32 class attention of `block` (None = last) and its grid, without gradients and statistics
        updates.

        head: 0-based index of one head; None = mean over heads. Raises EvalkitError for a block or head that does not
        exist."""
        tap = self._tap(block)
        if head is not None and not 0 <= head < tap.heads:
            raise EvalkitError(f"head {head} asked for, but model '{self.name}' has heads 0 to {tap.heads - 1}")
        try:
            with torch.no_grad(), frozen_statistics(self.model):
                rows = self._pass(self._as_parameters(x), tap, False)[1]
        finally:
            tap.stop()
        row = self._patches(rows.mean(1) if head is None else rows[:, head])
        return row, token_grid(self.model, x.shape[-2:], row.shape[1])

    def patch_attention(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Logits (B, K), and (B, N) float32 how much attention each patch gets from the patches in the last block, mean
        over them and over heads, with its grid; without gradients and statistics updates.

        Raises EvalkitError for a model without class attention and for one in whose last block only the class token
        attends to others."""
        tap = self._tap(None)
        tap.on = tap.whole = True
        try:
            with torch.no_grad(), frozen_statistics(self.model):
                logits = self.model(self._as_parameters(x))
            received = tap.received(self._prefix)
        finally:
            tap.whole = False
            tap.stop()
        if received is None:
            raise EvalkitError(
                f"in the last block of model '{self.name}' patches do not attend to one another; take a vit_*, deit* or"
                " pvt_* model"
            )
        return logits, received, token_grid(self.model, x.shape[-2:], received.shape[1])

    def saliency(self, x: Tensor, y: Tensor, criterion: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """(B, H, W) input-gradient magnitude sqrt(mean_c (d loss / d x)^2), float32, detached.

        `criterion(logits, y)` gives a scalar; default cross-entropy summed over images, for labels (B,) or class shares
        (B, K). Parameters' gradients, batch-norm statistics and modes stay untouched. The pass is in float32; under
        autocast on a GPU that has bfloat16 it is in that, whose range is float32's (in float32 it costs more than the
        training step). Source: PuzzleMix (arXiv 2009.06962), section 3."""
        # no cache: one of weights in bfloat16 would be taken for one in float16 afterwards
        half = torch.autocast(x.device.type, torch.bfloat16, half_saliency(x.device), cache_enabled=False)
        with torch.enable_grad(), half, frozen_statistics(self.model):
            x = self._as_parameters(x).detach().requires_grad_()
            logits = self._pass(x, None, False)[0]
            loss = F.cross_entropy(logits, y, reduction="sum") if criterion is None else criterion(logits, y)
            (gradient,) = torch.autograd.grad(loss, x)
        return gradient.float().square().mean(1).sqrt()

    @torch.no_grad()
    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, h, w) last feature map before the head (patch tokens laid out on their grid), without gradients and
        statistics updates."""
        with frozen_statistics(self.model):
            features = self._features(self._as_parameters(x))
        if features.ndim == 4:
            return (
                features.permute(0, 3, 1, 2).contiguous()
                if getattr(self.model, "output_fmt", "NCHW") == "NHWC"
                else features
            )
        tokens = self._patches(features)
        grid = token_grid(self.model, x.shape[-2:], tokens.shape[1])
        return tokens.transpose(1, 2).unflatten(2, grid).contiguous()

    def _as_parameters(self, x: Tensor) -> Tensor:
        """Images in the precision of the weights, not in the one that a training loop keeps them in."""
        return x.to(next(self.model.parameters()).dtype)

    def _features(self, x: Tensor) -> Tensor:
        features = self.model.forward_features(x)
        if not isinstance(features, Tensor):
            raise EvalkitError(
                f"model '{self.name}' hands several feature tensors to its head, so it has no features or feature map;"
                " take another model"
            )
        return features

    @property
    def _prefix(self) -> int:
        """How many tokens (class, distillation, registers) come before those of the patches."""
        has_class_token = getattr(self.model, "cls_token", None) is not None
        return getattr(self.model, "num_prefix_tokens", int(has_class_token))

    def _patches(self, tokens: Tensor) -> Tensor:
        """Drop the columns of the prefix tokens."""
        return tokens[:, self._prefix :]

    def _wanted(self, attention: bool | int | str) -> Tap | RolloutTap | None:
        """What listens for the `attention` that `forward` was asked for."""
        if isinstance(attention, str):
            if attention != "rollout":
                raise EvalkitError(f"`attention` is a block, True or 'rollout', but got {attention!r}")
            return self._rollout_tap()
        return None if attention is False else self._tap(None if attention is True else attention)

    def _tap(self, block: int | None) -> Tap:
        if block not in self._taps:
            what = "class attention of " + ("the last block" if block is None else f"block {block}")
            self._must_not_be_compiled(what, f"attention={True if block is None else block}")
            self._taps[block] = install_tap(self.model, block)
        return self._taps[block]

    def _rollout_tap(self) -> RolloutTap:
        if self._rollout is None:
            self._must_not_be_compiled("attention rollout", "attention='rollout'")
            self._rollout = install_rollout(self.model)
        return self._rollout

    def _slot(self, layer: str) -> Slot:
        if layer not in self._slots:
            layers = dict(self.model.named_modules())
            if layer not in layers:
                raise unknown("layer", layer, ["input", FEATURES, *filter(None, layers)])
            self._must_not_be_compiled(f"injection at layer '{layer}'", f"inject_layers=['{layer}']")
            self._slots[layer] = Slot(layers[layer])
        # the second run, in backward, would not inject
        if any(getattr(m, "grad_checkpointing", False) for m in self.model.modules()):
            raise EvalkitError(f"injection at layer '{layer}' does not work with gradient checkpointing; switch it off")
        return self._slots[layer]

    def _must_not_be_compiled(self, what: str, argument: str) -> None:
        if self._compiled is not None:
            raise EvalkitError(f"{what} was not prepared before compile(); call prepare({argument}) first")

    def __getstate__(self) -> dict[str, Any]:
        # a compiled function is bound to this network, so a copy must not share it
        return self.__dict__ | {"_compiled": None}


def half_saliency(device: torch.device) -> bool:
    """Whether input gradients are taken in bfloat16: where mixed precision is on, and the GPU is quicker in it."""
    mixed = device.type == "cuda" and torch.is_autocast_enabled("cuda")
    return mixed and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch-norm layers neither update their running statistics nor count batches; in training mode they still
    normalise by the batch."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def create(name: str, *, num_classes: int | None = None, pretrained: bool = False, **model_args: Any) -> Network:
    """Network around an architecture of timm or evalkit.

    Args:
        name: Of the architecture, with a tag of its weights or without.
        num_classes: How many classes it tells apart; None: as it was published.
        pretrained: Whether its published weights are fetched.
        model_args: Arguments of its constructor.

    Raises EvalkitError, naming the closest match, for an unknown model, tag or argument, and when pretrained weights
    cannot be fetched.
    """
    model = build(name, num_classes=num_classes, pretrained=pretrained, **model_args)
    size = model_args.get("img_size")
    return Network(model, name, None if size is None else (size, size) if isinstance(size, int) else tuple(size))


def list_models() -> list[str]:
    """Names of all architectures, timm's and ours."""
    return timm.list_models()
