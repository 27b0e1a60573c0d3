"""The numbers in the headers of recipes beside the tables they come from: the published values that ship, and the
transcription of the source tables."""

import csv
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from evalkit import config, recipe_text

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {**row, "file": path.stem}
    for folder in ("evalkit/published", "tests/evalkit/transcription")
    for path in sorted((ROOT / folder).glob("*.csv"))
    for row in csv.DictReader(path.open(encoding="utf-8"))
]
R50, S = {"model": "resnet50"}, {"model": "deit_small_patch16_224"}
A2, A3 = {"setting": "rsb-a2", **R50}, {"setting": "rsb-a3", **R50}
IN100 = {"setting": "pytorch-100", **R50}
DEIT_S = {"model": "deit_small_patch16_224.fb_in1k", "metric": "top1"}
HEADERS = {  # (folder, recipe) -> the numbers of its header, and the row of each
    ("train", "transmix"): [("80.7", {"file": "mixpro", "method": "TransMix", "metric": "top1", **S})],
    ("train", "transmix-as-run"): [("80.7", {"file": "transmix", "method": "TransMix", "metric": "top1", **S})],
    ("train", "tokenmix"): [("80.8", {"file": "mixpro", "method": "TokenMix", "metric": "top1", **S})],
    ("train", "transmix-distilled"): [
        ("81.6", {"file": "transmix", "model": "deit_small_distilled_patch16_224"}),
        ("83.7", {"file": "transmix", "model": "deit_base_distilled_patch16_224"}),
    ],
    ("train", "deit-distilled"): [
        ("81.2", {"file": "transmix", "model": "deit_small_distilled_patch16_224"}),
        ("83.4", {"file": "transmix", "model": "deit_base_distilled_patch16_224"}),
    ],
    ("train", "mixpro"): [("81.3", {"file": "mixpro", "method": "MixPro", "metric": "top1", **S})],
    ("train", "deit-300"): [("79.8", {"file": "mixpro", "method": "baseline", "metric": "top1", **S})],
    ("train", "automix-deit"): [("80.78", {"file": "openmixup", "method": "AutoMix", "setting": "deit-300", **S})],
    ("train", "rsb-a2"): [("79.80", {"method": "Mixup + CutMix", **A2}), ("79.39", {"method": "Mixup", **A2})],
    ("train", "rsb-a3"): [("78.08", {"method": "Mixup + CutMix", **A3}), ("77.66", {"method": "Mixup", **A3})],
    ("train", "imagenet-r50"): [
        *[("76.83", {"method": "vanilla", **IN100}), ("77.01", {"method": "ManifoldMix", **IN100})],
        ("78.14", {"method": "SAMix", **IN100}),
    ],
    ("train", "imagenet-r18"): [("70.04", {"method": "vanilla", "setting": "pytorch-100", "model": "resnet18"})],
    ("train", "cifar100"): [
        (value, {"data": "cifar100", "method": "vanilla", "model": "resnet18_cifar", "setting": f"cifar-{epochs}"})
        for value, epochs in (("78.04", 800), ("76.42", 200), ("77.73", 400), ("78.55", 1200))
    ]
    + [("81.09", {"data": "cifar100", "method": "vanilla", "model": "resnext50_32x4d_cifar", "setting": "cifar-800"})],
    ("train", "tiny-imagenet"): [
        ("61.68", {"method": "vanilla", "model": "resnet18_cifar", "setting": "tiny-400"}),
        ("65.04", {"method": "vanilla", "model": "resnext50_32x4d_cifar", "setting": "tiny-400"}),
    ],
    ("train", "openmixup-deit"): [
        (value, {"method": "Mixup + CutMix", "model": model, "file": "openmixup"})
        for value, model in (
            *(("79.80", "deit_small_patch16_224"), ("74.50", "deit_tiny_patch16_224")),
            *(("81.83", "deit_base_patch16_224"), ("75.10", "pvt_tiny"), ("79.02", "moganet_tiny")),
            *(("81.20", "swin_tiny_patch4_window7_224"), ("82.10", "convnext_tiny")),
        )
    ],
    ("train", "cifar10"): [
        (value, {"data": "cifar10", "method": "vanilla", "model": model, "setting": f"cifar-{epochs}"})
        for value, epochs, model in (
            *(("95.50", 800, "resnet18_cifar"), ("94.87", 200, "resnet18_cifar"), ("95.10", 400, "resnet18_cifar")),
            *(("95.59", 1200, "resnet18_cifar"), ("96.23", 800, "resnext50_32x4d_cifar")),
        )
    ],
    ("det", "coco"): [
        ("40.4", {"file": "mixpro", "method": "baseline", "model": "pvt_small", "metric": "box_ap"}),
        ("37.8", {"file": "mixpro", "method": "baseline", "model": "pvt_small", "metric": "mask_ap"}),
    ],
    ("robustness", "imagenet-a"): [
        (value, {"file": "mixpro", "data": "imagenet-a", "method": "baseline", "metric": metric})
        for value, metric in (("19.1", "top1"), ("32.0", "rms_calibration_error"), ("23.8", "aurra"))
    ],
    ("robustness", "imagenet-o"): [("20.9", {"file": "mixpro", "data": "imagenet-o", "method": "baseline"})],
    ("robustness", "imagenet-r"): [("42.3", {"file": "timm", "data": "imagenet-r", **DEIT_S})],
    ("robustness", "imagenet-sketch"): [("29.4", {"file": "timm", "data": "imagenet-sketch", **DEIT_S})],
    ("robustness", "imagenet-v2"): [("68.5", {"file": "timm", "data": "imagenet-v2", **DEIT_S})],
}
# Numbers of headers that no table here holds, and where they are: DeiT's README (79.854 by its own evaluation); the
# share of one image among six, which chance scores; ImageNet-C's paper, table 1; Naseer et al.'s abstract.
BY_HAND = {
    ("robustness", "imagenet-val"): {"79.9": 79.854},
    ("robustness", "imagenet-o"): {"16.7": 100 * 2000 / 12000},
    ("robustness", "imagenet-c"): {"76.7": 76.7},
    ("robustness", "occlusion"): {"60": 60, "80": 80},
    # configs/classification/*/README.md of OpenMixup 37e1372, the rows without mixing
    ("train", "aircraft"): {"80.23": 80.23, "85.10": 85.10},
    ("train", "cub"): {"77.68": 77.68, "83.01": 83.01},
    ("train", "inat2017"): {"60.23": 60.23, "51.79": 51.79, "63.70": 63.70},
    ("train", "inat2018"): {"62.53": 62.53, "66.94": 66.94},
    ("train", "places205"): {"63.10": 63.10, "59.63": 59.63},
    # metafiles of the configs in mmsegmentation's and mmdetection's wheels, see `test_the_model_zoos_numbers`
    ("seg", "ade20k-fpn"): {"37.5": 37.49, "39.1": 39.09},
    ("seg", "ade20k-upernet"): {"42.05": 42.05, "42.78": 42.78},
    ("seg", "ade20k-upernet-deit"): {"43.8": 43.82, "45.1": 45.07},
    ("seg", "cityscapes-fpn"): {"74.5": 74.52, "76.1": 76.08},
    ("seg", "cityscapes-upernet"): {"78.2": 78.19, "79.2": 79.19},
    ("seg", "pascal-context-deeplabv3plus"): {"47.3": 47.3, "48.5": 48.47},
    ("det", "coco-resnet50"): {"38.2": 38.2, "34.7": 34.7, "38.0": 38.0},
    ("det", "coco-resnet101"): {"40.0": 40.0, "36.1": 36.1, "40.4": 40.4},
    ("det", "coco-retinanet-pvt"): {"40.4": 40.4},
    ("train", "rsb-a2"): {"40": None},  # estimates of cost name the share of the peak
}
NUMBERS = re.compile(r"(?<![\d.])\d{2}\.\d{1,2}(?![\d.])|\b\d{2}(?= % top-1| % dropped)")


