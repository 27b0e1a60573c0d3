import pytest
import torch

from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.train import METHODS
from evalkit.train.showcase import bench, stand_in

CPU = torch.device("cpu")


def test_every_method_is_timed_and_no_pass_through_a_network(monkeypatch):
    searching = "supermix"  # it finds its masks by passes
    names = [n for n in stand_in.chosen(None) if n != searching]
    assert set(METHODS) == {*names, searching}
    passes = []
    for name in ("_pass", "_features"):
        monkeypatch.setattr(
            Network, name, lambda *args, real=getattr(Network, name): (passes.append(1), real(*args))[1]
        )
    once = None
    for repeats in (1, 3):
        passes.clear()
        results = bench.bench(names, batch=4, size=64, device=CPU, repeats=repeats)
        assert (
            [row[0] for row in results] == ["clone", *names]
            and results[0][2] == 1.0
            and all(ms > 0 for _, ms, _ in results)
        )
        assert once in (None, len(passes))  # all before the timing starts
        once = len(passes)


def test_images_of_32_pixels():
    """Smaller than a cell of mixpro's default with 16-pixel patches."""
    assert len(bench.bench(["mixpro", "comixup", "puzzlemix"], batch=2, size=32, device=CPU, repeats=1)) == 4


def test_the_passes_of_supermix_are_timed():
    assert bench.bench(["supermix"], batch=2, size=32, device=CPU, repeats=1)[1][0] == "supermix"


def test_the_median_of_what_a_call_takes(monkeypatch):
    # two warm-ups, then three repeats, of a clone and mixup, a clone and cutmix
    times = iter([9] * 8 + [1, 4, 4, 4] + [1, 6, 4, 7] + [3, 50, 8, 8])
    monkeypatch.setattr(bench, "timed", lambda *_: next(times))
    results = bench.bench(["mixup", "cutmix"], batch=2, size=32, device=CPU, repeats=3)
    assert results == [("clone", 3500, 1.0), ("mixup", 6000, 6 / 3.5), ("cutmix", 7000, 2.0)]


def test_timed(monkeypatch):
    clock = [7.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    assert bench.timed(lambda repeat: clock.append(clock.pop() + 0.5 * repeat), 3, CPU) == 1.5


@pytest.mark.parametrize(("names", "message"), [("mixpu", "Did you mean 'mixup'"), (" , ", "which methods")])
def test_wrong_names(names, message):
    with pytest.raises(EvalkitError, match=message):
        stand_in.chosen(names)


def test_sizes_that_patches_do_not_divide():
    with pytest.raises(EvalkitError, match="multiple of 16"):
        stand_in.network(100, 2)
