"""A toy network, and AutoMix's ingredients written out once more in float64 without any of the code under test."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.models import Network

CLASSES, SIZE = 5, 8


class Toy(nn.Module):
    """Two convolutions, batch norm after the first, mean pooling, a linear head: 8 x 8 images, 4 channels of 4 x 4 in
    the middle."""

    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.act = nn.Tanh()
        self.conv2 = nn.Conv2d(4, 6, 3, 2, 1)
        self.fc = nn.Linear(6, CLASSES)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.norm(self.conv1(x)))).tanh()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def toy(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(Toy(), "toy", (SIZE, SIZE)).train()


def images(batch: int, seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def enlarge(block: nn.Module, seed: int = 0, factor: float = 1.0) -> None:
    """Weights of order `factor` instead of 0.01, so that masks are far from one half."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in block.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * factor)


def doubles(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters as float64 leaves."""
    return {name: p.detach().double().clone().requires_grad_() for name, p in module.named_parameters()}


def body(p: dict[str, Tensor], x: Tensor, statistics: list | None = None) -> tuple[Tensor, Tensor]:
    """Middle features (B, 4, 4, 4) and pooled features (B, 6) of the toy with parameters `p`, normalised by the
    batch."""
    h = F.conv2d(x, p["conv1.weight"], p["conv1.bias"], 2, 1)
    mean, var = (
        h.mean((0, 2, 3), keepdim=True),
        ((h - h.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3), keepdim=True),
    )
    if statistics is not None:
        n = h.numel() / h.shape[1]
        statistics.append((mean.detach().flatten(), var.detach().flatten() * n / (n - 1)))
    h = (h - mean) / (var + 1e-5).sqrt() * p["norm.weight"].view(1, -1, 1, 1) + p["norm.bias"].view(1, -1, 1, 1)
    z = h.tanh()
    return z, F.conv2d(z, p["conv2.weight"], p["conv2.bias"], 2, 1).tanh().mean((2, 3))


def pair_loss(logits: Tensor, y: Tensor, partner: Tensor, lam: float) -> Tensor:
    """lam CE(y) + (1 - lam) CE(y_partner)."""
    return lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[partner])


def up_nearest(maps: Tensor, factor: int) -> Tensor:
    return maps.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def softmax64(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def conv64(layer: nn.Conv2d, z: np.ndarray) -> np.ndarray:
    """A 1x1 convolution of (C, N)."""
    out = layer.weight.detach().double().numpy()[:, :, 0, 0] @ z
    return out if layer.bias is None else out + layer.bias.detach().double().numpy()[:, None]


def attend64(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(N,) from (c, N), (c, N) and (1, N), position by position."""
    out = np.empty(query.shape[1])
    for i in range(query.shape[1]):
        scores = np.array([query[:, i] @ key[:, j] for j in range(key.shape[1])]) / math.sqrt(len(query))
        out[i] = softmax64(scores) @ value[0]
    return out


def batch_norm64(layer: nn.BatchNorm2d, maps: np.ndarray) -> np.ndarray:
    """(B, C, N) normalised over B and N."""
    mean, var = maps.mean((0, 2), keepdims=True), maps.var((0, 2), keepdims=True)
    weight, bias = (p.detach().double().numpy()[None, :, None] for p in (layer.weight, layer.bias))
    return (maps - mean) / np.sqrt(var + layer.eps) * weight + bias


def attention64(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, 1, 4, 4) of (B, c, 4, 4), (B, c, 4, 4), (B, 1, 4, 4)."""
    scores = torch.einsum("bci,bcj->bij", query.flatten(2), key.flatten(2)) / query.shape[1] ** 0.5
    weights = torch.exp(scores) / torch.exp(scores).sum(2, keepdim=True)
    return torch.einsum("bij,bj->bi", weights, value.flatten(1)).reshape(value.shape)


def point(weight: Tensor, bias: Tensor | None, z: Tensor) -> Tensor:
    """A 1x1 convolution."""
    out = torch.einsum("oc,bchw->bohw", weight[:, :, 0, 0], z)
    return out if bias is None else out + bias.view(1, -1, 1, 1)


class Reference:
    """Algorithm 1 of AutoMix on the toy, in float64: four sets of parameters and phi, their losses, plain SGD and the
    moving average.

    `mask(phi, z_a, z_b, lam)` is the partner's share (B, 1, 8, 8), `penalty(m, lam)` the mask loss."""

    def __init__(self, net, method, mask, penalty):
        self.q, self.hm, self.phi = doubles(net.model), doubles(method.encoder.head), doubles(method.block)
        self.k, self.hm_k = ({n: p.detach().clone() for n, p in group.items()} for group in (self.q, self.hm))
        self.mask, self.penalty = mask, penalty
        self.statistics: list = []

    def losses(self, x: Tensor, y: Tensor, draws: dict, gamma: float) -> dict[str, Tensor]:
        x = x.double()
        z = body(self.k, x, self.statistics)[0].detach()
        pk, pq, lam_k, lam = draws["partner_k"], draws["partner"], draws["lam_k"], draws["lam"]
        m_k, m_q = self.mask(self.phi, z, z[pk], lam_k), self.mask(self.phi, z, z[pq], lam).detach()
        x_k, x_q = x * (1 - m_k) + x[pk] * m_k, x * (1 - m_q) + x[pq] * m_q
        self.x_q = x_q
        return {
            "one": F.cross_entropy(body(self.q, x)[1] @ self.q["fc.weight"].T + self.q["fc.bias"], y),
            "q": pair_loss(body(self.q, x_q)[1] @ self.hm["weight"].T + self.hm["bias"], y, pq, lam),
            "k": pair_loss(
                body(self.k, x_k, self.statistics)[1] @ self.hm_k["weight"].T + self.hm_k["bias"], y, pk, lam_k
            ),
            "lam": gamma * self.penalty(m_k, lam_k),
        }

    def trained(self) -> list[Tensor]:
        return [*self.q.values(), *self.hm.values(), *self.phi.values()]

    def step(self, losses: dict[str, Tensor], lr: float, momentum: float) -> list[Tensor]:
        """Gradients of the sum; descends, then moves k."""
        gradients = torch.autograd.grad(sum(losses.values()), self.trained())
        with torch.no_grad():
            for p, g in zip(self.trained(), gradients):
                p -= lr * g
            for slow, fast in ((self.k, self.q), (self.hm_k, self.hm)):
                for name in slow:
                    slow[name] = momentum * slow[name] + (1 - momentum) * fast[name]
        return gradients

    def check(self, net, method, atol: float = 2e-6) -> None:
        """All parameters of the code under test."""
        modules = (net.model, self.q), (method.encoder.head, self.hm), (method.block, self.phi)
        for module, expected in (*modules, (method.encoder.network.model, self.k), (method.encoder.head_k, self.hm_k)):
            for name, p in module.named_parameters():
                assert torch.allclose(p.detach().double(), expected[name].detach(), atol=atol), name
