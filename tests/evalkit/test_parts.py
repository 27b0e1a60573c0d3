"""Pieces of a pass: what is found again, and that a resumed prediction is the uninterrupted one, byte for byte."""

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit import parts as module
from evalkit.data.images import ArrayImages, BadImage, Subset
from evalkit.data.transforms import eval_transform
from evalkit.inference import Pass, predict
from evalkit.parts import Parts
from evalkit.runtime import leave_processes

CPU = torch.device("cpu")


class Killed(BaseException):
    """What kill -9 is to a program: nothing after it runs."""


class Noted(ArrayImages):
    """Every third image has a peculiarity, number 4 cannot be read."""

    def __init__(self, n=30):
        pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
        super().__init__("noted", [f"{i:03d}" for i in range(n)], np.zeros(n, int), ["x"], pixels)
        self.reads = []

    def read(self, i):
        self.reads.append(i)
        if i == 4:
            raise BadImage(self.ids[i], "empty file")
        image = Image.fromarray(self.pixels[i])
        image.info["notes"] = ["cmyk_converted"] if i % 3 == 0 else []
        return image


def network(stop_after=None):
    weight, passes = torch.linspace(-1, 1, 8 * 8 * 3 * 5).view(-1, 5), []

    def forward(x):
        passes.append(len(x))
        if stop_after is not None and len(passes) > stop_after:
            raise Killed
        # a small matrix product may depend on the place of a row
        return torch.stack([(row.flatten()[:, None] * weight).sum(dim=0) for row in x])

    return forward


def run(images, stop_after=None, parts=None, **options):
    rows = options.pop("rows", None)
    how = Pass(CPU, **{"forward_batch": 4, "batch_size": 3, "workers": 0} | options)
    return predict(network(stop_after), images, eval_transform("native", 8), how, rows=rows, parts=parts)


# ---- the files


def test_pieces_come_back_once_and_only_those_of_the_same_kind(tmp_path):
    store = Parts(tmp_path, "gpu")
    assert store.load() is None
    store.save(["b", "a"], x=np.array([[2], [1]]))
    store.save(["c", "a"], x=np.array([[3], [1]]))  # two processes may have done the same image in different sessions
    store.save([])
    Parts(tmp_path, "cpu").save(["d"], x=np.array([[4]]))
    got = Parts(tmp_path, "gpu").load()
    assert got["ids"].tolist() == ["a", "b", "c"] and got["x"].tolist() == [[1], [2], [3]]
    store.remove()
    assert not tmp_path.exists() and store.load() is None


def test_a_damaged_piece_is_not_there(tmp_path):
    store = Parts(tmp_path, "k")
    store.save(["a"], x=np.ones((1, 100)))
    (whole,) = tmp_path.iterdir()
    store.save(["b"], x=np.ones((1, 100)))
    content = whole.read_bytes()
    for bad in (content[:50], content[: len(content) // 2] + b"\xff" + content[len(content) // 2 + 1 :], b""):
        whole.write_bytes(bad)
        assert store.load()["ids"].tolist() == ["b"]
    (tmp_path / ".k-1.npz.99.tmp").write_bytes(b"half")  # as a crash leaves it
    assert store.load()["ids"].tolist() == ["b"]


# ---- a pass


@pytest.mark.parametrize("stop_after", [0, 1, 3, 6])
@pytest.mark.parametrize("forward_batch", [1, 4])
def test_a_resumed_pass_gives_the_same_bytes_and_does_nothing_twice(tmp_path, monkeypatch, stop_after, forward_batch):
    monkeypatch.setattr(module, "SECONDS", 0.0)
    images = Noted()
    reference = run(images, forward_batch=forward_batch)
    notes, images = images.notes, Noted()
    with pytest.raises(Killed):
        run(images, stop_after, Parts(tmp_path, "k"), forward_batch=forward_batch)
    done = stop_after * forward_batch
    images = Noted()
    got = run(images, parts=Parts(tmp_path, "k"), forward_batch=forward_batch)
    assert (
        got.ids == reference.ids
        and got.logits.tobytes() == reference.logits.tobytes()
        and got.bad == reference.bad == [("004", "empty file")]
    )
    assert len(images.reads) == 30 - done and images.notes == notes == {"cmyk_converted": 10}


def test_several_kills_and_another_order_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)
    reference = run(Noted())
    for _ in range(3):
        with pytest.raises(Killed):
            run(Noted(), 2, Parts(tmp_path, "k"))
    order = np.random.default_rng(0).permutation(30)
    images = Noted()
    got = run(Subset(images, order), parts=Parts(tmp_path, "k"))
    assert len(images.reads) == 30 - 3 * 2 * 4
    np.testing.assert_array_equal(got.logits[np.argsort(got.ids)], reference.logits)


def test_a_pass_that_was_done_already_reads_nothing_but_what_was_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)
    reference = run(Noted(), parts=Parts(tmp_path, "k"), forward_batch=1)
    images = Noted()
    assert run(images, parts=Parts(tmp_path, "k"), forward_batch=1).logits.tobytes() == reference.logits.tobytes()
    assert images.reads == [4]


def test_nothing_is_saved_before_it_is_due(tmp_path, monkeypatch):
    assert 5 < module.SECONDS < 60
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)  # nothing takes any time
    run(Noted(), parts=Parts(tmp_path, "k"))
    assert list(tmp_path.iterdir()) == []


def _process(number, folder):
    torch.set_num_threads(1)
    module.SECONDS = 0.0
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    got = run(Noted(), parts=Parts(f"{folder}/parts", "k"))
    np.savez(f"{folder}/{number}.npz", ids=np.array(got.ids), logits=got.logits)
    leave_processes()


def test_one_process_starts_and_two_go_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "SECONDS", 0.0)
        with pytest.raises(Killed):
            run(Noted(), 2, Parts(tmp_path / "parts", "k"))
    torch.multiprocessing.start_processes(_process, args=(str(tmp_path),), nprocs=2, start_method="fork")
    reference = run(Noted())
    for number in range(2):
        with np.load(tmp_path / f"{number}.npz") as got:
            assert got["ids"].tolist() == reference.ids and got["logits"].tobytes() == reference.logits.tobytes()
