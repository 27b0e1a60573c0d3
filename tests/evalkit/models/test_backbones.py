"""Class attention of all backbones of the papers that have it."""

from contextlib import nullcontext

import pytest
import torch

from evalkit.models import create
from evalkit.models.attention import class_attention_modules

from .test_attention import SWIN, explicit

LISTED = {  # small instances that differ from the named model in width, depth and image size only
    "deit_tiny_patch16_224": {"img_size": 32, "depth": 1},
    "deit_small_patch16_224": {"img_size": 32, "depth": 1, "embed_dim": 96},
    "deit_base_patch16_224": {"img_size": 32, "depth": 1, "embed_dim": 96},
    "deit_small_distilled_patch16_224": {"img_size": 32, "depth": 1, "embed_dim": 96},
    "deit_base_distilled_patch16_224": {"img_size": 32, "depth": 1, "embed_dim": 96},
    "deit3_base_patch16_224": {"img_size": 32, "depth": 1, "embed_dim": 96},
    "vit_small_patch14_reg4_dinov2": {"img_size": 28, "depth": 1, "embed_dim": 96},
    "cait_s24_224": {"img_size": 32, "depth": 1, "embed_dim": 64},
    "xcit_tiny_12_p16_224": {"depth": 1, "embed_dim": 32},
    "xcit_small_12_p16_224": {"depth": 1, "embed_dim": 64},
    "xcit_medium_24_p16_224": {"depth": 1, "embed_dim": 64},
    "xcit_large_24_p16_224": {"depth": 1, "embed_dim": 64},
    "ca_swin_small_patch4_window7_224": {"img_size": 64} | SWIN,
}


@pytest.mark.parametrize("name", LISTED)
def test_every_listed_model_equals_the_explicit_matrix(name):
    torch.manual_seed(0)
    net = create(name, num_classes=3, **LISTED[name]).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.15 * torch.randn_like(p))
    x = torch.randn(2, 3, *(net.input_size if "img_size" in LISTED[name] else (64, 48)))
    out, want = net(x, attention=True), explicit(net, x).mean(1)
    assert want.std() > 1e-3
    torch.testing.assert_close(out.attention, want[:, -out.attention.shape[1] :], atol=1e-6, rtol=0)
    assert want.shape[1] - out.attention.shape[1] == {"deit_small_d": 2, "deit_base_di": 2, "vit_small_pa": 5}.get(
        name[:12], 1
    )


REAL = {  # name: (blocks that the class token runs through, patches of an image of 224 pixels)
    **{f"deit_{size}_patch16_224": (12, 196) for size in ("tiny", "small", "base")},
    **{f"deit_{size}_distilled_patch16_224": (12, 196) for size in ("tiny", "small", "base")},
    **{f"deit3_{size}_patch16_224": (12, 196) for size in ("small", "base")},
    **{f"vit_{size}_patch16_224": (12, 196) for size in ("tiny", "small", "base")},
    **{f"cait_{size}_224": (2, 196) for size in ("xxs24", "xxs36", "s24")},
    **{f"xcit_{size}_p16_224": (2, 196) for size in ("tiny_12", "tiny_24", "small_12", "medium_24", "large_24")},
    **{f"pvt_{size}": (count, 49) for size, count in {"tiny": 2, "small": 3, "medium": 3, "large": 3}.items()},
    **{f"ca_swin_{size}_patch4_window7_224": (1, 49) for size in ("tiny", "small")},
}


@pytest.mark.parametrize("name", REAL)
def test_every_listed_model_at_its_real_size(name, monkeypatch):
    """Shapes only: no number is computed."""
    blocks, patches = REAL[name]
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know the meta device
    with torch.device("meta"):
        net = create(name, num_classes=10).eval()
        out = net(torch.zeros(2, 3, 224, 224), attention=True)
    assert len(list(class_attention_modules(net.model))) == blocks
    side = int(patches**0.5)
    assert (
        out.attention.shape == (2, patches)
        and out.grid == (side, side)
        and net.patch_size == 224 // side
        and out.logits.shape == (2, 10)
    )
