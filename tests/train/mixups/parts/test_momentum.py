import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train.mixups.parts.feature_layers import FeatureTap, default_layer
from evalkit.train.mixups.parts.momentum import MomentumEncoder, rising_momentum

from ..learned_fakes import body, doubles, images, toy


def test_the_momentum_schedule():
    values = {0: 0.999, 9: 0.999, 10: 0.99999 - 0.00099 * (1 + np.cos(0.1 * np.pi)) / 2, 50: 0.999495, 100: 0.99999}
    for step, value in values.items():
        assert rising_momentum(step, 100, 0.999, 0.99999, 0.1) == pytest.approx(value, abs=1e-9)
    # a jump: the phase began at 0
    assert rising_momentum(25, 100, 0.999, 0.99999, 0.25) == pytest.approx(0.999145, abs=5e-7)
    assert rising_momentum(24, 100, 0.999, 0.99999, 0.25) == 0.999


def test_parameters_move_and_buffers_do_not():
    net = toy()
    encoder = MomentumEncoder(net, "act")
    before = {k: v.clone() for k, v in encoder.named_parameters() if not v.requires_grad}
    assert all(torch.equal(before[f"network.{k}"], v) for k, v in net.named_parameters()) and torch.equal(
        before["head_k.weight"], encoder.head.weight
    )
    with torch.no_grad():
        for p in (*net.parameters(), *encoder.head.parameters()):
            p.copy_(torch.randn(p.shape))
        net.model.norm.running_mean.fill_(7)
    encoder.update(net, 0.75)
    theirs = {f"network.{k}": v for k, v in net.named_parameters()} | {
        f"head_k.{k}": v for k, v in encoder.head.named_parameters()
    }
    assert theirs.keys() == before.keys()
    for k, v in theirs.items():
        assert torch.allclose(encoder.get_parameter(k), 0.75 * before[k] + 0.25 * v, atol=1e-6)
    assert (encoder.network.model.norm.running_mean == 0).all() and encoder.network.model.norm.num_batches_tracked == 0


def test_batch_norm_statistics_of_its_own():
    """Two micro-batches, clean and mixed passes: one update by the clean ones and then one by the mixed ones; means
    over micro-batches."""
    net = toy()
    encoder = MomentumEncoder(net, "act")
    p = {k: v.detach() for k, v in doubles(net.model).items()}
    seen = {"clean": [], "mixed": []}
    for i in range(2):
        clean, mixed = images(4, i), images(4, 10 + i)
        z, logits = encoder.look(clean)
        expected, _ = body(p, clean.double(), seen["clean"])
        assert torch.allclose(z.double(), expected, atol=1e-5) and logits is None and not z.requires_grad
        encoder.classify(mixed)
        body(p, mixed.double(), seen["mixed"])
        assert (encoder.network.model.norm.running_mean == 0).all()  # until the step
    encoder.update(net, 1.0)
    mean, var = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    for kind in ("clean", "mixed"):
        mean = 0.9 * mean + 0.1 * sum(m for m, _ in seen[kind]) / 2
        var = 0.9 * var + 0.1 * sum(v for _, v in seen[kind]) / 2
    norm = encoder.network.model.norm
    assert torch.allclose(norm.running_mean.double(), mean, atol=1e-6) and torch.allclose(
        norm.running_var.double(), var, atol=1e-6
    )
    assert norm.num_batches_tracked == 2 and (net.model.norm.running_mean == 0).all()
    encoder.eval()
    encoder.look(images(4))
    encoder.update(net, 1.0)  # passes for evaluation leave no trace
    assert norm.num_batches_tracked == 2


def test_eval_mode_follows_the_trained_networks_statistics():
    net = toy()
    encoder = MomentumEncoder(net, "act", eval_mode=True).train()
    assert not encoder.network.training and encoder.head.training
    net.model.norm.running_mean.fill_(2)
    net.model.norm.running_var.fill_(5)
    encoder.update(net, 0.75)
    assert torch.allclose(encoder.network.model.norm.running_mean, torch.full((4,), 0.5))
    assert torch.allclose(encoder.network.model.norm.running_var, torch.full((4,), 2.0))
    x = images(3)
    h = encoder.network.model.conv1(x)
    assert torch.allclose(encoder.look(x)[0], ((h - 0.5) / (2 + 1e-5) ** 0.5).tanh(), atol=1e-5)


