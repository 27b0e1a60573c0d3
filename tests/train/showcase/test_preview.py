"""The preview sheet: what it says about an image is what is in it."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit.errors import EvalkitError
from evalkit.train.showcase import preview, stand_in
from evalkit.train.showcase.preview import SIZE, SWEEP, pictures, save

# black and white
PIXELS = torch.stack(
    [torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8)]
)
NAMES = ["black", "white"]
AREA = (
    *("alignmix", "cutmix", "fmix", "gridmix", "manifold", "maskmix", "mixtoken", "mixup"),
    *("patchmix", "puzzlemix", "resizemix", "smmix", "smoothmix", "saliencymix", "vanilla"),
)


@pytest.fixture(scope="module")
def net():
    return stand_in.network(SIZE, 2)


@pytest.mark.parametrize("name", [*AREA, "attentive_cutmix", "attentivemix_plus", "guidedmixup", "comixup"])
def test_the_written_shares_are_those_of_the_pixels(net, name):
    """Black mixed with white: the mean brightness of each picture is white's share."""
    net = stand_in.suited(name, net)
    for item in pictures(name, stand_in.method(name, net), PIXELS, net):
        assert item.pixels.mean() / 255 == pytest.approx(item.shares[1], abs=0.006)
        assert item.mask is None or 1 - item.mask.mean() == pytest.approx(item.shares[1], abs=0.001)
        assert item.shares.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["mixup", "manifold", "patchmix", "attentivemix_plus", "fmix"])
def test_the_sweep_is_over_lambda(net, name):
    _, *sweep = pictures(name, stand_in.method(name, net), PIXELS, net)
    assert [item.title for item in sweep] == [f"λ = {value}" for value in SWEEP]
    assert [item.shares[0] for item in sweep] == pytest.approx(SWEEP, abs=0.03)


def test_in_a_sweep_all_else_stays(net):
    _, *sweep = pictures("fmix", stand_in.method("fmix", net), PIXELS, net)
    for less, more in pairwise(sweep):
        assert (more.mask >= less.mask).all()  # the same noise, cut at another level
    _, *sweep = pictures("cutmix", stand_in.method("cutmix", net), PIXELS, net)
    for less, more in pairwise(sweep):
        assert (more.mask >= less.mask).all()  # the box grows around one centre


def test_methods_without_a_lambda_show_other_draws(net):
    items = pictures("resizemix", stand_in.method("resizemix", net), PIXELS, net)
    assert {item.title for item in items} == {"a draw"} and len({item.shares[0] for item in items}) > 1


def test_augmix_shows_a_view(net):
    photo = preview.load([])[1]
    first, *_ = pictures("augmix", stand_in.method("augmix", net), photo, net)
    assert first.shares.tolist() == [1, 0] and (first.pixels != photo[0].permute(1, 2, 0).numpy()).any()


def test_captions():
    item = preview.Picture(np.zeros((1, 1, 3)), None, np.array([0.374, 0.0, 0.626]), "")
    assert item.caption(["a", "b", "c"]) == "a 37 % · c 63 %"


def test_captions_of_files_do_not_overlap(net):
    """Long names are shortened and shares stand below one another, each within the width of its picture; $ signs are no
    formulas."""
    names = ["ILSVRC2012_val_00000001", "a/very/deep/folder/of/images/x$\\frac$", "b"]
    item = preview.Picture(np.zeros((4, 4, 3), np.uint8), None, np.array([0.5, 0.3, 0.2]), "")
    figure = preview.draw(
        names, torch.zeros(3, 3, 4, 4, dtype=torch.uint8), {"comixup": [item] * 6, "cutmix": [item] * 6}
    )
    figure.draw_without_rendering()
    boxes = [
        (text.get_text(), text.get_window_extent()) for ax in figure.axes for text in ax.texts if "%" in text.get_text()
    ]
    assert "ILSVRC" not in boxes[0][0] and boxes[0][0].startswith("…") and boxes[0][0].count("\n") == 2
    pictures = [ax.get_window_extent() for ax in figure.axes]
    assert len(boxes) == 12 and not any(a.overlaps(b) for (_, a), (_, b) in combinations(boxes, 2))
    assert not any(box.overlaps(picture) for _, box in boxes for picture in pictures)


def test_png_and_html(tmp_path):
    assert save([], "mixup,supermix", tmp_path / "sheet.png") == [
        "left out: supermix needs a teacher that knows the images' classes"
    ]
    assert min(Image.open(tmp_path / "sheet.png").size) > 300
    for name, colour in (("one", "red"), ("two", "blue"), ("three", "green")):
        Image.new("RGB", (300, 250), colour).save(tmp_path / f"{name}.png")
    assert (
        save([tmp_path / f"{n}.png" for n in ("one", "two", "three")], "cutmix, comixup", tmp_path / "sheet.html") == []
    )
    text = (tmp_path / "sheet.html").read_text()
    assert "data:image/png;base64," in text and "<th>cutmix</th>" in text and "one " in text and "src=" in text


@pytest.mark.parametrize(
    ("images", "methods", "out", "message"),
    [
        ([], "mixup", "sheet.jpg", "is a .png or an .html file"),
        (["one.png"], "mixup", "sheet.png", "two different images or more"),
        (["one.png", "one.png"], "mixup", "sheet.png", "two different images or more"),
        (["one.png", "two.png"], "mixup", "sheet.png", "cannot read image"),
        ([], "supermix", "sheet.png", "left out: supermix"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, images, methods, out, message):
    with pytest.raises(EvalkitError, match=message):
        save([tmp_path / name for name in images], methods, tmp_path / out)
    assert list(tmp_path.iterdir()) == []
