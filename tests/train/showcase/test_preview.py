"""The preview sheet: what it says about an image is what is in it."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit.errors import EvalkitError
from evalkit.train import METHODS
from evalkit.train.showcase import preview, sheet, stand_in
from evalkit.train.showcase.preview import SIZE, SWEEP, Look, pictures, save
from evalkit.train.showcase.sheet import Picture, Row

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
    item = Picture(np.zeros((1, 1, 3)), None, np.array([0.374, 0.0, 0.626]), "")
    assert item.caption(["a", "b", "c"]) == "a 37 % · c 63 %"


def test_captions_of_files_do_not_overlap(net):
    """Long names are shortened and shares stand below one another, each within the width of its picture; $ signs are no
    formulas."""
    names = ["ILSVRC2012_val_00000001", "a/very/deep/folder/of/images/x$\\frac$", "b"]
    item = Picture(np.zeros((4, 4, 3), np.uint8), None, np.array([0.5, 0.3, 0.2]), "")
    rows = [Row("comixup", [item] * 6), Row("cutmix", [item] * 6)]
    figure = sheet.draw(names, torch.zeros(3, 3, 4, 4, dtype=torch.uint8), rows)
    figure.draw_without_rendering()
    boxes = [
        (text.get_text(), text.get_window_extent()) for ax in figure.axes for text in ax.texts if "%" in text.get_text()
    ]
    assert "ILSVRC" not in boxes[0][0] and boxes[0][0].startswith("…") and boxes[0][0].count("\n") == 2
    pictures = [ax.get_window_extent() for ax in figure.axes]
    assert len(boxes) == 12 and not any(a.overlaps(b) for (_, a), (_, b) in combinations(boxes, 2))
    assert not any(box.overlaps(picture) for _, box in boxes for picture in pictures)


def test_png_and_html(tmp_path):
    assert save([], "mixup,supermix", tmp_path / "sheet.png") == []
    assert min(Image.open(tmp_path / "sheet.png").size) > 300
    for name, colour in (("one", "red"), ("two", "blue"), ("three", "green")):
        Image.new("RGB", (300, 250), colour).save(tmp_path / f"{name}.png")
    images = [tmp_path / f"{n}.png" for n in ("one", "two", "three")]
    assert save(images, "cutmix, comixup", tmp_path / "sheet.html") == []
    text = (tmp_path / "sheet.html").read_text()
    assert "data:image/png;base64," in text and "<th>cutmix</th>" in text and "one " in text and "src=" in text


def test_every_method_has_its_pictures(net):
    """The learned ones too, with a mix block that knows nothing yet; a choice shows one of its methods."""
    for name in METHODS:
        if name not in AREA:  # shown above
            own = stand_in.suited(name, net)
            items = pictures(name, stand_in.method(name, own), PIXELS, own, look=Look(lambdas=(0.5,)))
            assert len(items) == 2 and all(item.pixels.shape == (SIZE, SIZE, 3) for item in items), name


def test_a_sweep_of_ones_own(net):
    look = Look(lambdas=(0, 0.25, 1))
    _, *sweep = pictures("mixup", stand_in.method("mixup", net), PIXELS, net, look=look)
    assert [item.title for item in sweep] == ["λ = 0", "λ = 0.25", "λ = 1"]
    assert [item.pixels.mean() for item in sweep] == pytest.approx([255, 191, 0], abs=1)


def test_every_image_with_the_next(net):
    """Image 2 of three is mixed with image 0: at lambda 0.5 green is half the red one."""
    pixels = torch.stack([torch.full((3, SIZE, SIZE), v, dtype=torch.uint8) for v in (0, 100, 200)])
    own = stand_in.network(SIZE, 3)
    method = stand_in.method("mixup", own)
    for first, mean in enumerate((50, 150, 100)):
        item = pictures("mixup", method, pixels, own, first, look=Look(lambdas=(0.5,)))[1]
        assert item.pixels.mean() == pytest.approx(mean, abs=1)
        assert item.shares == pytest.approx([0.5 * (k in (first, (first + 1) % 3)) for k in range(3)])


def test_rows_of_pairs_and_class_attention(tmp_path):
    """A row for each pair, a line of attention beneath each; a CNN has none."""
    plain, tall = tmp_path / "plain.png", tmp_path / "tall.png"
    assert save([], "mixup", plain) == []
    notes = save([], "mixup,snapmix", tall, look=Look(pairs=True, attention=True))
    assert notes == ["the class attention is that of a random network; --checkpoint RUN shows a trained one's"]
    heights = [Image.open(path).size[1] for path in (plain, tall)]
    assert 3.5 < heights[1] / heights[0] < 5  # originals and 1 line; originals and 2 x 2 x 2


def test_the_attention_beneath_is_that_of_the_mixed_sample(net):
    method = stand_in.method("maskmix", net)
    items = pictures("maskmix", method, PIXELS, net, look=Look(attention=True))
    for item in items:
        x = (torch.from_numpy(item.pixels).permute(2, 0, 1)[None] / 255 - torch.tensor(net.mean)[:, None, None]) / (
            torch.tensor(net.std)[:, None, None]
        )
        assert item.attention.ravel() == pytest.approx(net.class_attention(x)[0][0].numpy(), abs=1e-4)
        assert item.attention.shape == (14, 14)
    cnn = stand_in.suited("snapmix", net)
    assert (
        pictures("snapmix", stand_in.method("snapmix", cnn), PIXELS, cnn, look=Look(attention=True))[0].attention
        is None
    )


@pytest.mark.parametrize(
    ("images", "methods", "out", "message"),
    [
        ([], "mixup", "sheet.jpg", "is a .png or an .html file"),
        (["one.png"], "mixup", "sheet.png", "two different images or more"),
        (["one.png", "one.png"], "mixup", "sheet.png", "two different images or more"),
        (["one.png", "two.png"], "mixup", "sheet.png", "cannot read image"),
        ([], "mixpu", "sheet.png", "Did you mean 'mixup'"),
        ([], "nowhere:Mine", "sheet.png", "cannot import mixup 'nowhere:Mine'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, images, methods, out, message):
    with pytest.raises(EvalkitError, match=message):
        save([tmp_path / name for name in images], methods, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_cannot_be_set_up_is_left_out_with_its_reason(tmp_path, monkeypatch):
    class Unwilling(METHODS["mixup"]):
        def setup(self, net):
            raise EvalkitError("wants more")

    monkeypatch.setitem(METHODS, "unwilling", Unwilling)
    assert save([], "mixup,unwilling", tmp_path / "a.png") == ["left out: unwilling: wants more"]
    with pytest.raises(EvalkitError, match="left out: unwilling: wants more"):
        save([], "unwilling", tmp_path / "b.png")
    for lambdas in ((), (0.5, 1.5)):
        with pytest.raises(EvalkitError, match="--lambdas are numbers between 0 and 1"):
            save([], "mixup", tmp_path / "c.png", look=Look(lambdas=lambdas))