def test_where_there_is_no_batch_norm_the_pass_stops_at_the_layer():
    net = models.create("vit_nano_patch4_32", num_classes=5).train()
    encoder = MomentumEncoder(net)
    runs = []
    for i, block in enumerate(encoder.network.model.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: runs.append(i))
    x = torch.randn(2, 3, 32, 32)
    z, none = encoder.look(x)
    assert runs == [0, 1] and none is None and z.shape == (2, 64, 8, 8)
    runs.clear()
    again, logits = encoder.look(x, classify=True)
    assert runs == [0, 1, 2, 3] and torch.equal(z, again)
    assert torch.equal(logits, encoder.classify(x)) and logits.shape == (2, 5)
    assert torch.allclose(logits, encoder.classify_q(net, net(x, features=True)), atol=1e-6)  # k starts as q


def stages_of(name, model, x):
    """The features by timm's own means, not by a hook."""
    if "swin" in name:
        x = model.patch_embed(x)
        for stage in model.layers[:3]:
            x = stage(x)
        x = model.layers[3].downsample(x)
        return F.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2)
    index = {
        "resnet18": 3,
        "resnet50": 3,
        "resnet18_cifar": 3,
        "deit_small_patch16_224": 5,
        "pvt_tiny": 2,
        "convnext_tiny": 2,
    }[name]
    return model.forward_intermediates(x, indices=[index], intermediates_only=True)[0]


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("resnet18", 224, (256, 14)),
        ("resnet50", 224, (1024, 14)),
        ("resnet18_cifar", 32, (256, 8)),
        ("deit_small_patch16_224", 224, (384, 14)),
        ("swin_tiny_patch4_window7_224", 224, (768, 7)),
        ("ca_swin_tiny_patch4_window7_224", 224, (768, 7)),
        ("pvt_tiny", 224, (320, 14)),
        ("convnext_tiny", 224, (384, 14)),
    ],
)
def test_the_published_layers(name, size, shape):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        z, features = FeatureTap(model).read(model, x, whole=False)
        assert features is None and z.shape == (1, shape[0], shape[1], shape[1])
        assert torch.allclose(z, stages_of(name, model, x), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        *(
            ("cait_xxs24_224", "blocks.11"),
            ("xcit_tiny_12_p16_224", "blocks.5"),
            ("deit_small_distilled_patch16_224", "blocks.5"),
        ),
        *(
            ("efficientnet_b0", "blocks.4"),
            ("mobilenetv2_100", "blocks.4"),
            ("resnext101_32x4d", "layer3"),
            ("pvt_v2_b0", "stages.2"),
        ),
    ],
)
def test_other_families(name, layer):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert default_layer(model) == (layer, False)


def test_images_that_are_not_square():
    net = models.create("vit_nano_patch4_32", num_classes=5, img_size=(16, 40)).eval()
    z, _ = FeatureTap(net.model).read(net.model, torch.randn(2, 3, 16, 40), whole=True)
    tokens = net.model.forward_intermediates(torch.randn(1, 3, 16, 40), indices=[1], intermediates_only=True)[0]
    assert z.shape[1:] == tokens.shape[1:] == (64, 4, 10)


class Wider(nn.Module):
    """One token too many."""

    def forward(self, x):
        return torch.cat([x, x[:, :1]], 1)


def test_what_cannot_be_looked_at():
    net = toy()
    with pytest.raises(EvalkitError, match="stages of Toy are not known; name the layer .* feature_layer=NAME"):
        MomentumEncoder(net)
    with pytest.raises(EvalkitError, match="feature_layer 'conv3'. Did you mean 'conv"):
        MomentumEncoder(net, "conv3")
    with pytest.raises(EvalkitError, match=r"layer 'fc' gives no tensor .* name another feature_layer"):
        MomentumEncoder(net, "fc")  # never reached: the features end before
    vit = models.create("vit_nano_patch4_32", num_classes=5)
    with pytest.raises(
        EvalkitError, match=r"layer 'pos_drop' gives \(1, 66, 64\) for images of 32 x 32 pixels, no feature map"
    ):
        vit.model.pos_drop = Wider()
        MomentumEncoder(vit, "pos_drop")
    net.model.forward_head = lambda features: features
    with pytest.raises(EvalkitError, match="cannot be given a second head"):
        MomentumEncoder(net, "conv1")
