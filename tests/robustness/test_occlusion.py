"""Occlusion: masks by hand and by slow definitions, the sweep on planted patches, the numbers from records written by
hand."""

import doctest
import hashlib
import itertools
import math

import numpy as np
import pytest
import torch

from evalkit.data.images import Subset
from evalkit.data.transforms import eval_transform
from evalkit.errors import EvalkitError
from evalkit.inference import Pass, predict
from evalkit.robustness import masks, occlusion
from evalkit.robustness import sweep as engine
from evalkit.robustness.masks import Setting, settings
from evalkit.robustness.saliency import Saliency, attention
from evalkit.robustness.sweep import sweep
from evalkit.runtime import leave_processes

from .fakes import CPU, noise, vit

LEVELS = [i / 10 for i in range(10)]
NATIVE = eval_transform("native", 16)
HAND = np.array([[0.05, 0.40, 0.25, 0.10, 0.20]])
PATH = "n01440764/ILSVRC2012_val_00000293.JPEG"


def test_doctests():
    result = doctest.testmod(masks)
    assert result.attempted >= 5 and result.failed == 0


# ---- random masks


def test_random_order_is_the_published_vector():
    assert masks.path_hash(PATH) == 6470457453692079422
    ranks = masks.random_ranks(PATH, 196)
    assert ranks[:10].tolist() == [29, 50, 89, 152, 163, 140, 119, 104, 19, 36]
    assert sorted(ranks.tolist()) == list(range(196))


def test_every_bit_of_path_and_seed_counts():
    """Half of all path hashes lie above 2^63; the same generator from whole numbers, of 128 bits the key and 256 the
    counter."""
    hashes = []
    for i, seed, repeat in itertools.product(range(40), (0, 2**63 + 1, 2**64 - 1), (0, 4)):
        path = f"n01440764/{i}.JPEG"
        hashes.append(int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "little"))
        for stream, ours in ((0, masks.random_ranks), (1, masks.shuffled_order)):
            words = np.random.Philox(
                key=seed + (repeat << 64), counter=(hashes[-1] << 192) + (stream << 128)
            ).random_raw(50)
            order = sorted(range(50), key=lambda p: words[p])
            expected = order if stream else [order.index(p) for p in range(50)]
            assert ours(path, 50, seed, repeat).tolist() == expected
    assert min(hashes) < 2**63 < max(hashes)


def test_random_order_depends_on_seed_repeat_and_path_only():
    base = masks.random_ranks(PATH, 196, 3, 1)
    assert (base == masks.random_ranks(PATH, 196, 3, 1)).all()
    for other in (
        masks.random_ranks(PATH, 196, 4, 1),
        masks.random_ranks(PATH, 196, 3, 2),
        masks.random_ranks(PATH + "x", 196, 3, 1),
    ):
        assert (base != other).any()


