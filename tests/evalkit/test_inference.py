"""Forward passes: the right logits, the same bytes however they are batched, and clear lines for what goes wrong."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evalkit import inference, models, progress
from evalkit.data.images import ArrayImages, BadImage
from evalkit.data.transforms import eval_transform
from evalkit.errors import EvalkitError
from evalkit.inference import Pass, predict
from evalkit.runtime import leave_processes

CPU = torch.device("cpu")
NATIVE = eval_transform("native", 16)
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


class SomeBad(ArrayImages):
    bad = (3, 8)

    def read(self, i: int) -> Image.Image:
        if i in self.bad:
            raise BadImage(self.ids[i], "image file is truncated")
        return super().read(i)


def make_images(n=21, kind=ArrayImages):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return kind("noise", [f"a/{i:03d}.png" for i in range(n)], [i % 5 for i in range(n)], list("abcde"), pixels)


def make_network(name="vit_tiny_patch16_224", **args):
    torch.manual_seed(0)
    return models.create(name, **(args or VIT)).eval()


def run(images, network, **options):
    more = {key: options.pop(key) for key in ("rows", "on_error", "parts") if key in options}
    return predict(network, images, NATIVE, Pass(CPU, **{"forward_batch": 8, "workers": 0} | options), **more)


# ---- the numbers


def test_logits_are_those_of_the_normalised_images_in_the_order_of_the_set():
    images, network = make_images(), make_network()
    got = run(images, network)
    x = torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
    with torch.no_grad():
        expected = network.model((x - mean) / std)
    np.testing.assert_allclose(got.logits, expected.numpy(), atol=1e-5)
    assert got.logits.dtype == np.float32 and got.ids == images.ids and got.labels.tolist() == images.labels.tolist()
    assert got.bad == [] and got.complete


def test_a_plain_callable_gets_pixels_and_may_return_a_tensor():
    images = make_images(3)
    seen = []
    got = run(images, lambda x: (seen.append(x.clone()), x.mean(dim=(2, 3)))[1], forward_batch=2)
    np.testing.assert_array_equal(
        seen[0][1].permute(1, 2, 0).numpy(), images.pixels[1].astype(np.float32) / np.float32(255)
    )
    np.testing.assert_allclose(got.logits, images.pixels.mean(axis=(1, 2)) / 255, atol=1e-6)


def test_every_forward_pass_has_the_same_shape_and_the_last_is_filled_with_its_row_0():
    shapes, last = [], []
    run(
        make_images(21),
        lambda x: (shapes.append(tuple(x.shape)), last.append(x.clone()), x.mean(dim=(2, 3)))[2],
        forward_batch=8,
    )
    assert shapes == [(8, 3, 16, 16)] * 3
    assert all(torch.equal(row, last[-1][0]) for row in last[-1][5:])


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_batch_size_and_workers_change_no_byte(name):
    images = make_images()
    network = make_network() if name == "vit" else make_network("resnet10_cifar", num_classes=5)
    reference = run(images, network, batch_size=64).logits.tobytes()
    for batch_size, workers in ((1, 0), (7, 0), (7, 2), (64, 2)):
        assert run(images, network, batch_size=batch_size, workers=workers).logits.tobytes() == reference


def _process(number, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    images = make_images(21, SomeBad)
    got = run(images, make_network(), on_error="skip", batch_size=4)
    short = run(images, make_network(), rows=[5])  # the second process has nothing to do
    np.savez(
        f"{folder}/{number}.npz", ids=got.ids, labels=got.labels, logits=got.logits, bad=got.bad, short=short.logits
    )
    leave_processes()


def test_two_processes_end_up_with_the_same_bytes_as_one(tmp_path):
    torch.multiprocessing.start_processes(_process, args=(str(tmp_path),), nprocs=2, start_method="fork")
    images = make_images(21, SomeBad)
    alone, short = run(images, make_network(), on_error="skip"), run(images, make_network(), rows=[5])
    for number in range(2):
        with np.load(tmp_path / f"{number}.npz") as got:
            assert got["ids"].tolist() == alone.ids and got["labels"].tolist() == alone.labels.tolist()
            assert (
                got["logits"].tobytes() == alone.logits.tobytes() and got["short"].tobytes() == short.logits.tobytes()
            )
            assert [tuple(b) for b in got["bad"].tolist()] == alone.bad


def test_rows_select_images_whatever_their_order():
    images, network = make_images(), make_network()
    everything, some = run(images, network), run(images, network, rows=[9, 2, 13])
    assert some.ids == [images.ids[i] for i in (2, 9, 13)]
    assert some.logits.tobytes() == everything.logits[[2, 9, 13]].tobytes()


def test_precision_is_plain_float32_inside_and_restored_after():
    seen = []

    def network(x):
        seen.append(
            (
                torch.get_float32_matmul_precision(),
                torch.backends.cudnn.allow_tf32,
                torch.is_autocast_enabled("cpu"),
                torch.is_grad_enabled(),
                x.dtype,
            )
        )
        return x.mean(dim=(2, 3))

    torch.set_float32_matmul_precision("high")
    tf32 = torch.backends.cudnn.allow_tf32
    try:
        with torch.autocast("cpu"):
            run(make_images(3), network)
        assert seen == [("highest", False, False, False, torch.float32)]
        assert (
            torch.get_float32_matmul_precision() == "high"
            and torch.backends.cudnn.allow_tf32 == tf32
            and torch.is_grad_enabled()
        )
    finally:
        torch.set_float32_matmul_precision("highest")


# ---- what goes wrong


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_unreadable_images_are_listed_after_the_pass_and_change_no_other_row(on_error):
    network = make_network()
    got, whole = run(make_images(21, SomeBad), network, on_error=on_error), run(make_images(), network)
    kept = [i for i in range(21) if i not in SomeBad.bad]
    assert got.bad == [("a/003.png", "image file is truncated"), ("a/008.png", "image file is truncated")]
    assert got.complete == (on_error == "skip") and got.ids == [whole.ids[i] for i in kept]
    assert got.logits.tobytes() == whole.logits[kept].tobytes()


def test_no_readable_image_at_all():
    with pytest.raises(
        EvalkitError,
        match=r"none of the 2 images of noise could be read; the first: a/003.png: image file is truncated",
    ):
        run(make_images(21, SomeBad), make_network(), rows=[3, 8])


def test_training_mode_is_refused_wherever_it_hides():
    network = make_network()
    network.model.blocks[1].mlp.drop1.train()
    with pytest.raises(ValueError, match=r"eval mode, but 'model.blocks.1.mlp.drop1' is in training mode"):
        run(make_images(2), network)
    with pytest.raises(ValueError, match="eval mode, but it is in training mode"):
        run(make_images(2), nn.Flatten().train())


def test_non_finite_logits_name_the_images():
    def network(x):
        out = x.mean(dim=(2, 3))
        out[1] = float("nan")
        return out

    with pytest.raises(EvalkitError, match=r"not finite for 3 of 21 images, e.g. a/001.png, a/009.png, a/017.png"):
        run(make_images(), network)


def test_an_image_that_comes_up_twice_or_not_at_all_is_an_error(monkeypatch):
    images = make_images(6)
    whole = inference.eval_batches

    def repeated(*args, **kwargs):
        batches = list(whole(*args, **kwargs))
        return iter([*batches, batches[0]])

    monkeypatch.setattr(inference, "eval_batches", repeated)
    with pytest.raises(EvalkitError, match="12 results of 6 different images for 6 asked for"):
        run(images, make_network())
    monkeypatch.setattr(inference, "eval_batches", lambda *a, **k: iter(list(whole(*a, **k))[1:]))
    with pytest.raises(EvalkitError, match="4 results of 4 different images for 6"):
        run(images, make_network(), batch_size=2)


def test_unknown_policy():
    with pytest.raises(ValueError, match="Expected argument `on_error`"):
        run(make_images(2), make_network(), on_error="ignore")


# ---- progress


def test_progress_is_plain_lines_off_a_terminal_and_silent_without_a_name(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    run(make_images(20), make_network(), what="noise by vit")
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 3
        and lines[0].startswith("noise by vit: 8/20 images, ")
        and lines[-1].startswith("noise by vit: 20/20")
    )
    run(make_images(20), make_network())
    assert capsys.readouterr().err == ""


def test_progress_draws_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.progress("pass", 10) as advance:
        advance(10)
    assert "pass" in capsys.readouterr().err
