"""FMix: mix two images by a mask grown from low-frequency noise."""

import math

import numpy as np
import torch
from torch import Tensor

from evalkit.models.network import Network

from .base import Context, Mixed, MixMethod, check_pairing, pair, pair_weights, upload
from .parts.checks import beta_parameter, expect, flag, is_number, one_of
from .parts.masks import blend

SPECTRA = ("reference", "isotropic")
LABELS = ("realised", "sampled")


class FMix(MixMethod):
    """FMix (Harris et al., 2020, arXiv:2002.12047).

        lam ~ Beta(alpha, alpha);   grey = real part of the inverse FFT of Z,
        Z_f = (n_0 + i n_1) / max(|f|, 1 / max(H, W))^decay,   n ~ N(0, 1)
        M = 1 in the floor(lam H W) or ceil(lam H W) brightest pixels of grey (a fair coin), else 0
        x~_i = M x_i + (1 - M) x_pi(i),   t_i = mean(M) s(y_i) + (1 - mean(M)) s(y_pi(i))

    One mask per batch.

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0: no mixing.
        decay: Power by which the spectrum decays; the larger, the smoother the mask.
        max_soft: Turn the up to 2 max_soft H W pixels around the border into a ramp from 1 to 0.
        reformulate: Draw lam from Beta(alpha + 1, alpha) and keep the own label alone.
        spectrum: "isotropic": the formula; "reference": the official code, which takes the first two rows of
            frequencies for the real and the imaginary part: along the width, its masks contain the frequencies 0 and 1
            only.
        lam: "realised": label by the mean of M; "sampled": by lam, as the code.
        pairing: As CutMix.

    Draws: lam, noise ((2, F, 2) with F = W // 2 + 1, or W // 2 + 2 for an odd W; isotropic: (H, W, 2)), coin (round
    up), partner.

    Differs from the paper / the official code in the label by default: the share of pixels, at most 1 / (H W) from lam.
    The masks are the code's.
    """

    family = "hand-crafted"
    bibtex = r"""
    @misc{harris2020fmix,
      title = {{FMix}: Enhancing Mixed Sample Data Augmentation},
      author = {Harris, Ethan and Marcu, Antonia and Painter, Matthew and Niranjan, Mahesan and
        Pr{\"u}gel-Bennett, Adam and Hare, Jonathon},
      year = {2020},
      eprint = {2002.12047},
      archivePrefix = {arXiv}
    }
    """
    PRESETS = {
        "default": {},
        "openmixup": {"lam": "sampled", "pairing": "derange"},
        "paper": {"spectrum": "isotropic"},
        "released": {"lam": "sampled"},
    }

    def __init__(
        self,
        alpha: float = 1.0,
        decay: float = 3.0,
        max_soft: float = 0.0,
        reformulate: bool = False,
        spectrum: str = "reference",
        lam: str = "realised",
        pairing: str = "perm",
    ):
        super().__init__()
        expect(is_number(decay) and decay >= 0, "decay", "a number of at least 0", decay)
        expect(is_number(max_soft) and 0 <= max_soft <= 0.5, "max_soft", "a number from 0 to 0.5", max_soft)
        self.alpha = beta_parameter(alpha)
        self.decay, self.max_soft = decay, max_soft
        self.reformulate = flag("reformulate", reformulate)
        self.spectrum = one_of("spectrum", spectrum, SPECTRA)
        self.lam = one_of("lam", lam, LABELS)
        self.pairing = check_pairing(pairing)

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        height, width = x.shape[-2:]
        lam = float(
            ctx.draw("lam", lambda rng: rng.beta(self.alpha + self.reformulate, self.alpha) if self.alpha > 0 else 1.0)
        )
        noise = np.asarray(
            ctx.draw("noise", lambda rng: rng.standard_normal(noise_shape(height, width, self.spectrum)))
        )
        up = ctx.draw("coin", lambda rng: rng.random() > 0.5)
        mask = brightest(grey_image(noise, height, width, self.decay, self.spectrum), lam, up, self.max_soft)

        own = upload(mask, x, torch.float32)[None, None]
        partner = upload(pair(ctx, len(x), self.pairing), x)
        if self.reformulate:
            weights = torch.eye(len(x), device=x.device)
        else:
            share = mask.mean() if self.lam == "realised" else lam
            weights = pair_weights(torch.full((len(x),), share, device=x.device), partner)
        return Mixed(blend(x, partner, own), weights, own, partner)


def noise_shape(height: int, width: int, spectrum: str) -> tuple[int, int, int]:
    """Shape of the standard normal noise: (rows, columns) of frequencies, real and imaginary part; of the rows the code
    draws it uses two.

    Args:
        height: H of the images.
        width: W of the images.
        spectrum: "isotropic" (the formula) or "reference" (the official code).
    """
    return (height, width, 2) if spectrum == "isotropic" else (2, width // 2 + 1 + width % 2, 2)


def grey_image(noise: np.ndarray, height: int, width: int, decay: float, spectrum: str) -> np.ndarray:
    """(H, W) float64 random field of low frequencies.

    Args:
        noise: Standard normal, of `noise_shape`.
        height: H of the images.
        width: W of the images.
        decay: Power of the frequency by which amplitudes fall.
        spectrum: "isotropic" or "reference".
    """
    rows, columns, _ = noise.shape
    frequency = np.hypot(np.fft.fftfreq(height)[:rows, None], np.fft.fftfreq(width)[:columns])
    scaled = noise / np.maximum(frequency, 1 / max(height, width))[:, :, None] ** decay
    if spectrum == "isotropic":
        return np.fft.ifft2(scaled[:, :, 0] + 1j * scaled[:, :, 1]).real
    # (F, 2): the noise's columns become the rows of Z, its two parts the columns 0 and 1 of half a spectrum
    z = scaled[0] + 1j * scaled[1]
    return np.fft.irfft2(z, (height, width), axes=(0, 1))


def brightest(grey: np.ndarray, lam: float, up: bool, max_soft: float) -> np.ndarray:
    """(H, W) float64 mask: 1 in exactly floor or ceil (`up`) of lam H W pixels, the brightest; a linear ramp around the
    border if max_soft > 0.

    Args:
        grey: The field, (H, W).
        lam: Share of the pixels that are 1.
        up: Whether lam H W is rounded up.
        max_soft: Half the share of the pixels that the ramp takes, at most lam and 1 - lam; 0: none.
    """
    count = (math.ceil if up else math.floor)(lam * grey.size)
    soft = int(grey.size * min(max_soft, lam, 1 - lam))
    mask = np.zeros(grey.size)
    if soft:
        order = grey.ravel().argsort()[::-1]
        mask[order[: count - soft]] = 1
        mask[order[count - soft : count + soft]] = np.linspace(1, 0, 2 * soft)
    elif count:
        mask[grey.ravel().argpartition(-count)[-count:]] = 1
    return mask.reshape(grey.shape)