def test_dropped_counts_are_the_published_integers():
    assert [masks.dropped_count(i / 10, 196) for i in range(11)] == [0, 19, 39, 58, 78, 98, 117, 137, 156, 176, 196]
    for patches in (4, 49, 64, 90, 196, 256):  # 0.7 * 90 is below 63 in floating point
        assert [masks.dropped_count(i / 10, patches) for i in range(11)] == [i * patches // 10 for i in range(11)]


def test_random_masks_of_an_image_are_nested_and_have_the_right_size():
    columns = settings(["random"], LEVELS, 2)
    drawn = masks.image_masks([PATH, "other"], None, columns, 14, 224, 0)
    assert drawn.shape == (2, 19, 196) and not drawn[:, 0].any()
    for b in range(2):
        for repeat in range(2):
            chain = [drawn[b, c] for c, s in enumerate(columns) if s.mode == "random" and s.repeat == repeat]
            assert [m.sum() for m in chain] == [i * 196 // 10 for i in range(1, 10)]
            assert all((small <= large).all() for small, large in itertools.pairwise(chain))
    assert (drawn[0, 1:] != drawn[1, 1:]).any()


def test_random_masks_hit_every_patch_alike():
    """Each patch is dropped in a share M/N of many images: the marginal law of the published code."""
    share = np.mean([masks.random_ranks(f"{i}.png", 16) < 8 for i in range(4000)], axis=0)
    assert abs(share - 0.5).max() < 4 * math.sqrt(0.25 / 4000)


# ---- salient masks


@pytest.mark.parametrize(
    ("level", "dropped"),
    [(0.3, {1}), (0.5, {1, 2}), (0.7, {1, 2, 4}), (0.9, {1, 2, 3, 4}), (0.0, set()), (1.0, {0, 1, 2, 3, 4})],
)
def test_salient_hand_example(level, dropped):
    assert set(np.flatnonzero(masks.salient_masks(HAND, [level])[0, 0])) == dropped


@pytest.mark.parametrize(
    ("level", "dropped"), [(0.3, {0, 3}), (0.5, {0, 3, 4}), (0.7, {0, 2, 3, 4}), (0.0, set()), (1.0, {0, 1, 2, 3, 4})]
)
def test_nonsalient_hand_example(level, dropped):
    assert set(np.flatnonzero(masks.nonsalient_masks(HAND, [level])[0, 0])) == dropped


def slow_salient(values, level):
    """Patches taken from the least salient up until 1 - level of the mass is used; the others are dropped."""
    if level in (0, 1):
        return set(range(len(values))) if level else set()
    order = sorted(range(len(values)), key=lambda p: (values[p], p))
    total, dropped = 0.0, set()
    for p in order:
        total += values[p] / sum(values)
        if total > 1 - level:
            dropped.add(p)
    return dropped


def test_salient_masks_equal_the_slow_definition_and_carry_the_mass():
    rng = np.random.default_rng(0)
    for _ in range(100):
        values = rng.dirichlet(np.full(49, 0.3), 1)
        salient, nonsalient = masks.salient_masks(values, LEVELS)[0], masks.nonsalient_masks(values, LEVELS)[0]
        for level, s, n in zip(LEVELS, salient, nonsalient):
            assert set(np.flatnonzero(s)) == slow_salient(values[0], level)
            assert set(np.flatnonzero(n)) == set(range(49)) - slow_salient(values[0], 1 - level)
            assert values[0, s].sum() >= level - 1e-9 and values[0, n].sum() <= level + 1e-9
            if s.any():  # minimal: without its least salient patch the mass would not do
                assert values[0, s].sum() - values[0, s].min() <= level + 1e-9


def test_equal_saliency_is_ordered_by_patch():
    assert np.flatnonzero(masks.salient_masks(np.ones((1, 8)), [0.3])[0, 0]).tolist() == [5, 6, 7]
    assert np.flatnonzero(masks.nonsalient_masks(np.ones((1, 8)), [0.3])[0, 0]).tolist() == [0, 1]


def test_no_level_drops_a_patch_at_zero_even_where_the_mass_exceeds_one_by_rounding():
    rng = np.random.default_rng(1)
    values = rng.random((500, 196)).astype(np.float32)
    assert not masks.salient_masks(values, [0.0]).any() and not masks.nonsalient_masks(values, [0.0]).any()
    assert masks.salient_masks(values, [1.0]).all() and masks.nonsalient_masks(values, [1.0]).all()


def test_masks_move_to_a_finer_grid_by_nearest_cell():
    coarse = np.array([True, False, False, True])
    assert masks.resample(coarse, (2, 2), 4).reshape(4, 4).astype(int).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]
    np.testing.assert_array_equal(masks.resample(coarse, (2, 2), 5).reshape(5, 5)[0], [True, True, True, False, False])
    assert masks.resample(coarse, (2, 2), 2) is coarse


# ---- the sweep


def planted(images, patches):
    """Saliency that is all on the given patches of a 4 x 4 grid; and counts how often each image is asked for."""
    asked = {}

    def source(x, ids):
        for sample in ids:
            asked[sample] = asked.get(sample, 0) + 1
        values = np.full((len(x), 16), 1e-9)
        for row, sample in enumerate(ids):
            values[row, patches[images.ids.index(sample)]] = 1.0
        return values, (4, 4)

    return Saliency(source, {}), asked


class Recorder:
    """A network that keeps what it is shown; its prediction is the number of black patches of a 4 x 4 grid."""

    def __init__(self):
        self.seen, self.shapes = [], []

    def __call__(self, x):
        self.shapes.append(tuple(x.shape))
        black = (x.reshape(-1, 3, 4, 4, 4, 4).abs().amax(dim=(1, 3, 5)) == 0).flatten(1)
        self.seen += list(black.numpy())
        return torch.nn.functional.one_hot(black.sum(dim=1), 17).float()


def run(network, images, columns, **options):
    defaults = {"grid": 4, "saliency": None, "device": CPU, "forward_batch": 8, "batch_size": 5, "workers": 0}
    return sweep(network, images, NATIVE, columns, **defaults | options)


def test_salient_dropping_blackens_exactly_the_planted_patches():
    images = noise(7)
    patches = [sorted(np.random.default_rng(i).choice(16, 1 + i % 3, replace=False)) for i in range(7)]
    source, asked = planted(images, patches)
    network = Recorder()
    columns = [Setting("clean", 0.0, 0), Setting("salient", 0.9999, 0), Setting("nonsalient", 0.0001, 0)]
    got = run(network, images, columns, saliency=source, forward_batch=3)
    assert got.predictions.tolist() == [[0, len(p), 16 - len(p)] for p in patches]
    np.testing.assert_allclose(got.dropped, [[0, len(p) / 16, 1 - len(p) / 16] for p in patches])
    assert {tuple(np.flatnonzero(m)) for m in network.seen} >= {tuple(p) for p in patches}
    assert set(asked.values()) == {1} and len(asked) == 7 and (images.reads == 1).all()


def test_every_forward_pass_has_the_same_shape_and_rows_of_several_images_share_it():
    images, network = noise(7), Recorder()
    run(network, images, settings(["random"], LEVELS, 1), forward_batch=8)
    assert network.shapes == [(8, 3, 16, 16)] * math.ceil(7 * 10 / 8)


def test_coinciding_masks_and_the_black_image_are_forwarded_once():
    images, network = noise(5), Recorder()
    source, _ = planted(images, [[3]] * 5)
    columns = [
        Setting("clean", 0.0, 0),
        *(Setting("salient", q, 0) for q in (0.2, 0.5, 0.9, 1.0)),
        Setting("random", 1.0, 0),
        Setting("random", 0.01, 0),
    ]
    got = run(network, images, columns, saliency=source, forward_batch=1)
    assert len(network.seen) == 5 * 2 + 1  # clean, the planted patch; black once for all
    assert got.predictions.tolist() == [[0, 1, 1, 1, 16, 16, 0]] * 5


def test_level_zero_is_the_clean_prediction_and_everything_dropped_the_constant_one():
    images, network = noise(9), vit()
    columns = settings(["random", "salient", "nonsalient"], [0.0, 0.5, 1.0], 2)
    got = run(network, images, columns, saliency=attention(network, CPU, None, {}))
    clean = predict(network, images, NATIVE, Pass(CPU, workers=0))
    assert got.predictions[:, 0].tolist() == clean.logits.argmax(axis=1).tolist()
    black = (0 - torch.tensor(network.mean).view(1, 3, 1, 1)) / torch.tensor(network.std).view(1, 3, 1, 1)
    with torch.no_grad():
        constant = int(network(black.expand(1, 3, 16, 16)).logits.argmax())
    full = [c for c, s in enumerate(columns) if s.level == 1.0]
    assert len(full) == 4 and (got.predictions[:, full] == constant).all() and (got.dropped[:, full] == 1).all()


def test_masked_pixels_are_black_before_normalisation():
    images, seen = noise(1), []

    class Network:
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)

        def __call__(self, x):
            seen.append(x.clone())
            return x.mean(dim=(2, 3))

    run(Network(), images, settings(["random"], [0.5], 1), forward_batch=2)
    dropped = masks.random_ranks(images.ids[0], 16).reshape(4, 4).repeat(4, 0).repeat(4, 1) < 8
    clean, masked = seen[0]
    expected = torch.tensor([(0 - m) / s for m, s in zip(Network.mean, Network.std)]).view(3, 1)
    assert torch.equal(masked[:, dropped], expected.expand(3, int(dropped.sum()))) and torch.equal(
        masked[:, ~dropped], clean[:, ~dropped]
    )


