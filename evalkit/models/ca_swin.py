"""Swin Transformer with a class-attention block (CA-Swin of TransMix, Chen et al., CVPR 2022, arXiv 2111.09833, section
4.5), in timm style.

Swin (Liu et al., ICCV 2021, arXiv 2103.14030) has no class token. Here the last window block of its last stage gives
way to a block in which a class token attends to all patches (as in CaiT) and which the classifier reads instead of the
average over patches: the same size and cost. Reconstructed from the published parameter and operation counts (28.3 M
and 4.2 G, 49.6 M and 8.5 G); there is no public code.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.layers import DropPath, Mlp, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from timm.models.cait import ClassAttn
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer import checkpoint_filter_fn as swin_filter_fn
from torch import Tensor, nn

from .common import Staged, build_staged, config, init_linear


class ClassBlock(nn.Module):
    """Attention of the class token to all tokens, then an MLP on the class token; only the class token changes. No bias
    by position.

    Args:
        dim: Channels of the tokens.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of the MLP per channel.
        proj_drop: Dropout after each projection.
        attn_drop: Dropout of the attention.
        drop_path: Rate of stochastic depth.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, proj_drop: float, attn_drop: float, drop_path: float
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ClassAttn(dim, num_heads, qkv_bias=True, attn_drop=attn_drop, proj_drop=proj_drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, patches: Tensor, token: Tensor) -> Tensor:
        """(B, N, D) patches and (B, 1, D) class token to the class token (B, 1, D)."""
        token = token + self.drop_path(self.attn(self.norm1(torch.cat([token, patches], dim=1))))
        return token + self.drop_path(self.mlp(self.norm2(token)))


class ClassAttentionSwin(Staged, SwinTransformer):
    """(B, in_chans, H, W) images to logits.

    The maps for dense tasks (`forward_intermediates`, `features_only`) are those before the class-attention block.

    Args:
        depths: Blocks of each stage; the class-attention block is the last one.
        num_heads: Attention heads of each stage.
        mlp_ratio: Hidden channels of the MLPs per channel.
        proj_drop_rate: Dropout after each projection.
        attn_drop_rate: Dropout of the attention.
        kwargs: As timm's SwinTransformer takes them.
    """

    converter_makes = ("cls_token",)  # from the file of a plain Swin, see `checkpoint_filter_fn`
    converter_leaves_out = ("relative_position_bias_table",)

    layers: Any  # timm's stages

    def __init__(
        self,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        mlp_ratio: float = 4.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        **kwargs: Any,
    ):
        kwargs |= {"proj_drop_rate": proj_drop_rate, "attn_drop_rate": attn_drop_rate}
        super().__init__(depths=depths, num_heads=num_heads, mlp_ratio=mlp_ratio, **kwargs)
        self.global_pool, self.num_prefix_tokens, self.output_fmt = "token", 1, "NLC"
        replaced = self.layers[-1].blocks[-1]
        self.layers[-1].blocks = self.layers[-1].blocks[:-1]
        drop_path = getattr(replaced.drop_path1, "drop_prob", 0.0)
        self.class_block = ClassBlock(
            self.num_features, num_heads[-1], mlp_ratio, proj_drop_rate, attn_drop_rate, drop_path
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.num_features))
        trunc_normal_(self.cls_token, std=0.02)
        for module in self.class_block.modules():
            init_linear(module)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {"cls_token"}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for `num_classes` classes (0: none). The class token is the only pooling there is."""
        if global_pool not in (None, "", "token"):
            raise ValueError(f"Expected argument `global_pool` to be None or 'token', but got {global_pool!r}")
        super().reset_classifier(num_classes)

    def read(self, x: Tensor) -> Tensor:
        """(B, h, w, D) output of the last stage to (B, 1 + h w, D) normalised tokens, the class token first."""
        patches = x.flatten(1, 2)
        token = self.class_block(patches, self.cls_token.expand(len(x), -1, -1))
        return self.norm(torch.cat([token, patches], dim=1))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 1 + N, D) normalised tokens, the class token first."""
        return self.read(self.layers(self.patch_embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.head.drop(x[:, 0])
        return x if pre_logits else self.head.fc(x)

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """(B, h, w, D) of each stage, the last without the class-attention block."""
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
            yield x

    def stage_map(self, i: int, out: Tensor, norm: bool) -> Tensor:
        return (self.norm(out) if norm and i == len(self.layers) - 1 else out).permute(0, 3, 1, 2).contiguous()

    def features_of(self, outs: Sequence[Tensor]) -> Tensor:
        return self.read(outs[-1])

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Keep what the maps `indices` need; without head there is nothing that reads the class token either."""
        kept = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if self.num_classes == 0:
            del self.class_block, self.cls_token
        return kept


def checkpoint_filter_fn(state_dict: dict[str, Any], model: ClassAttentionSwin) -> dict[str, Tensor]:
    """A state dict of this model or of a plain Swin, whose last block becomes the class-attention block: query, key and
    value apart, without its bias by position; the class token is then the model's own.

    Args:
        state_dict: The weights.
        model: The model that they go to.
    """
    state_dict = state_dict.get("model", state_dict)
    replaced = f"layers.{len(model.layers) - 1}.blocks.{len(model.layers[-1].blocks)}."
    out = {k: v for k, v in state_dict.items() if not k.startswith(replaced)}
    for key, value in state_dict.items():
        if not key.startswith(replaced) or "relative_position" in key or key.endswith("attn_mask"):
            continue
        key = key.replace(replaced, "class_block.")
        if ".qkv." in key:
            out |= {key.replace("qkv", name): part for name, part in zip("qkv", value.chunk(3))}
        else:
            out[key] = value
    if "cls_token" not in out:
        out["cls_token"] = model.cls_token.detach().clone()
    return swin_filter_fn(out, model)


CONFIG = config(crop_pct=0.9, fixed_input_size=True, first_conv="patch_embed.proj", classifier="head.fc")
default_cfgs = generate_default_cfgs({f"ca_swin_{size}_patch4_window7_224": CONFIG for size in ("tiny", "small")})


def _ca_swin(name: str, pretrained: bool, **kwargs: Any) -> ClassAttentionSwin:
    return build_staged(ClassAttentionSwin, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)


@register_model
def ca_swin_tiny_patch4_window7_224(pretrained: bool = False, **kwargs: Any) -> ClassAttentionSwin:
    """28.3 M parameters, 4.2 G multiply-adds at 224 pixels.

    Args:
        pretrained: Must be False: no weights are published in timm's form.
        kwargs: Arguments of the class.
    """
    return _ca_swin("ca_swin_tiny_patch4_window7_224", pretrained, **{"depths": (2, 2, 6, 2)} | kwargs)


@register_model
def ca_swin_small_patch4_window7_224(pretrained: bool = False, **kwargs: Any) -> ClassAttentionSwin:
    """49.6 M parameters, 8.5 G multiply-adds at 224 pixels.

    Args:
        pretrained: Must be False: no weights are published in timm's form.
        kwargs: Arguments of the class.
    """
    return _ca_swin("ca_swin_small_patch4_window7_224", pretrained, **{"depths": (2, 2, 18, 2)} | kwargs)
