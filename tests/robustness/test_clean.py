"""Data given by name, as training takes them, in the commands that read clean images."""

import pytest
from timm.data import ImageNetInfo

from evalkit import results
from evalkit.accuracy import evaluate
from evalkit.cli import invoke
from evalkit.errors import EvalkitError
from evalkit.robustness import layouts
from evalkit.robustness.about.shifts import ImageNetValConfig
from evalkit.robustness.clean import open_clean
from evalkit.train.run import train
from tests.conftest import tiny
from tests.evalkit import listed_miniatures as small

from .fakes import loaded, shrink, vit, write_tree

QUICK = ["workers=0", "device=cpu"]


@pytest.mark.parametrize("name", ["tiny-imagenet", "torch/image_folder"])
def test_every_command_takes_them(tmp_path, name, capsys):
    root = small.tiny_imagenet(tmp_path / "data")
    if name != "tiny-imagenet":
        root = root / "train"
    keys = ["train_split=train", "val_split=val", "batch_size=4", "micro_batch=4", "mixup=vanilla", "eval_resize=32"]
    if name == "torch/image_folder":  # torchvision's class for folders: both parts lie below the root
        write_tree(tmp_path / "both" / "train", {"a": 4, "b": 3}, side=32)
        write_tree(tmp_path / "both" / "val", {"a": 2, "b": 2}, side=40)
        root = tmp_path / "both"
    run = tmp_path / "run"
    assert train(tiny(f"data={name}", f"data_dir={root}", *keys), run) == 0
    trained = results.read([run])[0]
    assert (trained["n"], trained["published"]) == (6 if name == "tiny-imagenet" else 4, False)
    told = "not the published set: 3 classes instead of 200" in " ".join(trained["notes"])
    assert told is (name == "tiny-imagenet")

    assert evaluate(str(run), name, tmp_path / "eval", [f"data_dir={root}", "weights=raw", *QUICK]) == 0
    assert evaluate(str(run), None, tmp_path / "eval", [f"data_dir={root}", *QUICK]) == 0  # the run's own data
    assert results.read([tmp_path / "eval"])[0]["metrics"]["top1"] == trained["metrics"]["top1"]
    for protocol in ("imagenet-val", "occlusion"):
        more = ["modes=[random]", "levels=[0.5]", "repeats=1", "grid=8"] if protocol == "occlusion" else []
        where = ["--data", name, "--out", str(tmp_path / protocol), f"data_dir={root}"]
        code, message = invoke(["robustness", protocol, str(run), *where, *more, *QUICK])
        assert code == 0, message
        record = results.read([tmp_path / protocol])[0]
        assert record["n"] == trained["n"] and not record["published"] and not record["demonstration"]
        if protocol == "imagenet-val":
            assert record["metrics"]["top1"] == trained["metrics"]["top1"]
    code, message = invoke(["robustness", "occlusion", str(run), "--data", str(root), f"data_dir={root}"])
    assert code == 1 and "data_dir" in message and "belongs to data by name" in message and "\n" not in message.strip()


def test_imagenet_through_torchvision_is_the_published_set(tmp_path, monkeypatch):
    """Its validation images, by WordNet ids and numbers of images, as from a folder."""
    shrink(monkeypatch, {})
    wnids = ImageNetInfo().label_names()
    write_tree(tmp_path / "val", dict.fromkeys(wnids, 1), side=8)
    model = loaded(vit(1000), wnids)
    opened = open_clean(model, ImageNetValConfig(data="torch/image_folder", data_dir=str(tmp_path)))
    folder = layouts.open_set("val", str(tmp_path / "val"), model, False)
    assert opened.published and opened.complete and opened.matched == folder.matched and len(opened.images) == 1000
    assert (layouts.labels_in(opened.images, wnids) == layouts.labels_in(folder.images, wnids)).all()
    some = open_clean(model, ImageNetValConfig(data="torch/image_folder", data_dir=str(tmp_path)), only=wnids[3:5])
    assert len(some.images) == 2 and some.classes == wnids[3:5]
    write_tree(tmp_path / "val", {wnids[0]: 2}, side=8)
    with pytest.raises(EvalkitError, match=r"torch/image_folder is not complete: 1 classes without exactly 1 images"):
        open_clean(model, ImageNetValConfig(data="torch/image_folder", data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"data_dir": "x"}, "data_dir=x belongs to data by name"),
        ({"data": "digits-photo", "split": "train"}, "split=train belongs to data by name"),
        ({"data": "torch/image_folder", "data_dir": "DIR", "val_labels": "x"}, "brings its own labels"),
        ({"data": "torch/image_folder", "data_dir": "DIR"}, "their names differ, e.g. 'a'"),
    ],
)
def test_what_does_not_go_together(tmp_path, keys, match):
    write_tree(tmp_path / "val", {"a": 1, "b": 1}, side=8)
    keys = {k: str(tmp_path) if v == "DIR" else v for k, v in keys.items()}
    with pytest.raises(EvalkitError, match=match) as e:
        open_clean(loaded(vit(3), ["c0", "c1", "c2"]), ImageNetValConfig(**keys))
    assert "\n" not in str(e.value)
