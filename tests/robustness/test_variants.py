"""Variants of occlusion: offset, single pixels, fills, shuffled patches, the cache; none of them is the published
protocol."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data import ImageNetInfo

from evalkit import config, models
from evalkit.errors import EvalkitError
from evalkit.robustness import CONFIGS, imagenet_a, imagenet_o, layouts, masks, occlusion, run, saliency
from evalkit.robustness import sweep as engine
from evalkit.robustness.masks import Setting, settings
from evalkit.robustness.saliency import Saliency
from evalkit.robustness.sweep import sweep

from .fakes import CPU, loaded, noise, records, save_checkpoint, shrink, vit, write_tree
from .test_occlusion import NATIVE

CLASSES = ["bird", "cat", "dog"]
PATH = "n01440764/ILSVRC2012_val_00000293.JPEG"


class Keeper:
    """A network without normalisation that keeps every image it is shown; its prediction is class 0."""

    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen += list(x.clone())
        return torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 3).float()


def go(network, images, columns, **options):
    defaults = {"grid": 4, "saliency": None, "device": CPU, "forward_batch": 1, "batch_size": 5, "workers": 0}
    return sweep(network, images, NATIVE, columns, **defaults | options)


def pixels(images, i):
    return torch.from_numpy(images.pixels[i]).permute(2, 0, 1).float() / 255


# ---- masks


def test_an_offset_moves_the_patches_right_and_down_and_exposes_the_first_pixels():
    images, network = noise(2), Keeper()
    go(network, images, [Setting("random", 0.5, 0), Setting("random", 1.0, 0)], offset=2)
    for i, (half, whole) in enumerate(zip(network.seen[::2], network.seen[1::2])):
        grid = masks.random_ranks(images.ids[i], 16).reshape(4, 4) < 8
        expected = pixels(images, i)
        for y in range(2, 16):
            for x in range(2, 16):
                if grid[(y - 2) // 4, (x - 2) // 4]:
                    expected[:, y, x] = 0
        assert torch.equal(half, expected)
        clean = pixels(images, i)
        assert (
            (whole[:, 2:, 2:] == 0).all()
            and torch.equal(whole[:, :2], clean[:, :2])
            and torch.equal(whole[:, :, :2], clean[:, :, :2])
        )


def test_single_pixels_and_a_small_mask_budget(monkeypatch):
    images, network = noise(5), Keeper()
    columns = settings(["random"], [0.5], 2)
    whole = go(network, images, columns, grid=16, forward_batch=4)
    for i in range(5):
        dropped = (network.seen[1 + 3 * i] == 0).all(dim=0)
        assert int(dropped.sum()) == 128
        np.testing.assert_array_equal(dropped.flatten(), masks.random_ranks(images.ids[i], 256) < 128)
    monkeypatch.setattr(engine, "MASK_BYTES", 1)  # one image at a time
    again = go(Keeper(), images, columns, grid=16, forward_batch=4)
    assert (
        again.predictions.tobytes() == whole.predictions.tobytes()
        and again.dropped.tobytes() == whole.dropped.tobytes()
    )


def test_what_is_dropped_takes_the_colour_asked_for():
    images, network, colour = noise(2), Keeper(), (0.25, 0.5, 1.0)
    go(network, images, [Setting("random", 0.5, 0), Setting("random", 1.0, 0)], fill=colour)
    dropped = (
        torch.from_numpy(masks.random_ranks(images.ids[0], 16) < 8)
        .view(4, 4)
        .repeat_interleave(4, 0)
        .repeat_interleave(4, 1)
    )
    expected = torch.where(dropped, torch.tensor(colour).view(3, 1, 1), pixels(images, 0))
    assert torch.equal(network.seen[0], expected) and torch.equal(
        network.seen[1], torch.tensor(colour).view(3, 1, 1).expand(3, 16, 16)
    )
    assert len(network.seen) == 3  # everything dropped looks the same for both images


def test_shuffled_patches_are_all_there_in_the_drawn_order():
    images, network = noise(3), Keeper()
    columns = settings([], [], 2, [2, 8])
    assert columns == [Setting("clean", 0.0, 0), *(Setting("shuffle", g, r) for g in (2.0, 8.0) for r in (0, 1))]
    got = go(network, images, columns, forward_batch=2)
    seen = iter(network.seen)
    clean = [next(seen) for _ in range(2)]
    assert torch.equal(clean[0], pixels(images, 0)) and (got.dropped == 0).all()
    orders = {
        (i, s.level, s.repeat): masks.shuffled_order(images.ids[i], int(s.level) ** 2, 0, s.repeat)
        for i in range(3)
        for s in columns[1:]
    }
    assert len({o.tobytes() for k, o in orders.items() if k[1] == 8}) == 6  # of each image and repeat its own
    shown = [x.numpy().tobytes() for x in network.seen]
    for (i, level, _), order in orders.items():
        g, expected = int(level), torch.empty(3, 16, 16)
        side = 16 // g
        for place, origin in enumerate(order):
            (y, x), (v, u) = divmod(place, g), divmod(int(origin), g)
            expected[:, y * side : (y + 1) * side, x * side : (x + 1) * side] = pixels(images, i)[
                :, v * side : (v + 1) * side, u * side : (u + 1) * side
            ]
        assert expected.numpy().tobytes() in shown
    # independent of the dropped patches
    assert masks.shuffled_order(PATH, 196).tolist() != np.argsort(masks.random_ranks(PATH, 196)).tolist()
    with pytest.raises(EvalkitError, match="a grid of 3 patches does not divide images of 16"):
        go(Keeper(), images, settings([], [], 1, [3]))


# ---- from the command's keys to the record


@pytest.fixture
def setup(tmp_path):
    root = write_tree(tmp_path / "data", {"cat": 4, "dog": 3, "bird": 2})
    keys = {
        "data": str(root),
        "out": str(tmp_path / "out"),
        "workers": 0,
        "forward_batch": 4,
        "grid": 4,
        "levels": [0.5, 1.0],
        "repeats": 2,
    }
    return save_checkpoint(tmp_path / "run", CLASSES), keys | {"saliency": "self"}


def test_every_variant_reaches_the_record(setup):
    checkpoint, keys = setup
    variants = [
        {},
        {"offset": 2},
        {"fill": "mean"},
        {"shuffle": [2, 4]},
        {"grid": 16},
    ]
    variants += [{"modes": [], "shuffle": [1, 2]}]
    for variant in variants:
        assert run("occlusion", [str(checkpoint)], CONFIGS["occlusion"](**keys | variant)) == 0
    made = records(Path(keys["out"]))
    assert len({r["records"] for r in made}) == len(variants)
    assert all(r["config"].items() >= variant.items() for r, variant in zip(made, variants))
    plain, _, _, shuffled, _, only = (r["metrics"] for r in made)
    assert plain["top1_salient_1"] == plain["top1_random_1"] == plain["top1_nonsalient_1"]
    assert {k: v for k, v in shuffled.items() if "shuffle" not in k} == plain and {
        "top1_shuffle_2",
        "top1_shuffle_4",
    } < set(shuffled)
    assert "auc_shuffle" not in shuffled and set(only) == {"clean_top1", "top1_shuffle_1", "top1_shuffle_2"}
    assert only["top1_shuffle_1"] == plain["clean_top1"]  # one patch: nothing to shuffle
    (row,) = [s for s in made[3]["series"] if s["mode"] == "shuffle" and s["level"] == 4]
    assert len(row["runs"]) == 2 and row["sd"] is not None
    with pytest.raises(EvalkitError, match="offset=4 is a whole patch of 4 pixels or more"):
        run("occlusion", [str(checkpoint)], CONFIGS["occlusion"](**keys, offset=4))


def test_saliency_is_computed_once_for_all_settings_and_mended_when_damaged(setup, monkeypatch):
    checkpoint, keys = setup
    asked, attend = [], models.Network.class_attention
    monkeypatch.setattr(
        models.Network, "class_attention", lambda self, x, **kw: (asked.append(len(x)), attend(self, x, **kw))[1]
    )
    one = lambda **more: run("occlusion", [str(checkpoint)], CONFIGS["occlusion"](**keys | more))  # noqa: E731
    one()
    (cache,) = (Path(keys["out"]) / "saliency").glob("*.npz")
    content, passes = cache.read_bytes(), len(asked)
    assert passes == 3  # nine images, four a pass
    one(levels=[0.3, 1.0])
    assert len(asked) == passes  # another sweep over the same images
    fresh = records(Path(keys["out"]))[1]
    cache.write_bytes(content[:-9] + b"x" * 9)
    (Path(keys["out"]) / fresh["records"]).unlink()
    one(levels=[0.3, 1.0])
    assert len(asked) == 2 * passes and cache.read_bytes() == content
    assert len(records(Path(keys["out"]))) == 2  # the same numbers as before: nothing is added
    one(head="0")
    # another head is other saliency
    assert len(asked) == 3 * passes and len(list((Path(keys["out"]) / "saliency").glob("*.npz"))) == 2
    with np.load(cache) as stored:
        assert (
            stored["saliency"].shape == (9, 16)
            and stored["saliency"].dtype == np.float32
            and stored["grid"].tolist() == [4, 4]
        )
    assert json.loads(cache.with_suffix(".json").read_text())["source"] == "self"


def test_saliency_of_other_images_is_not_taken_from_the_cache(setup):
    checkpoint, keys = setup
    run("occlusion", [str(checkpoint)], CONFIGS["occlusion"](**keys, limit=4))
    run("occlusion", [str(checkpoint)], CONFIGS["occlusion"](**keys))
    assert len(list((Path(keys["out"]) / "saliency").glob("*.npz"))) == 2
    (cache, *_) = (Path(keys["out"]) / "saliency").glob("*.npz")
    source = Saliency(lambda x, ids: None, {})
    with np.load(cache) as stored:
        ids = stored["ids"].tolist()
    assert saliency.cached(cache, source, ids) is not None and saliency.cached(cache, source, [*ids, "other"]) is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"offset": -1}, "key 'offset' must be at least 0, but got -1"),
        ({"fill": "grey"}, "unknown value of fill 'grey'. Choose one of: black, mean"),
        ({"fill": "0,0,2"}, "unknown value of fill '0,0,2'"),
        ({"shuffle": [4, 2]}, "shuffle must ascend"),
        ({"shuffle": [1]}, "each number of key 'shuffle' must be at least 2"),
    ],
)
def test_one_clear_line(override, message):
    with pytest.raises(EvalkitError, match=message):
        CONFIGS["occlusion"](**override).check()


def test_recipes_of_the_variants(tmp_path):
    """What the sources publish: half a patch of offset, the paper's grids, OpenMixup's grey with its rounded counts."""
    loads = lambda name, *more: config.load(CONFIGS["occlusion"], name, list(more), folder="robustness")  # noqa: E731
    assert loads("occlusion-offset") == loads("occlusion", "offset=8")
    assert loads("occlusion-shuffle") == loads("occlusion", "modes=[]", "shuffle=[2, 4, 8, 14, 16]")
    grey = loads("occlusion-mean")
    assert (grey.fill, grey.modes, grey.repeats) == ("mean", ["random"], 1)
    counts = [masks.dropped_count(level, 196) for level in grey.levels]
    assert counts == [round(196 * i / 10) for i in range(10)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("saliency_norm: model", "key 'saliency_norm' no longer exists; a saliency model sees images normalised as it"),
        ("saliency_pool: true", "key 'saliency_pool' no longer exists; choose the saliency model's own grid="),
        ("salient_by: count", "key 'salient_by' no longer exists; a level is always a share of the saliency's mass"),
    ],
)
def test_files_with_keys_of_the_past(tmp_path, line, message):
    """At what they were by default they are dropped with a line; else the line says what is left."""
    usual = {"saliency_norm": "own", "saliency_pool": "false", "salient_by": "mass"}
    path = tmp_path / "old.yaml"
    path.write_text("\n".join(f"{key}: {value}" for key, value in usual.items()))
    with pytest.warns(UserWarning, match="no longer exists; without it nothing changes"):
        assert config.load(CONFIGS["occlusion"], path, folder="robustness") == CONFIGS["occlusion"]()
    path.write_text(line)
    with pytest.raises(EvalkitError, match=message):
        config.load(CONFIGS["occlusion"], path, folder="robustness")


# ---- published or not


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """plan(protocol, **keys) on true layouts in miniature, for a network that takes 224 pixels."""
    names, root = ImageNetInfo().label_names(), tmp_path_factory.mktemp("published")
    for kind in ("imagenet-a", "imagenet-o"):
        write_tree(root / kind, dict.fromkeys(layouts.wnids(kind), 1), side=8)
    write_tree(root / "val", dict.fromkeys(names, 1), side=8)
    network = vit(1000)
    network.input_size = (224, 224)
    data = {"imagenet-a": "imagenet-a", "imagenet-o": "imagenet-o", "occlusion": "val"}
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, {"imagenet-a": 200, "imagenet-o": 200})

        def no_model(spec, head, *rest):
            return Saliency(lambda x, i: None, {"source": spec, "head": 1 if head == "auto" else head})

        patch.setattr(occlusion, "open_saliency", no_model)
        prepare = {"imagenet-a": imagenet_a.prepare, "imagenet-o": imagenet_o.prepare, "occlusion": occlusion.prepare}

        def plan(protocol, **keys):
            more = {"id_data": str(root / "val")} if protocol == "imagenet-o" else {}
            return prepare[protocol](
                loaded(network, names), CONFIGS[protocol](**{"data": str(root / data[protocol])} | more | keys), CPU
            )

        yield plan


@pytest.mark.parametrize("protocol", ["imagenet-a", "imagenet-o", "occlusion"])
def test_published_needs_every_setting_to_match(published, protocol):
    plan = published(protocol)
    assert plan.published and plan.complete
    assert published(protocol, workers=9, batch_size=7, forward_batch=8).published  # they move no number
    others = [{"limit": 100}, {"preprocess": "model"}]
    if protocol == "occlusion":
        others += [
            {"repeats": 1},
            {"grid": 16},
            {"modes": ["random"]},
            {"levels": [0.5]},
            {"head": "mean"},
            {"saliency": "self"},
            {"offset": 8},
        ]
        others += [
            {"fill": "mean"},
            {"shuffle": [4]},
        ]
    for keys in others:
        assert not published(protocol, **keys).published, keys
