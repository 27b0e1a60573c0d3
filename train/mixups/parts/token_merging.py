"""Token merging in a plain ViT (Bolya et al., ICLR 2023, arXiv 2210.09461): similar tokens become one as they go
through the blocks."""

from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.attention import class_attention_modules
from evalkit.models.network import frozen_statistics


def merge_schedule(total: int, depth: int) -> list[int]:
    """How many tokens each block merges away: three times as many in the first as in the last, evenly in between.

    The rounded schedule whose sum is closest to `total`; what it misses falls to the first block, which never merges
    less than none.

    Args:
        total: Tokens that all blocks merge away together.
        depth: How many blocks there are.
    """
    if depth == 1:
        return [total]
    schedules = []
    for mean in range(max(total, 1)):
        first = int(1.5 * mean)
        schedules.append([int(first - 2 * (first - mean) / (depth - 1) * i) for i in range(depth)])
    best = min(schedules, key=lambda s: abs(sum(s) - total))  # the first of equals
    return [max(best[0] + total - sum(best), 0), *best[1:]]


def match(keys: Tensor, count: int) -> Tensor:
    """(B, T) index of each token's place among the tokens that are left.

    Tokens 0, 2, 4 ... each look for the most similar (cosine) of tokens 1, 3, 5 ...; the `count` most similar pairs
    merge, the class token never. Left are, in this order, those of 0, 2, 4 ... that did not merge, and all of 1, 3, 5
    ...

    Args:
        keys: (B, T, d), the class token first.
        count: Pairs that merge.
    """
    keys = F.normalize(keys, dim=-1)
    similarity = keys[:, ::2] @ keys[:, 1::2].mT
    similarity[:, 0] = -torch.inf
    best, partner = similarity.max(-1)
    order = best.argsort(dim=1, descending=True, stable=True)
    merged, kept = order[:, :count], order[:, count:].sort(1).values
    even = torch.empty_like(order)
    even.scatter_(1, kept, torch.arange(kept.shape[1], device=keys.device).expand_as(kept))
    even.scatter_(1, merged, kept.shape[1] + partner.gather(1, merged))
    place = even.new_empty(keys.shape[:2])
    place[:, ::2] = even
    place[:, 1::2] = kept.shape[1] + torch.arange(keys.shape[1] // 2, device=keys.device)
    return place


def merge(tokens: Tensor, size: Tensor, place: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """Tokens merged into fewer, averages weighted by size, and the new sizes.

    Args:
        tokens: (B, T, D).
        size: Patches that each stands for, (B, T, 1).
        place: Index of each one's new place, (B, T).
        left: How many places there are.
    """
    members = (place[:, None] == torch.arange(left, device=place.device)[:, None]).to(tokens.dtype)  # (B, left, T)
    total = members @ size
    return members @ (tokens * size) / total, total


def plain_blocks(model: VisionTransformer, block: int | None = None) -> list[Block]:
    """The blocks of a ViT up to `block` (1-based, None = the last). Raises EvalkitError for anything but a ViT with a
    class token only.

    Args:
        model: A timm ViT.
        block: The last one, counted from 1; None: all.
    """
    plain = isinstance(model, VisionTransformer) and any(class_attention_modules(model))
    blocks = [b for b in model.blocks if isinstance(b, Block)] if plain else []
    if not blocks or model.num_prefix_tokens != 1 or not all(type(b) is Block for b in model.blocks):
        raise EvalkitError(
            "tokens are merged in plain vit_* and deit_* models only, with a class token and neither registers nor a"
            " distillation token"
        )
    if block is not None and block > len(blocks):
        raise EvalkitError(f"block {block} asked for, but the model has blocks 1 to {len(blocks)}")
    return blocks[:block]


@torch.no_grad()
def merged_attention(model: VisionTransformer, x: Tensor, share: float, block: int | None = None) -> Tensor:
    """(B, N) float32 attention of each patch to the class token, summed over heads, in a pass that merges patches;
    merged patches have the same value. A token of size s weighs s times in attention.

    Dropout and stochastic depth as the model's mode says, batch-norm statistics untouched.

    Args:
        model: A timm ViT.
        x: Normalised images (B, C, H, W).
        share: Share of the N patches that all blocks together merge away.
        block: Whose attention it is, counted from 1; None: the last.
    """
    blocks = plain_blocks(model, block)
    with frozen_statistics(model):
        x = x.to(next(model.parameters()).dtype)
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        size = tokens.new_ones(*tokens.shape[:2], 1)
        place = torch.arange(tokens.shape[1], device=x.device).expand(len(x), -1)
        schedule = merge_schedule(round(share * (tokens.shape[1] - 1)), len(model.blocks))
        for layer, count in zip(blocks, schedule, strict=False):
            attn: Any = layer.attn
            u = layer.norm1(tokens)
            q, k, v = attn.qkv(u).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            q, k = attn.q_norm(q), attn.k_norm(k)
            rows = (q * attn.scale @ k.mT + size.log()[:, None, None, :, 0]).softmax(-1)
            if layer is blocks[-1]:
                return rows.sum(1)[:, :, 0].float().gather(1, place)[:, 1:]
            out = attn.norm((attn.attn_drop(rows).to(v.dtype) @ v).transpose(1, 2).flatten(2))
            out = out if attn.gate is None else out * attn.gate(u).sigmoid()
            tokens = tokens + layer.drop_path1(layer.ls1(attn.proj_drop(attn.proj(out))))
            count = min(count, (tokens.shape[1] - 1) // 2)
            with torch.autocast(x.device.type, enabled=False):
                now = match(k.float().mean(1), count)
                tokens, size = merge(tokens.float(), size.float(), now, tokens.shape[1] - count)
            place, tokens = now.gather(1, place), tokens.to(x.dtype)
            tokens = tokens + layer.drop_path2(layer.ls2(layer.mlp(layer.norm2(tokens))))
    raise AssertionError("the last block returns")