def test_predictions_equal_a_plain_loop():
    images, network = noise(6), vit()
    columns = settings(["random", "salient", "nonsalient"], [0.0, 0.3, 0.6], 2)
    source = attention(network, CPU, None, {})
    got = run(network, images, columns, saliency=source)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
    for i, sample in enumerate(images.ids):
        x = torch.from_numpy(images.pixels[i]).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            found = source(x[None], [sample])
            for c, setting in enumerate(columns):
                mask = masks.image_masks([sample], found, [setting], 4, 16, 0)[0, 0].reshape(4, 4)
                keep = torch.from_numpy(~mask).float().repeat_interleave(4, 0).repeat_interleave(4, 1)
                assert int(network(((x * keep - mean) / std)[None]).logits.argmax()) == got.predictions[i, c]


def test_saliency_on_another_grid_drops_pixels_of_its_own_patches():
    images, network = noise(2), Recorder()
    values = np.eye(4)[[0, 3]] + 1e-9  # one quarter of the image is salient: a 2 x 2 grid under an occlusion grid of 4
    source = Saliency(lambda x, ids: (np.resize(values, (len(x), 4)), (2, 2)), {})
    got = run(
        network,
        images,
        [Setting("clean", 0.0, 0), Setting("salient", 0.5, 0), Setting("random", 0.5, 0)],
        saliency=source,
        forward_batch=1,
    )
    assert got.predictions.tolist() == [[0, 4, 8], [0, 4, 8]]
    assert network.seen[1].reshape(4, 4).astype(int).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(network.seen[2], masks.random_ranks(images.ids[0], 16) < 8)