def close(value, text):
    return round(float(value), len(text.partition(".")[2])) == float(text)


@pytest.mark.parametrize(("folder", "recipe"), HEADERS)
def test_a_headers_numbers_are_in_their_tables(folder, recipe):
    header = " ".join(recipe_text.header(config.find(recipe, folder)))
    for value, wanted in HEADERS[folder, recipe]:
        rows = [row for row in ROWS if all(row.get(key) == text for key, text in wanted.items())]
        assert value in header and any(close(row["value"], value) for row in rows if row["metric"] != "flops"), value


def test_no_other_number_of_a_published_kind_is_written():
    for folder in ("train", "seg", "det", "robustness"):
        for recipe in config.recipes(folder):
            if recipe.startswith("digits"):
                continue  # measured here, see the committed results
            known = {value for value, _ in HEADERS.get((folder, recipe), [])} | set(BY_HAND.get((folder, recipe), ()))
            lines = [line for line in recipe_text.header(config.find(recipe, folder)) if "Cost" not in line]
            written = set(NUMBERS.findall(" ".join(lines)))
            arxiv = set(re.findall(r"arXiv (\d{4}\.\d{5})", " ".join(lines)))
            assert {n for n in written if not any(n in a for a in arxiv)} <= known, (
                f"{folder}/{recipe}: {written - known}"
            )
    for numbers in BY_HAND.values():
        assert all(exact is None or close(exact, text) for text, exact in numbers.items())


@pytest.mark.parametrize(("folder", "recipe"), [key for key in BY_HAND if key[0] in ("seg", "det")])
def test_the_model_zoos_numbers(folder, recipe):
    """Each number of a header stands in the metafile beside the config, or its network's Caffe-style twin's."""
    package = importlib.util.find_spec({"seg": "mmseg", "det": "mmdet"}[folder])
    if package is None:
        pytest.skip("the extra 'downstream' is not installed")
    name = yaml.safe_load(config.find(recipe, folder).read_text())["config"]
    metafiles = Path(package.origin).parent.glob(".mim/configs/*/metafile.y*ml")
    read = [yaml.safe_load(path.read_text()) for path in metafiles]
    listed = [entry for found in read if isinstance(found, dict) for entry in found["Models"]]
    # the Caffe-style twin; the metafile of DeepLabv3+ on Pascal Context calls its ResNet-101 by the ResNet-50's name
    names = (name, name.replace("_fpn", "-caffe_fpn"), name.replace("plus_r101", "plus_r50"))
    texts = json.dumps([e["Results"] for e in listed if e["Name"] in names])
    for exact in BY_HAND[folder, recipe].values():
        assert re.search(rf": {re.escape(str(exact))}[,}}]", texts), exact
