"""What recipes for anybody's data pick: image size, batch, learning rate, network."""

import numpy as np
import pytest
from PIL import Image

from evalkit import config, data, results
from evalkit.cli import invoke
from evalkit.errors import EvalkitError
from evalkit.train.config import TrainConfig
from evalkit.train.run import train
from evalkit.train.sizes import batch_size, settle_sizes, shorter_sides

QUICK = ["workers=0", "threads=1", "device=cpu", "epochs=1"]


def folders(root, side, classes, each=4):
    """root/train and root/val of coloured noise; sides of one class are longer."""
    rng = np.random.default_rng(0)
    for split, count in (("train", each), ("val", 2)):
        for label in range(classes):
            (root / split / f"c{label:02d}").mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (side, side + label, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / f"c{label:02d}" / f"{i}.png")
    return root


@pytest.mark.parametrize(
    "recipe, side, classes, words, size, batch",
    [
        ("small", 32, 2, [], 32, 8),
        ("small", 64, 12, ["mixup=cutmix"], 64, 8),
        ("small", 200, 2, [], 64, 8),  # more than the network is made for
        ("small", 45, 2, ["model=vit_nano_patch4_32", "mixup=transmix"], 32, 8),
        ("small", 50, 2, ["model=vit_nano_patch4_32"], 64, 8),
        ("scratch", 200, 12, [], 192, 8),
        ("scratch", 300, 2, ["model=deit_tiny_patch16_224"], 224, 8),
        ("scratch", 100, 2, ["model=deit_tiny_patch16_224"], 96, 8),
        ("finetune", 64, 2, ["model=resnet18"], 224, 8),  # the size of the weights
    ],
)
def test_sizes_follow_from_the_images(tmp_path, recipe, side, classes, words, size, batch):
    root = folders(tmp_path / "my", side, classes)
    cfg = config.load(TrainConfig, recipe, ["data=folder", f"data_dir={root}", *words])
    assert cfg.batch_size is None and cfg.image_size is None
    images = data.load("folder", "train", root=root)
    settled = settle_sizes(cfg, images)
    assert (settled.image_size, settled.batch_size, settled.micro_batch) == (size, batch, batch)
    scaled = cfg.lr * batch / cfg.lr_batch if cfg.lr_batch else cfg.lr
    assert settled.lr == pytest.approx(scaled) and settled.lr_batch is None
    assert settled.picked[0].startswith(f"image_size={size}: ") and settle_sizes(settled, images) is settled
    vit = "vit" in settled.model or "deit" in settled.model
    assert settled.model_args.get("img_size") == (size if vit and size not in (32 * (side == 45), 224) else None)
    assert settled.eval_resize == (size if recipe == "small" else None)


def test_the_batch_leaves_twenty_steps_where_it_can():
    for count in (2, 20, 159, 160, 1000, 5000, 100_000):
        batch = batch_size(count)
        assert batch <= count and (batch in (8, 128) or batch == count or count // (2 * batch) < 20 <= count // batch)


def test_what_is_given_stays(tmp_path):
    root = folders(tmp_path / "my", 40, 2)
    images = data.load("folder", "train", root=root)
    words = [f"data_dir={root}", "image_size=48", "batch_size=4", "lr=0.2"]
    cfg = settle_sizes(config.load(TrainConfig, "small", words), images)
    assert (cfg.image_size, cfg.batch_size, cfg.micro_batch, cfg.eval_resize) == (48, 4, 4, None)
    assert cfg.lr == pytest.approx(0.2 * 4 / 128) and cfg.picked == ["lr=0.00625: 0.2 is meant for batches of 128"]
    assert settle_sizes(config.load(TrainConfig, "small", [*words[:2], "micro_batch=3"]), images).batch_size == 6
    for file in (root / "train").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(EvalkitError, match="can be read; give image_size=N"):
        shorter_sides(data.load("folder", "train", root=root))


def test_the_recipes_have_their_sources_numbers():
    """He et al. 2016, section 4.2; Goyal et al. 2017, section 5.1; Dosovitskiy et al. 2021, table 4."""
    small, scratch, finetune = (
        config.load(TrainConfig, name, ["data_dir=x", *words])
        for name, words in (("small", []), ("scratch", []), ("finetune", ["model=resnet18"]))
    )
    told = lambda c: (c.opt, c.momentum, c.lr, c.lr_batch, c.weight_decay, c.schedule)  # noqa: E731
    assert told(small) == ("momentum", 0.9, 0.1, 128, 1e-4, "cosine") and small.augment == "pad-crop-flip"
    assert told(scratch) == ("sgd", 0.9, 0.1, 256, 1e-4, "cosine")  # timm's sgd is Nesterov's
    assert (scratch.warmup_epochs, scratch.decay_norm_and_bias, scratch.augment) == (5, False, "rrc")
    assert told(finetune) == ("momentum", 0.9, 0.03, 512, 0.0, "cosine") and finetune.clip_grad == 1


def test_a_run_and_one_that_starts_from_it(tmp_path, capsys):
    """The whole way: a first run that picks, its record, a resume, fine-tuning that takes its network and size."""
    root = folders(tmp_path / "my", 33, 3, each=8)
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    words = [f"data_dir={root}", *QUICK]
    assert (
        invoke(["train", "small", *words, "mixup=cutmix", "model_args={channels: [4, 4, 8, 8]}", "--out", str(run)])[0]
        == 0
    )
    printed = capsys.readouterr().out
    record = results.read([run])[0]
    for line in record["config"]["picked"]:
        assert line in printed and line in record["notes"]
    kept = record["config"]
    assert (kept["image_size"], kept["batch_size"], kept["micro_batch"], kept["lr"]) == (32, 8, 8, 0.1 * 8 / 128)
    assert record["recipe"] is None and record["published"] is False
    assert train(None, resume=run) == 0 and len(results.read([run])) == 1
    again = config.load(TrainConfig, run / "config.yaml", ["seed=1"])
    assert (again.image_size, again.lr, again.lr_batch) == (32, kept["lr"], None)
    capsys.readouterr()
    assert invoke(["train", "finetune", f"init={run}", *words, "--out", str(tuned)])[0] == 0
    kept = results.read([tuned])[0]["config"]
    assert (kept["model"], kept["model_args"], kept["image_size"]) == ("resnet10_cifar", {"channels": [4, 4, 8, 8]}, 32)
    assert f"the size that the weights of init={run} are for" in capsys.readouterr().out


def test_what_is_missing_is_said(tmp_path):
    root = folders(tmp_path / "my", 32, 2)
    code, message = invoke(["train", "finetune", f"data_dir={root}"])
    assert code == 1 and message.startswith("model is null, which means the network of a checkpoint: give init=CKPT")
    code, message = invoke(["train", "finetune", f"data_dir={root}", f"init={tmp_path / 'gone'}"])
    assert (code, message) == (1, f"no such checkpoint: {tmp_path / 'gone'}")
    code, message = invoke(["train", "small", f"data_dir={root / 'train'}", *QUICK, "--out", str(tmp_path / "run")])
    assert code == 1 and message.endswith("with holdout=0.2")
