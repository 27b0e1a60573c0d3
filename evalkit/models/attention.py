"""Where each family of timm models lets its class token attend to the image, and a tap that reads that one row of
attention.

A tap listens to the outputs of the two layers that give an attention module its queries and keys, so the module itself
stays on the fused kernel and no tokens x tokens matrix is made. For the query of the class token and the keys of all
tokens, per head: A = softmax(q k^T * scale) in float32, before attention dropout.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from timm.layers import Attention
from timm.models.cait import Cait, ClassAttn
from timm.models.vision_transformer import VisionTransformer
from timm.models.xcit import Xcit
from torch import Tensor, nn

from ..errors import EvalkitError
from .ca_swin import ClassAttentionSwin
from .pvt import PyramidVisionTransformer, SpatialReductionAttention

SUPPORTED = "vit_* and deit* with a class token, cait_*, xcit_*, ca_swin_*, pvt_tiny, pvt_small, pvt_medium, pvt_large"


class Tap:
    """Keeps queries and keys of one forward pass. Does nothing while `on` is False.

    Args:
        query: The layer that gives the queries.
        key: The layer that gives the keys.
        heads: Attention heads.
        scale: What their products are multiplied by.
        whole: Whether all queries are kept, not the class token's alone.
    """

    def __init__(self, query: nn.Module, key: nn.Module, heads: int, scale: float, whole: bool = False):
        self.heads, self.scale = heads, scale
        self.whole = whole
        self.on = False
        self.query: Tensor | None = None
        self.key: Tensor | None = None
        query.register_forward_hook(self._keep_query)
        key.register_forward_hook(self._keep_key)

    def _keep_query(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if self.on and self.query is None:
            queries = self._split(out.detach(), out.shape[-1])
            self.query = queries if self.whole else queries[:, :, :1]

    def _keep_key(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if self.on and self.key is None and self.query is not None:
            self.key = self._split(out.detach(), self.query.shape[1] * self.query.shape[-1])

    def _split(self, out: Tensor, width: int) -> Tensor:
        """(B, heads, T, d) of a layer's output: already split, or the first `width` channels of (B, C) or (B, T, C)."""
        if out.ndim == 4:
            return out
        return out[..., :width].reshape(out.shape[0], -1, self.heads, width // self.heads).transpose(1, 2)

    def listen(self) -> None:
        self.on = True

    def take_pair(self) -> tuple[Tensor, Tensor]:
        """Queries (B, heads, 1 or T, d) and keys (B, heads, T, d) of the pass just run, which is forgotten.

        Raises EvalkitError if the tapped layers did not run."""
        if self.query is None or self.key is None:
            raise EvalkitError(
                "the attention block asked for did not run in this forward pass, so there is no class attention; ask"
                " for another block"
            )
        pair = self.query, self.key
        self.query = self.key = None
        return pair

    def take(self) -> Tensor:
        """(B, heads, T) float32 attention of the class token to all tokens in the pass just run, which is forgotten."""
        query, key = self.take_pair()
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            return (query.float() * self.scale @ key.float().transpose(-2, -1)).softmax(-1)[:, :, 0]

    def received(self, prefix: int) -> Tensor | None:
        """(B, N) float32: how much attention each token after the first `prefix` gets from those tokens, mean over them
        and over heads, in the pass just run with `whole`, which is forgotten. None where only the class token asks. One
        head's matrix at a time is made."""
        query, key = self.take_pair()
        if query.shape[2] != key.shape[2]:
            return None
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            heads = zip(query[:, :, prefix:].unbind(1), key.unbind(1), strict=True)
            columns = [(q.float() * self.scale @ k.float().transpose(1, 2)).softmax(2).mean(1) for q, k in heads]
            return torch.stack(columns).mean(0)[:, prefix:]

    def stop(self) -> None:
        self.on = False
        self.query = self.key = None


def install_tap(model: nn.Module, block: int | None = None) -> Tap:
    """Install a tap on a block. Raises EvalkitError for models without class attention and for blocks that do not
    exist.

    Args:
        model: The timm model.
        block: Counted from 1 among the blocks the class token runs through; None: the last.
    """
    modules = list(class_attention_modules(model))
    if block is not None and not 1 <= block <= len(modules):
        raise EvalkitError(
            f"block {block} asked for, but {_name(model)} has class attention in blocks 1 to {len(modules)}"
        )
    return tap_on(modules[-1 if block is None else block - 1])


def tap_on(attn: Any, whole: bool = False) -> Tap:
    """A tap on an attention module.

    Args:
        attn: One of `class_attention_modules`.
        whole: Whether all queries are kept, not the class token's alone.
    """
    # q_norm and k_norm run in every forward pass; they are nn.Identity in models without qk-norm
    if isinstance(attn, Attention):
        return Tap(attn.q_norm, attn.k_norm, attn.num_heads, attn.scale, whole)
    return Tap(attn.q, attn.k if isinstance(attn, ClassAttn) else attn.kv, attn.num_heads, attn.scale)


def class_attention_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The attention modules in which the class token attends to the patches, first to last; EvalkitError if `model` has
    none."""
    for family, (module_type, find) in FAMILIES.items():
        if isinstance(model, family):
            modules = find(model)
            if all(type(m) is module_type for m in modules):
                return iter(modules)
            odd = next(type(m).__name__ for m in modules if type(m) is not module_type)
            raise _none(model, f"its attention is of type {odd}")
    raise _none(model, f"{type(model).__name__} has no class token that attends to patches")


def has_class_attention(model: nn.Module) -> bool:
    """Whether the network's class attention can be read."""
    try:
        class_attention_modules(model)
    except EvalkitError:
        return False
    return True


def _vision_transformer(model: Any) -> list[nn.Module]:
    if model.cls_token is None:
        raise _none(model, "it has no class token")
    if model.global_pool not in ("token", ""):
        raise _none(model, f"its classifier pools with '{model.global_pool}' and does not read the class token")
    if not isinstance(model.patch_drop, nn.Identity):
        raise _none(model, "patch_drop_rate > 0 drops patches, so attention does not map onto the image")
    return [getattr(block, "attn", block) for block in model.blocks]


# model class -> (the one type of attention module that is understood, where these modules are)
FAMILIES: dict[type[nn.Module], tuple[type[nn.Module], Callable[[Any], list[nn.Module]]]] = {
    VisionTransformer: (Attention, _vision_transformer),
    Cait: (ClassAttn, lambda model: [block.attn for block in model.blocks_token_only]),
    Xcit: (ClassAttn, lambda model: [block.attn for block in model.cls_attn_blocks]),
    ClassAttentionSwin: (ClassAttn, lambda model: [model.class_block.attn]),
    PyramidVisionTransformer: (SpatialReductionAttention, lambda model: [block.attn for block in model.block4]),
}


def token_grid(model: nn.Module, size: Sequence[int], tokens: int) -> tuple[int, int]:
    """(rows, columns) of patch tokens: the size over the model's stride, rounded down, or up where the patch embedding
    pads. Raises EvalkitError if neither gives that many tokens.

    Args:
        model: The timm model.
        size: H and W of the input.
        tokens: How many patch tokens it gave.
    """
    info = getattr(model, "feature_info", None)
    stride = info[-1]["reduction"] if info else 1
    for grid in ((size[0] // stride, size[1] // stride), (-(-size[0] // stride), -(-size[1] // stride))):
        if grid[0] * grid[1] == tokens:
            return grid
    raise EvalkitError(
        f"{_name(model)} gives {tokens} tokens for an input of {size[0]} x {size[1]} pixels, which are no grid of"
        f" stride {stride}"
    )


def _name(model: nn.Module) -> str:
    return f"model '{(getattr(model, 'pretrained_cfg', None) or {}).get('architecture') or type(model).__name__}'"


def _none(model: nn.Module, why: str) -> EvalkitError:
    return EvalkitError(f"{_name(model)} has no class attention: {why}. Models that have it: {SUPPORTED}.")
