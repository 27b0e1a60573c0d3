"""SMMix: the most attended square of one image over the least attended square of another, with losses on its tokens."""

from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from .base import Context, Mixed, MixMethod, check_pairing, pair, pair_weights, upload
from .parts.saliency import evaluating


class SMMix(MixMethod):
    """SMMix (Chen et al., ICCV 2023, arXiv:2212.12977).

        a = attention that each patch gets from all patches in the last block for the clean image, h x w;
        s ~ U{floor(g/4), .., floor(3g/4)},
        g = min(h, w), one per batch;   M_i = 0 in the s x s window of least a_i, else 1
        x~_i = M_i x_i outside that window, in it the window of most a_pi(i) of x_pi(i);   lam = 1 - s^2 / (h w)
        t_i = lam s(y_i) + (1 - lam) s(y_pi(i)),
        L = L(z, t) + [L(z_A, s(y_i)) + L(z_B, s(y_pi(i)))] / 2 + KL(softmax z' || softmax z)

    z_A, z_B are logits of an extra head for the mean own and the mean pasted token, z' = lam z0_i + (1 - lam) z0_pi(i)
    mixes the logits of the clean images. a and z0 come from a pass in evaluation mode without gradient. The published
    training is a choice of half and half with Mixup, alpha 0.8.

    Args:
        pairing: As CutMix.

    Draws: side (s), partner.

    Differs from the paper / the official code in an image paired with itself, which stays as it is; there such a batch
    is refused.
    """

    family = "attention"
    needs = "patches that attend to patches"
    bibtex = """
    @inproceedings{chen2023smmix,
      title = {{SMMix}: Self-Motivated Image Mixing for Vision Transformers},
      author = {Chen, Mengzhao and Lin, Mingbao and Lin, Zhihang and Zhang, Yuxin and Chao, Fei and Ji,
        Rongrong},
      booktitle = {IEEE/CVF International Conference on Computer Vision},
      year = {2023},
      eprint = {2212.12977},
      archivePrefix = {arXiv}
    }
    """
    takes = "vit"
    exempt = {"blend": "moves a window", "itself": "moves a window", "renaming": "also the clean pass's"}
    extra_passes = "1 forward"
    own_passes = "whole"
    features = True

    def __init__(self, pairing: str = "flip"):
        super().__init__()
        self.pairing = check_pairing(pairing)

    def setup(self, net: Network) -> None:
        parameter = next(net.parameters())
        with evaluating(net):  # installs what the passes will need, or says that there is none
            net.patch_attention(torch.zeros(1, 3, *net.input_size, device=parameter.device))
        self.head = nn.Linear(net.model.num_features, net.num_classes)
        trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.head.to(parameter)

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.head.weight]}, {"params": [self.head.bias], "weight_decay": 0.0}]

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        with evaluating(net):
            logits, attention, grid = net.patch_attention(x)
        (height, width), patch, shorter = x.shape[-2:], net.patch_size, min(grid)
        assert patch is not None  # it has class attention
        if grid[0] * patch > height or grid[1] * patch > width:
            raise EvalkitError(
                f"smmix needs images of whole patches, but {height} x {width} pixels are no multiples of {patch};"
                " choose another image size"
            )
        side = int(ctx.draw("side", lambda rng: rng.integers(max(1, shorter // 4), max(1, 3 * shorter // 4) + 1)))
        partner = upload(pair(ctx, len(x), self.pairing), x)
        least, most = windows(attention.unflatten(1, grid), side)
        each = torch.arange(len(x), device=x.device)
        source = torch.where((partner == each)[:, None], least, most[partner])

        mixed, mask = x.clone(), torch.ones(len(x), 1, height, width, device=x.device)
        target = window_pixels(each, least * patch, side * patch)
        mixed.permute(0, 2, 3, 1)[target] = x.permute(0, 2, 3, 1)[window_pixels(partner, source * patch, side * patch)]
        mask.permute(0, 2, 3, 1)[target] = mask.new_zeros(())  # a number would be uploaded, and waited for
        own = ~window_tokens(least, side, grid).flatten(1)
        lam = 1 - side**2 / (grid[0] * grid[1])
        weights = pair_weights(torch.full((len(x),), lam, device=x.device), partner)
        return Mixed(
            mixed, weights, mask, partner, state=(own, torch.lerp(logits[partner].float(), logits.float(), lam))
        )

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        own, clean = mixed.state
        target = ctx.target(y)
        assert out.features is not None  # asked for
        tokens = out.features[:, -own.shape[1] :]
        fine = ctx.criterion(self.head(mean_token(tokens, own)), target) + ctx.criterion(
            self.head(mean_token(tokens, ~own)), target[mixed.partner]
        )
        with torch.autocast(x.device.type, enabled=False):
            consistency = F.kl_div(
                out.logits.float().log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True
            )
        return super().loss(ctx, x, y, mixed, out, net) + fine / 2 + consistency


def windows(attention: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """(B, 2) row and column where the window of least, and of most, attention starts; the first of equal ones.

    Args:
        attention: (B, h, w), not negative.
        side: Tokens per side of the window.
    """
    sums = F.avg_pool2d(attention[:, None], side, stride=1)[:, 0]
    found = (sums.flatten(1).argmin(1), sums.flatten(1).argmax(1))
    least, most = (torch.stack([i // sums.shape[2], i % sums.shape[2]], 1) for i in found)
    return least, most


def window_tokens(start: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """(B, h, w) bool: the windows.

    Args:
        start: Row and column of each one's corner, (B, 2).
        side: Tokens per side.
        grid: h and w.
    """
    rows, columns = (torch.arange(n, device=start.device) - start[:, i, None] for i, n in enumerate(grid))
    rows, columns = ((offset >= 0) & (offset < side) for offset in (rows, columns))
    return rows[:, :, None] & columns[:, None]


def window_pixels(image: Tensor, start: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices into (B, H, W, C) of the pixels of windows.

    Args:
        image: Which image each lies in, (B,).
        start: Row and column of its corner in pixels, (B, 2).
        side: Pixels per side.
    """
    offset = torch.arange(side, device=start.device)
    return image[:, None, None], (start[:, :1] + offset)[:, :, None], (start[:, 1:] + offset)[:, None]


def mean_token(tokens: Tensor, chosen: Tensor) -> Tensor:
    """(B, D) mean of the tokens (B, N, D) that are `chosen` (B, N).

    Args:
        tokens: (B, N, D).
        chosen: (B, N) bool.
    """
    share = chosen.to(tokens.dtype) / chosen.sum(1, keepdim=True)
    return (share[:, None] @ tokens)[:, 0]
