"""Class activation maps of networks whose classifier is one linear layer on the mean of a feature map."""

import torch
from torch import Tensor, nn

from evalkit.errors import EvalkitError
from evalkit.models.network import Network

from .saliency import evaluating


def check_linear_classifier(net: Network, name: str) -> None:
    """Args:
        net: The network.
        name: The method that needs it, for the error.

    Raises EvalkitError unless the network classifies the mean of its feature map with one linear layer.
    """
    parameter = next(net.parameters())
    height, width = net.input_size
    probe = torch.linspace(-1, 1, 3 * height * width, device=parameter.device, dtype=parameter.dtype).view(
        1, 3, height, width
    )
    rounding = torch.finfo(parameter.dtype).eps
    with torch.no_grad(), evaluating(net):
        pooled = net.model.forward_head(net.model.forward_features(probe), pre_logits=True).float()
        mean = net.feature_map(probe).float().mean((2, 3))
    same = pooled.shape == mean.shape and torch.allclose(pooled, mean, rtol=1e-3 + rounding, atol=1e-4)
    if not isinstance(net.model.get_classifier(), nn.Linear) or not same:
        raise EvalkitError(
            f"{name} needs a linear classifier on the mean of a feature map, which '{net.name}' does not have; take"
            " resnet*, regnet* or swin_*"
        )


@torch.no_grad()
def class_activation(net: Network, x: Tensor, y: Tensor, positive: bool = False) -> Tensor:
    """(B, h, w) maps CAM_y = W_y F + b_y, whose means are the logits (Zhou et al., CVPR 2016).

    One pass in evaluation mode and in the precision of the weights, without autocast; the maps are float32, as labels
    come of them.

    Args:
        net: A network with one linear layer.
        x: Normalised images (B, C, H, W).
        y: Which class's map of each image, (B,).
        positive: Whether negative features are left out, which not every network has.
    """
    classifier = net.model.get_classifier()
    with evaluating(net), torch.autocast(x.device.type, enabled=False):
        features = net.feature_map(x).float()
        maps = torch.einsum("bchw,bc->bhw", features.relu() if positive else features, classifier.weight[y].float())
        return maps if classifier.bias is None else maps + classifier.bias[y][:, None, None].float()
