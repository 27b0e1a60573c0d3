"""SuperMix: masks optimised until a teacher sees all the mixed images' classes, in the wanted proportions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evalkit.errors import EvalkitError
from evalkit.models.network import Network, Output

from .base import TEACHER, Context, Mixed, MixMethod, laid_out_like, upload
from .parts.checks import expect, is_number, is_whole, one_of
from .parts.saliency import correlate, gaussian
from .parts.teacher import Teacher

CHECK_EVERY = 5  # iterations between two waits for the device


class SuperMix(MixMethod):
    """SuperMix (Dabouei et al., CVPR 2021, arXiv:2003.05034).

        X_i = {x_i, x_i+1, .., x_i+K-1} (modulo B);   r_i ~ Dirichlet(alpha, .., alpha);
        yhat = the teacher f's classes;   q_i = sum_k r_ik onehot(yhat_ik)
        M_ik = sigmoid(up(theta_ik)) / sum_k sigmoid(up(theta_ik)),   theta (w x w) from 0;   x~_i = sum_k M_ik x_i+k-1
        L_i = KL(q_i || softmax f(x~_i)) + sparsity mean |M (M - 1)|;   g = smoothed dL/dtheta;
        theta <- theta - clamp(L / <dL/dtheta, g>) g
        until the distinct classes of q_i are f's top classes of x~_i;   t_i = sum_k r_ik s(yhat_ik), or softmax f(x~_i)

    Only mixtures that succeed are returned, so M <= B; the batch as it is if none does.

    Args:
        teacher: As Attentive CutMix, a classifier of the same classes.
        images: K, the number of images that are mixed into one.
        alpha: Parameter of the distribution of ratios.
        width: w, cells per side of theta.
        sparsity: Weight of the masks' sparsity.
        sigma: Width of the Gaussian that smooths the gradient, in cells of theta.
        tolerance: Share of the batch that may fail.
        iterations: The most iterations of the search for masks.
        label: "target": t from r; "teacher": the teacher's prediction.
        teacher_model: The architecture of a weights file.

    Every iteration is a forward and a backward pass of the teacher, every fifth waits for the device. Draws: ratio (B,
    K).

    Differs from the paper / the official code in mixing while training (the code makes a data set beforehand), in
    asking only every fifth iteration whether to stop, and in comparing distinct classes: where images of a mixture
    share a class, the code asks for an arbitrary other class besides, of two images as of more.
    """

    family = "saliency"
    needs = "a teacher of the same classes"
    extra_passes = "up to 51 forward + backward of the teacher"
    waits = "asks whether its masks succeed"
    bibtex = """
    @inproceedings{dabouei2021supermix,
      title = {{SuperMix}: Supervising the Mixing Data Augmentation},
      author = {Dabouei, Ali and Soleymani, Sobhan and Taherkhani, Fariborz and Nasrabadi, Nasser M.},
      booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
      year = {2021},
      eprint = {2003.05034},
      archivePrefix = {arXiv}
    }
    """
    stand_in = {"teacher": TEACHER}
    small = {"width": 4, "iterations": 10}
    exempt = {"renaming": "the teacher's"}
    PRESETS = {
        "default": {},
        "released_cifar": {"width": 8, "sigma": 1.0},
        "released_imagenet": {"width": 16, "sigma": 2.0},
    }

    def __init__(
        self,
        teacher: Any = "resnet50",
        images: int = 2,
        alpha: float = 3.0,
        width: int = 16,
        sparsity: float = 25.0,
        sigma: float = 1.0,
        tolerance: float = 0.7,
        iterations: int = 50,
        label: str = "target",
        teacher_model: str | None = None,
    ):
        super().__init__()
        for name, whole, least in (("images", images, 2), ("width", width, 2), ("iterations", iterations, 1)):
            expect(is_whole(whole) and whole >= least, name, f"a whole number of at least {least}", whole)
        for name, value in (("alpha", alpha), ("sigma", sigma)):
            expect(is_number(value) and value > 0, name, "a number larger than 0", value)
        expect(is_number(sparsity) and sparsity >= 0, "sparsity", "a number of at least 0", sparsity)
        expect(is_number(tolerance) and 0 <= tolerance < 1, "tolerance", "a number from 0 to less than 1", tolerance)
        self.images, self.alpha, self.width, self.sparsity = images, alpha, width, sparsity
        self.sigma, self.tolerance, self.iterations = sigma, tolerance, iterations
        self.label = one_of("label", label, ("target", "teacher"))
        self.teacher = Teacher(teacher, teacher_model)

    def setup(self, net: Network) -> None:
        classes = self.teacher.load().num_classes
        if classes != net.num_classes:
            raise EvalkitError(
                f"supermix needs a teacher of the same {net.num_classes} classes, but this one has {classes}; give"
                " another teacher="
            )

    def mix(self, ctx: Context, x: Tensor, y: Tensor, net: Network) -> Mixed:
        batch = len(x)
        ratio = upload(
            ctx.draw("ratio", lambda rng: rng.dirichlet([self.alpha] * self.images, batch)), x, torch.float32
        )
        if batch == 1:
            return Mixed(x, torch.ones(1, 1, device=x.device), state=ctx.target(y))
        with torch.autocast(x.device.type, enabled=False):
            mixed, labels, logits, done = self.optimise(ctx, x, ratio)
        chosen = done.nonzero()[:, 0]
        if len(chosen) == 0:
            return Mixed(x, torch.eye(batch, device=x.device), state=ctx.target(y))
        sources = (chosen[:, None] + torch.arange(self.images, device=x.device)) % batch
        weights = torch.zeros(len(chosen), batch, device=x.device).scatter_add(1, sources, ratio[chosen])
        target = weights @ ctx.target(labels) if self.label == "target" else logits[chosen].softmax(1)
        return Mixed(laid_out_like(x, mixed[chosen].to(x.dtype)), weights, state=target)

    def loss(self, ctx: Context, x: Tensor, y: Tensor, mixed: Mixed, out: Output, net: Network) -> Tensor:
        return ctx.criterion(out.logits, mixed.state)

    def optimise(self, ctx: Context, x: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x~ (B, C, H, W) float32, the teacher's classes of the sources (B,) and its logits for x~ (B, K), and which x~
        succeed (B,) bool."""
        network, batch = self.teacher.on(x), len(x)
        images = torch.stack([x.float().roll(-k, 0) for k in range(self.images)], 1)
        with torch.no_grad():
            logits = network(self.teacher.view(ctx, x)).logits
        labels = logits.argmax(1)
        classes = torch.stack([labels.roll(-k) for k in range(self.images)], 1)  # (B, K)
        wanted = torch.zeros_like(logits).scatter_add(1, classes, ratio)

        theta = torch.zeros(batch, self.images, self.width, self.width, device=x.device)
        done = torch.zeros(batch, dtype=torch.bool, device=x.device)
        for iteration in range(self.iterations + 1):
            with torch.enable_grad():
                theta.requires_grad_()
                masks = normalised_masks(theta, x.shape[-2:])
                mixed = (masks[:, :, None] * images).sum(1)
                logits = network(self.teacher.view(ctx, mixed)).logits
                divergence = F.kl_div(logits.log_softmax(1), wanted, reduction="none").sum(1)
                loss = divergence + self.sparsity * (masks * (masks - 1)).abs().mean((1, 2, 3))
                (gradient,) = torch.autograd.grad(loss.sum(), theta)
            if iteration > 0:
                done = done | shows(logits, classes)
            if iteration == self.iterations or (
                iteration % CHECK_EVERY == 0 and int((~done).sum()) <= self.tolerance * batch
            ):
                return mixed.detach(), labels, logits.detach(), done
            smooth = smoothed(gradient, self.sigma)
            step = (loss.detach().abs() / ((gradient * smooth).sum((1, 2, 3)) + 1e-10)).clamp(1e-4, 2000) * ~done
            theta = theta.detach() - step[:, None, None, None] * smooth
        raise AssertionError("the last iteration returns")


def shows(logits: Tensor, classes: Tensor) -> Tensor:
    """(B,) bool: the distinct ones among some classes are the highest of the logits.

    Args:
        logits: Of the mixed images, (B, C).
        classes: (B, K), those that a mixed image is made of.
    """
    distinct = torch.zeros_like(logits).scatter(1, classes, 1.0).sum(1, keepdim=True)
    higher = (logits[:, None] > logits.gather(1, classes)[:, :, None]).sum(2)
    return (higher < distinct).all(1)


def normalised_masks(theta: Tensor, size: Sequence[int]) -> Tensor:
    """(B, K, H, W) shares of K images in each pixel, which sum to 1.

    Args:
        theta: What is optimised, (B, K, w, w).
        size: H and W of the images.
    """
    masks = F.interpolate(theta, size=tuple(size), mode="bilinear").sigmoid()
    return masks / masks.sum(1, keepdim=True)


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing over floor(5 sigma) cells, with zeros outside.

    Args:
        maps: (B, K, w, w).
        sigma: Standard deviation in cells, up to the rounding of 5 sigma.
    """
    size = max(int(5 * sigma), 1)
    return correlate(F.pad(maps, ((size - 1) // 2, size // 2) * 2), gaussian(size, size / 5))