def test_batch_size_workers_file_order_and_subset_change_nothing():
    images, network = noise(11), vit()
    columns = settings(["random", "salient", "nonsalient"], [0.0, 0.2, 0.5, 0.8], 2)
    source = attention(network, CPU, None, {})
    reference = run(network, images, columns, saliency=source)
    for batch_size, workers in ((1, 0), (7, 2), (64, 0)):
        got = run(network, images, columns, saliency=source, batch_size=batch_size, workers=workers)
        assert (
            got.predictions.tobytes() == reference.predictions.tobytes()
            and got.dropped.tobytes() == reference.dropped.tobytes()
        )
    order = np.random.default_rng(0).permutation(11)
    shuffled = run(network, Subset(images, order), columns, saliency=source)
    np.testing.assert_array_equal(shuffled.predictions, reference.predictions[order])
    np.testing.assert_array_equal(shuffled.dropped, reference.dropped[order])
    some = run(network, images, columns, saliency=source, rows=[2, 7])
    np.testing.assert_array_equal(some.predictions, reference.predictions[[2, 7]])


def _process(number, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    network = vit()
    got = run(
        network, noise(11), settings(["random", "salient"], LEVELS, 2), saliency=attention(network, CPU, None, {})
    )
    np.savez(f"{folder}/{number}.npz", predictions=got.predictions, dropped=got.dropped)
    leave_processes()


def test_two_processes_end_up_with_the_same_bytes_as_one(tmp_path):
    torch.multiprocessing.start_processes(_process, args=(str(tmp_path),), nprocs=2, start_method="fork")
    network = vit()
    alone = run(
        network, noise(11), settings(["random", "salient"], LEVELS, 2), saliency=attention(network, CPU, None, {})
    )
    for number in range(2):
        with np.load(tmp_path / f"{number}.npz") as got:
            assert (
                got["predictions"].tobytes() == alone.predictions.tobytes()
                and got["dropped"].tobytes() == alone.dropped.tobytes()
            )


def test_unreadable_images_are_listed_and_left_out():
    images = noise(6)
    images.bad = (1, 4)
    got = run(Recorder(), images, settings(["random"], [0.5], 1))
    assert got.ids == [images.ids[i] for i in (0, 2, 3, 5)] and got.positions.tolist() == [0, 2, 3, 5]
    assert got.bad == [("c1/001.png", "image file is truncated"), ("c1/004.png", "image file is truncated")]


def test_one_clear_line_for_what_cannot_be():
    images, network = noise(3), Recorder()
    with pytest.raises(
        EvalkitError, match="a grid of 5 patches does not divide images of 16 pixels; choose grid= one of 2, 4, 8"
    ):
        run(network, images, settings(["random"], [0.5], 1), grid=5)
    with pytest.raises(ValueError, match="Expected argument `saliency`"):
        run(network, images, settings(["salient"], [0.5], 1))
    with pytest.raises(ValueError, match="eval mode"):
        run(vit().train(), images, settings(["random"], [0.5], 1))
    with pytest.raises(EvalkitError, match=r"not finite for 3 of 3 images, e.g. c0/000.png"):
        run(lambda x: torch.full((len(x), 3), float("nan")), images, settings(["random"], [0.5], 1))


def test_settings_count_of_the_published_sweep():
    columns = settings(["random", "salient", "nonsalient"], LEVELS, 5)
    assert len(columns) == 9 * 5 + 9 + 9 + 1 and columns[0] == Setting("clean", 0.0, 0) and len(set(columns)) == 64
    assert engine.check_grid(14, 224) is None


# ---- the numbers


def test_curves_and_areas_by_hand():
    """Four images; random with two repeats at levels .4 and .8, salient once."""
    columns = [
        ("clean", 0.0, 0),
        ("random", 0.4, 0),
        ("random", 0.4, 1),
        ("random", 0.8, 0),
        ("random", 0.8, 1),
        ("salient", 0.4, 0),
        ("salient", 0.8, 0),
    ]
    predictions = np.array([[0, 0, 0, 0, 1, 0, 1], [1, 1, 0, 0, 0, 1, 0], [0, 0, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0]])
    labels = np.array([0, 1, 0, 0])  # clean: three of four
    dropped = np.tile([0, 0.4, 0.4, 0.8, 0.8, 0.1, 0.6], (4, 1))
    mode, level, repeat = zip(*columns)
    arrays = {"ids": np.array(list("abcd")), "labels": labels, "predictions": predictions, "dropped": dropped}
    arrays |= {"mode": np.array(mode), "level": np.array(level), "repeat": np.array(repeat)}
    outcome = occlusion.evaluate(arrays)
    m = outcome.metrics
    assert outcome.n == 4 and m["clean_top1"] == 0.75
    # random .4: runs {0,1,2,3 right: 1,1,1,1} = 1.0 and {1,0,0,1} = 0.5; .8: {1,0,0,1} = .5 and {0,0,0,1} = .25
    assert m["top1_random_0.4"] == pytest.approx(0.75) and m["top1_random_0.8"] == pytest.approx(0.375)
    assert m["top1_salient_0.4"] == pytest.approx(0.75) and m["top1_salient_0.8"] == pytest.approx(0.25)
    assert m["auc_random"] == pytest.approx((0.4 * (0.75 + 0.75) / 2 + 0.4 * (0.75 + 0.375) / 2) / 0.8)
    assert m["auc_salient"] == pytest.approx((0.4 * (0.75 + 0.75) / 2 + 0.4 * (0.75 + 0.25) / 2) / 0.8)
    rows = {(r["mode"], r["level"]): r for r in outcome.series}
    assert rows["random", 0.4]["runs"] == [1.0, 0.5] and rows["random", 0.4]["sd"] == pytest.approx(math.sqrt(0.125))
    assert rows["random", 0.0] == {
        "mode": "random",
        "level": 0.0,
        "top1": 0.75,
        "sd": None,
        "runs": [0.75],
        "dropped_share": 0.0,
    }
    assert rows["salient", 0.8]["sd"] is None and rows["salient", 0.8]["dropped_share"] == pytest.approx(0.6)
    assert outcome.standard_errors["clean_top1"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    per_image = np.array(
        [
            (0.4 * (a + b) / 2 + 0.4 * (b + c) / 2) / 0.8
            for a, b, c in ((1, 1, 0.5), (1, 0.5, 0), (1, 0.5, 0), (0, 1, 1))
        ]
    )
    assert m["auc_random"] == pytest.approx(per_image.mean()) and outcome.standard_errors[
        "auc_random"
    ] == pytest.approx(per_image.std() / 2)


def test_images_are_let_go_once_their_rows_are_forwarded():
    queue = engine._Forward(Recorder(), CPU, 8)
    for _ in range(10):
        queue.add(torch.rand(4, 3, 16, 16) + 0.1, np.eye(16, dtype=bool)[None, :3].repeat(4, 0))
        assert len(queue.pool) <= 3 and len(queue.image) < 8  # 7 waiting rows belong to 3 images at most
    assert len(queue.finish()) == 10 * 4 * 3
