"""Segmentation as mmsegmentation's own model does it: the same weights in its VisionTransformer and in ours give the
same maps, windows and predictions, for images that neither windows nor patches divide."""

import copy
import importlib
import re
from pathlib import Path

import pytest
import torch

from evalkit import models
from evalkit.downstream import seg
from evalkit.downstream.backbone import Source
from evalkit.downstream.mm import require

from ..test_seg import CONTEXT, loaded

require("mmseg")
Config = importlib.import_module("mmengine.config").Config
MODELS = importlib.import_module("mmseg.registry").MODELS
DefaultScope = importlib.import_module("mmengine.registry").DefaultScope
importlib.import_module("mmseg.utils").register_all_modules(init_default_scope=False)
importlib.import_module("evalkit.downstream.mm.engine")
PixelData = importlib.import_module("mmengine.structures").PixelData
SegDataSample = importlib.import_module("mmseg.structures").SegDataSample

CROP, STRIDE, PATCH, DIM, CLASSES = 64, 48, 16, 64, 7
ARGS = {"depth": 2, "embed_dim": DIM, "num_heads": 2, "patch_size": PATCH, "img_size": 96}
NAMES = (  # timm's name, mmsegmentation's
    (r"^patch_embed\.proj", "patch_embed.projection"),
    (r"^blocks\.(\d+)\.norm(\d)", r"layers.\1.ln\2"),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"layers.\1.attn.attn.in_proj_"),
    (r"^blocks\.(\d+)\.attn\.proj", r"layers.\1.attn.attn.out_proj"),
    (r"^blocks\.(\d+)\.mlp\.fc1", r"layers.\1.ffn.layers.0.0"),
    (r"^blocks\.(\d+)\.mlp\.fc2", r"layers.\1.ffn.layers.1"),
    (r"^norm\.", "ln1."),
)
THEIRS = {  # as in mmsegmentation's segmenter configs
    "type": "VisionTransformer",
    "img_size": (CROP, CROP),
    "patch_size": PATCH,
    "embed_dims": DIM,
    "num_layers": 2,
    "num_heads": 2,
    "final_norm": True,
    "norm_cfg": {"type": "LN", "eps": 1e-6, "requires_grad": True},
    "with_cls_token": True,
    "patch_bias": True,  # its default has none and drops the one of the file
    "interpolate_mode": "bicubic",
}


@pytest.fixture(autouse=True)
def scope():
    """A detection may have been built before in this process."""
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def renamed(name):
    for ours, theirs in NAMES:
        name = re.sub(ours, theirs, name)
    return name


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A transformer of 96 pixels a side, its weights drawn wide enough to tell places apart, as a file."""
    torch.manual_seed(0)
    model = models.create("vit_tiny_patch16_224", num_classes=5, **ARGS).model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape) + ("norm" in name and name.endswith("weight")))
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(model.state_dict(), path)
    return path


def both(pretrained, head):
    """(our model, mmsegmentation's) of one recipe with the weights of one file."""
    cfg = loaded(f"pascal-context-{head}", f"crop={CROP}", f"stride={STRIDE}", "steps=8", "drop_path=0")
    grey = [0.45, 0.45, 0.45], [0.25, 0.25, 0.25]
    source = Source("vit_tiny_patch16_224", ARGS, str(pretrained), None, None, None, "w", *grey, [DIM] * 2, [PATCH] * 2)
    data = type(CONTEXT)(**{**vars(CONTEXT), "classes": [str(i) for i in range(CLASSES)]})
    made = seg.mm_config(cfg, source, data, Path("run"))
    torch.manual_seed(1)
    ours = MODELS.build(Config({"model": made["model"]}).model).eval()
    made["model"]["backbone"] = THEIRS | {"init_cfg": None}
    made["model"]["data_preprocessor"].pop("size")
    theirs = MODELS.build(Config({"model": made["model"]}).model).eval()
    theirs.decode_head.load_state_dict(ours.decode_head.state_dict())
    # as its init_weights reads a file
    tensors = {renamed(k): v for k, v in torch.load(pretrained).items() if not k.startswith("head.")}
    side = CROP // PATCH
    tensors["pos_embed"] = theirs.backbone.resize_pos_embed(tensors["pos_embed"], (side, side), (6, 6), "bicubic")
    theirs.backbone.load_state_dict(tensors)
    return made, ours, theirs


def request(height, width, seed=0, views=None):
    """What mmsegmentation's loader hands to `test_step` for one image (or for its `views` of other sizes)."""
    rng = torch.Generator().manual_seed(seed)
    sizes = views or [(height, width, False)]
    samples = [
        SegDataSample(metainfo={"ori_shape": (height, width), "img_shape": (h, w), "img_path": "a", "flip": flip}
                      | ({"flip_direction": "horizontal"} if flip else {}))
        for h, w, flip in sizes
    ]  # fmt: skip
    inputs = [torch.randint(0, 256, (3, h, w), generator=rng, dtype=torch.uint8) for h, w, _ in sizes]
    if views is None:
        return {"inputs": inputs, "data_samples": samples}
    return {"inputs": [[x] for x in inputs], "data_samples": [[s] for s in samples]}


SIZES = [(64, 64), (70, 93), (65, 129), (100, 64), (40, 50), (33, 90), (64, 17), (97, 97)]


@pytest.mark.parametrize("head", seg.HEADS)
def test_predictions_equal_those_of_mmsegmentations_own_model(pretrained, head):
    _, ours, theirs = both(pretrained, head)
    for size in SIZES:
        a, b = (model.test_step(copy.deepcopy(request(*size)))[0] for model in (ours, theirs))
        scale = b.seg_logits.data.abs().max()
        assert a.seg_logits.data.shape == (CLASSES, *size)
        assert (a.seg_logits.data - b.seg_logits.data).abs().max() < 1e-5 * scale, size
        differ = (a.pred_sem_seg.data != b.pred_sem_seg.data).float().mean()
        assert differ < 1e-3 and len(b.pred_sem_seg.data.unique()) > 1, size


def test_several_scales_equal_those_of_mmsegmentations_own_model(pretrained):
    made, ours, theirs = both(pretrained, "segmenter")
    views = [(h, w, flip) for h, w in ((35, 47), (70, 93), (105, 140)) for flip in (False, True)]
    seen = []
    for model in (ours, theirs):
        whole = MODELS.build(Config(made["tta_model"] | {"module": None}).to_dict() | {"module": model}).eval()
        seen.append(whole.test_step(request(70, 93, views=views))[0].pred_sem_seg.data)
    assert seen[0].shape[-2:] == (70, 93) and len(seen[0].unique()) > 1
    assert (seen[0] != seen[1]).float().mean() < 1e-3


def test_windows_are_those_of_the_image_and_not_of_a_padded_one(pretrained, monkeypatch):
    """70 x 93 in windows of 64 every 48: at 0 and 6 from the top, at 0 and 29 from the left."""
    _, ours, _ = both(pretrained, "linear")
    x = ours.data_preprocessor(request(70, 93))["inputs"]
    seen, forward = [], ours.backbone.forward
    monkeypatch.setattr(ours.backbone, "forward", lambda window: seen.append(window) or forward(window))
    ours.test_step(request(70, 93))
    expected = [x[..., top : top + 64, left : left + 64] for top in (0, 6) for left in (0, 29)]
    assert len(seen) == 4 and all(torch.equal(a, b) for a, b in zip(seen, expected))
