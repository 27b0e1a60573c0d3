"""The loop over mmengine's parts: weights that survive it, and the files it leaves."""

import hashlib
import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from evalkit import checkpoint, config
from evalkit.downstream import seg
from evalkit.downstream.mm import require
from evalkit.downstream.run import transfer
from evalkit.downstream.seg import SegConfig
from evalkit.errors import EvalkitError

require("mmseg")
engine = importlib.import_module("evalkit.downstream.mm.engine")
checkpoints = importlib.import_module("evalkit.downstream.mm.checkpoints")
backbones = importlib.import_module("evalkit.downstream.mm.backbone")
BaseModule = importlib.import_module("mmengine.model").BaseModule


def backbone(weights, kind=None):
    folder = str(checkpoint.find_folder(weights))
    return (kind or backbones.EvalkitTimmBackbone)("vit_nano_patch4_32", 32, [0], True, {"depth": 1}, folder, "raw")


class Whole(BaseModule):
    """A model as mmseg and mmdet build theirs: parts in a module whose init_weights goes through them."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.backbone = part


def same(model, weights):
    tensors = checkpoint.read_weights(weights)[0]
    return all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())


def test_weights_survive_the_initialisation_of_the_whole(weights):
    whole = Whole(backbone(weights))
    whole.init_weights()
    assert same(whole.backbone.model, weights)


def test_without_the_override_they_would_not(weights):
    """The trap itself: mmengine initialises whatever has a method of that name, and timm's models have one."""
    wiped = Whole(backbone(weights).model)
    wiped.init_weights()
    assert not same(wiped.backbone, weights)


def test_weights_survive_a_run(weights, shapes, tmp_path):
    """One step at a learning rate too small to move anything: what is saved is what was loaded."""
    tiny = [
        f"data={shapes}",
        "crop=32",
        "stride=32",
        "steps=1",
        "warmup_steps=0",
        "batch_size=4",
        "opt=sgd",
        "lr=1e-30",
        "min_lr=0",
        "weight_decay=0",
    ]
    assert (
        transfer(
            seg.TASK,
            str(weights),
            config.load(SegConfig, "digits-scenes", [*tiny, "device=cpu"], folder="seg"),
            tmp_path / "run",
        )
        == 0
    )
    saved = torch.load(tmp_path / "run/checkpoints/step-000000001.pth", weights_only=True)["state_dict"]
    tensors = checkpoint.read_weights(weights)[0]
    compared = [k for k in tensors if k not in ("head.weight", "head.bias")]
    assert len(compared) > 10 and all(
        torch.allclose(saved[f"backbone.model.{k}"], tensors[k], rtol=0, atol=1e-20) for k in compared
    )


def test_the_backbone_is_registered_once_for_both():
    for package in ("mmseg", "mmdet"):
        if importlib.util.find_spec(package):
            assert (
                importlib.import_module(f"{package}.registry").MODELS.get("EvalkitTimmBackbone")
                is backbones.EvalkitTimmBackbone
            )


# ---- files


def test_newest_passes_over_what_was_not_written_whole(tmp_path):
    folder = tmp_path / "checkpoints"
    assert checkpoints.newest(tmp_path) is None
    folder.mkdir()
    (folder / ".partial").write_text("half")
    assert checkpoints.newest(tmp_path) is None
    for step in (5, 20, 100):
        path = folder / f"step-{step:09d}.pth"
        path.write_text("whole")
        path.with_name(path.name + ".sha256").write_text(f"{hashlib.sha256(b'whole').hexdigest()}  {path.name}\n")
    assert checkpoints.newest(tmp_path) == (folder / "step-000000100.pth", 100)
    (folder / "step-000000100.pth").write_text("other bytes")
    with pytest.warns(UserWarning, match="passed over: .*step-000000100.pth is damaged"):
        assert checkpoints.newest(tmp_path) == (folder / "step-000000020.pth", 20)


@pytest.mark.parametrize(
    ("last", "keep", "left"), [(20, 1, [20]), (20, 2, [15, 20]), (15, 1, [15, 20]), (15, 9, [5, 10, 15, 20])]
)
def test_a_resume_deletes_what_a_kill_left_but_no_checkpoint_that_may_be_needed(tmp_path, last, keep, left):
    """A newer one than the run goes on from is damaged: the older are what there is."""
    folder = tmp_path / "checkpoints"
    (tmp_path / ".data.77.tmp").mkdir(parents=True)
    folder.mkdir()
    (folder / ".partial").write_text("half")
    (folder / "step-000000003.pth.sha256").write_text("its checkpoint was deleted first")
    for step in (5, 10, 15, 20):
        for name in (f"step-{step:09d}.pth", f"step-{step:09d}.pth.sha256"):
            (folder / name).write_text("whole")
    checkpoints.prune(tmp_path, folder / f"step-{last:09d}.pth", keep)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"step-{step:09d}.pth{end}" for step in left for end in ("", ".sha256")]
    assert not (tmp_path / ".data.77.tmp").exists()


def test_a_killed_worker_is_told_as_that_and_not_as_a_network_that_cannot_be_trained():
    told = {
        "DataLoader worker (pid 7) is killed by signal: Killed.": "^a data worker died",
        "shapes": r"^it fails \(.*shapes.*\); EVALKIT_DEBUG=1 shows where$",
    }
    for error, match in ((RuntimeError(text), match) for text, match in told.items()):
        with pytest.raises(EvalkitError, match=match), engine.in_one_line("it fails"):
            raise error


def test_missing_packages_are_named(monkeypatch):
    with pytest.raises(
        EvalkitError, match=r"not installed \(No module named 'mmnothing'\).*pip install 'evalkit\[downstream\]'"
    ):
        require("mmnothing")


def test_gradients_are_clipped_without_reading_their_norm_back():
    optim = importlib.import_module("mmengine.optim")
    weights = nn.Parameter(torch.ones(4))
    wrapper = optim.OptimWrapper(torch.optim.SGD([weights], lr=1.0), clip_grad={"max_norm": 1.0})
    wrapper.clip_grad_kwargs["norm_type"] = 2.0
    importlib.import_module("evalkit.downstream.mm.loop").forget_norms(SimpleNamespace(optim_wrapper=wrapper))
    wrapper.update_params((3 * weights).sum())  # a gradient of four threes, its norm 6
    torch.testing.assert_close(weights.detach(), torch.full((4,), 0.5))
    assert "train/grad_norm" not in wrapper.message_hub.log_scalars
