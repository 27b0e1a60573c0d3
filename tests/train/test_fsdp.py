"""A network that is split over processes is trained as a whole one is, and leaves the same files."""

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.distributed as dist

from evalkit import checkpoint, config, models, results
from evalkit.cli import invoke
from evalkit.errors import EvalkitError
from evalkit.models.build import build
from evalkit.runtime import leave_processes
from evalkit.train import create, fsdp, loop, session
from evalkit.train.checks import SPLIT_FUSED, SPLIT_OPTIMIZERS
from evalkit.train.config import TrainConfig
from evalkit.train.mixups import from_config
from evalkit.train.optim import kernels, make_optimizer
from evalkit.train.resolve import resolve

from .test_resume import digest

VIT = ["model=vit_nano_patch4_32", "model_args={drop_path_rate: 0.1, depth: 2}"]
SWIN = "img_size: 32, patch_size: 2, window_size: 4, embed_dim: 12, depths: [1, 1, 2, 1], num_heads: [1, 2, 2, 2]"
SWIN = ["model=swin_tiny_patch4_window7_224", f"model_args={{{SWIN}}}"]
SGD, ADAM = ["opt=momentum", "lr=0.05"], ["opt=adamw", "lr=0.001"]
RESNET = ["model=resnet10_cifar", *SGD]
PUZZLEMIX = ["mixup={name: puzzlemix, clean_lam: 1.0}", "mix_draws=step"]  # a pass for gradients, two that train
MIXTURE = "mixup={choice: [mixup, transmix]}"
COMMON = [
    "digits",
    "epochs=1",
    "batch_size=48",
    "micro_batch=8",  # three in each of two processes, two in each of three: gradients add up
    "augment=pad-crop",
    "ema=0.9",
    "clip_grad=1.0",
    "warmup_epochs=0",
    "threads=1",
    "workers=0",
    "log_steps=1",
    "device=cpu",
]
CASES = {  # how far weights may be from those of the same run under DDP, whose additions have another order
    "vanilla": ([*VIT, *SGD, "mixup=vanilla"], 1e-6),
    "cutmix-resnet": ([*RESNET, "mixup=cutmix"], 1e-6),
    "transmix": ([*VIT, *SGD, MIXTURE], 1e-6),
    "mixpro-adamw": ([*VIT, *ADAM, "mixup={name: mixpro, scale: 2}"], 1e-5),  # divides by small numbers
    "cutmix-swin": ([*SWIN, *SGD, "mixup=cutmix"], 1e-6),
    "puzzlemix-bf16": ([*RESNET, *PUZZLEMIX, "amp=bf16", "precise_bn=96"], 1e-5),
    "manifold-fp16": ([*RESNET, "mixup=manifold", "amp=fp16"], 1e-4),  # the last bits of half precision
}
OPTIMIZERS = [f"{opt} {(kernels(opt) or ['auto'])[-1]}" for opt in SPLIT_OPTIMIZERS]
OPTIMIZERS += [f"{opt} fused" for opt in SPLIT_FUSED] + ["adamw foreach", "momentum foreach"]
KILLED = [*COMMON, *VIT, *ADAM, MIXTURE, "fsdp=true", "limit=288", "checkpoint_steps=2", "holdout=0.02"]


def in_processes(count: int, folder: Path, work, *args) -> None:
    """Run work(rank, *args) in some processes that have joined a group."""
    # forks of one that has imported what takes them seconds each
    multiprocessing.set_forkserver_preload(["evalkit.cli", "evalkit.train.run", "torch.distributed.fsdp", __name__])
    meet = str(folder / f"meet-{count}-{work.__name__}")
    torch.multiprocessing.start_processes(joined, (count, meet, work, args), count, start_method="forkserver")


def joined(rank: int, count: int, address: str, work, args) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=count)
    work(rank, *args)
    leave_processes()


def train_both(rank: int, folder: str, cases: dict) -> None:
    """Each case under DDP and split; how many numbers this process held of the split one in NAME-held-RANK.json."""
    built, build = [], session.build
    session.build = lambda *args: built.append(build(*args)) or built[-1]
    for name, (own, _) in cases.items():
        for kind in ("ddp", "fsdp"):
            words = [
                *COMMON,
                "limit=96",
                *([] if name == "transmix" else ["holdout=0.02"]),  # little to validate on, where nobody looks
                *own,
                f"fsdp={str(kind == 'fsdp').lower()}",
                "--out",
                f"{folder}/{name}-{kind}",
            ]
            code, message = invoke(["train", *words])
            assert code == 0, message
        s = built[-1]
        state = [v for values in s.optimizer.state.values() for v in values.values() if v.ndim]
        parts = {"weights": s.network.parameters(), "ema": s.ema.network.parameters(), "optimizer": state}
        held = {part: [fsdp.local(t).numel() for t in tensors] for part, tensors in parts.items()}
        held["whole"] = [list(p.shape) for p in s.network.parameters()]
        held["empty"] = [p.is_meta for p in s.empty.parameters()]
        Path(folder, f"{name}-held-{rank}.json").write_text(json.dumps(held), encoding="utf-8")


def weights(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "last" / checkpoint.FILES[kind])


def apart(a: Path, b: Path) -> float:
    """The largest difference between the weights, averaged or not, of two runs."""
    found = 0.0
    for kind in ("raw", "ema"):
        left, right = weights(a, kind), weights(b, kind)
        assert left.keys() == right.keys()
        found = max(found, *(float((left[k].double() - right[k].double()).abs().max()) for k in left))
    return found


def check_case(folder: Path, name: str, processes: int) -> None:
    """The split run is the run under DDP, and each process held its share of it."""
    assert apart(folder / f"{name}-ddp", folder / f"{name}-fsdp") <= CASES[name][1]
    for rank in range(processes):
        held = json.loads((folder / f"{name}-held-{rank}.json").read_text())
        chunks = [torch.empty(shape).chunk(processes) for shape in held["whole"]]  # of rows, the first ones longer
        share = [chunk[rank].numel() if rank < len(chunk) else 0 for chunk in chunks]
        assert sum(share) < 0.6 * sum(torch.Size(shape).numel() for shape in held["whole"])
        assert held["weights"] == held["ema"] == share and all(held["empty"])
        moments = len(held["optimizer"]) // len(share)
        assert moments and sorted(held["optimizer"]) == sorted(n for n in share for _ in range(moments))
    states = [checkpoint.load_state((folder / f"{name}-{kind}" / "last").resolve()) for kind in ("ddp", "fsdp")]
    shapes = [
        [(i, k, tuple(v.shape)) for i, values in s["optimizer"]["state"].items() for k, v in values.items() if v.ndim]
        for s in states
    ]
    assert shapes[0] == shapes[1] and shapes[0]


def test_two_processes_train_a_split_network(tmp_path):
    in_processes(2, tmp_path, train_both, str(tmp_path), {"vanilla": CASES["vanilla"]})
    check_case(tmp_path, "vanilla", 2)


def change(opt: str, split: bool, mesh) -> list[torch.Tensor]:
    """Weights after some steps of an optimizer."""
    from torch.distributed.tensor import Shard, distribute_tensor

    def laid_out(tensor):
        return distribute_tensor(tensor, mesh, [Shard(0)]) if split else tensor

    torch.manual_seed(0)
    model = torch.nn.Module()
    for i, shape in enumerate([(5, 6), (1, 1, 8), (3,)]):
        model.register_parameter(f"p{i}", torch.nn.Parameter(laid_out(torch.randn(shape))))
    name, kernel = opt.split()
    cfg = TrainConfig(model="m", data="d", epochs=1, batch_size=1, micro_batch=1, lr=0.01, opt=name)
    if name.startswith("adan"):
        cfg = replace(cfg, betas=[0.98, 0.92, 0.99])
    optimizer = make_optimizer(model, create("vanilla"), replace(cfg, opt_kernels=kernel))
    for _ in range(6):  # RAdam is another method up to the fifth
        for p in model.parameters():
            p.grad = laid_out(torch.randn(p.shape))
        optimizer.step()
    for p, values in optimizer.state.items():
        assert all(v.shape in (p.shape, ()) for v in values.values() if isinstance(v, torch.Tensor)), opt
    return [p.full_tensor() if split else p for p in model.parameters()]


def compare_optimizers(rank: int, folder: str) -> None:
    """How far split weights are from whole ones after some steps of each optimizer, in optimizers.json."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh, found = init_device_mesh("cpu", (2,)), {}
    for opt in OPTIMIZERS:
        both = zip(change(opt, False, mesh), change(opt, True, mesh), strict=True)
        found[opt] = max(float((a - b).abs().max()) for a, b in both)
    Path(folder, "optimizers.json").write_text(json.dumps(found), encoding="utf-8")


def train(rank: int, words: list[str]) -> None:
    code, message = invoke(["train", *words])
    assert code == 0, message


def die(rank: int, words: list[str]) -> None:
    """A run that is killed as it writes its third checkpoint."""
    saved, save = [], loop.snapshot.save

    def save_two(*args):
        if len(saved) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        saved.append(save(*args))
        return saved[-1]

    loop.snapshot.save = save_two
    train(rank, words)


def do_all(rank: int, folder: str) -> None:
    """What needs two processes, in the same two, as starting them takes longest."""
    compare_optimizers(rank, folder)
    train_both(rank, folder, {name: case for name, case in CASES.items() if name != "vanilla"})
    train(rank, [*KILLED, "--out", f"{folder}/whole"])
    die(rank, [*KILLED, "--out", f"{folder}/killed"])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    with pytest.raises(torch.multiprocessing.ProcessExitedException, match="SIGKILL"):
        in_processes(2, folder, do_all, str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "vanilla"])
def test_split_and_whole_networks_are_trained_alike(done, name):
    check_case(done, name, 2)


@pytest.mark.slow
def test_one_process_evaluates_what_two_have_trained_split(done):
    code, message = invoke(["eval", str(done / "transmix-fsdp"), "device=cpu", "workers=0"])
    assert code == 0, message
    records = [r for r in results.read([done / "transmix-fsdp"]) if r["weights"] == "ema"]
    top1 = {r["task"]: r["metrics"]["top1"] for r in records}
    assert top1["eval"] == top1["train"]


@pytest.mark.slow
def test_a_split_run_goes_on_after_a_kill(done):
    """In as many processes with the same bytes, in another number of them with the same weights but for rounding."""
    elsewhere = shutil.copytree(done / "killed", done / "elsewhere", symlinks=True)
    in_processes(2, done, train, ["--resume", str(done / "killed")])
    assert digest(done / "killed") == digest(done / "whole")
    in_processes(3, done, train, ["--resume", str(elsewhere)])
    assert apart(elsewhere, done / "whole") < 1e-4
    assert digest(elsewhere) != digest(done / "whole")  # it did go on there


@pytest.mark.slow
def test_optimizers_change_split_weights_as_whole_ones(done):
    apart = json.loads((done / "optimizers.json").read_text(encoding="utf-8"))
    assert apart.keys() == set(OPTIMIZERS) and max(apart.values()) <= 1e-6


def test_optimizers_are_timms():
    assert set(SPLIT_OPTIMIZERS) <= set(timm.optim.list_optimizers())


@pytest.mark.parametrize(
    "name, parts",
    [
        ("vit_nano_patch4_32", ["blocks"]),
        ("deit_tiny_distilled_patch16_224", ["blocks"]),
        ("cait_xxs24_224", ["blocks", "blocks_token_only"]),
        ("pvt_tiny", ["block1", "block2", "block3", "block4"]),
        ("swin_tiny_patch4_window7_224", [f"layers.{i}.blocks" for i in range(4)]),
        ("resnet18", [f"layer{i}" for i in range(1, 5)]),
        ("convnext_atto", [f"stages.{i}.blocks" for i in range(4)]),
        ("xcit_nano_12_p16_224", ["blocks", "cls_attn_blocks"]),  # not the list of convolutions that cuts patches
        ("focalnet_tiny_srf", [f"layers.{i}.blocks" for i in range(4)]),  # not the lists within blocks
        ("regnetx_002", []),
    ],
)
def test_blocks_of_networks(name, parts):
    with torch.device("meta"):
        model = build(name)
    found = fsdp.blocks(model)
    assert found == [block for part in parts for block in model.get_submodule(part)]
    assert len({id(b) for b in found}) == len(found)


@pytest.mark.parametrize(
    "words, message",
    [
        ("compile=true", "fsdp=true does not go with compile=true"),
        ("channels_last=true", "fsdp=true does not go with channels_last=true"),
        ("auto_micro_batch=true", "fsdp=true does not go with auto_micro_batch=true"),
        ("opt=muon", "optimizer 'muon' does not change weights that are split"),
        ("opt_kernels=fused opt=momentum", "the fused kernel of optimizer 'momentum' does not take split weights"),
    ],
)
def test_keys_that_do_not_go_with_it(words, message):
    with pytest.raises(EvalkitError, match=message):
        config.load(TrainConfig, "digits", ["fsdp=true", *words.split()])


@pytest.mark.parametrize(
    "processes, words, message",
    [
        (1, "mixup=vanilla", "there is one: add --gpus N, at least 2"),
        (2, "mixup=automix", "has weights of its own"),
        (2, "mixup=mergemix", "runs layers by themselves"),
        (2, "mixup={choice: [mixup, mergemix]}", "runs layers by themselves"),
        (2, "mixup=puzzlemix", "set mix_draws=step"),
        (2, "mixup={choice: [mixup, {name: decouplemix, method: puzzlemix}]}", "set mix_draws=step"),
        (2, "model=regnetx_002", "has no such blocks"),
    ],
)
def test_runs_that_cannot_be_split(monkeypatch, processes, words, message):
    monkeypatch.setattr(fsdp, "world_size", lambda: processes)
    cfg = config.load(TrainConfig, "digits", ["fsdp=true", "mix_draws=group", words])
    net = models.create(cfg.model, num_classes=10)
    method = from_config(cfg.mixup)
    method.setup(net)
    with pytest.raises(EvalkitError, match=message):
        fsdp.check(cfg, net, method)


def test_what_is_settled_on_a_gpu(monkeypatch):
    """Nothing that does not go with it."""
    cfg = config.load(TrainConfig, "digits", ["fsdp=true", "amp=bf16", "model=resnet18"])
    settled = resolve(cfg, torch.device("cuda"), 100_000)
    assert (settled.channels_last, settled.compile, settled.opt_kernels) == (False, False, "fused")
    assert resolve(replace(cfg, opt="momentum"), torch.device("cuda"), 100_000).opt_kernels == "foreach"
    whole = resolve(replace(cfg, fsdp=False, opt="momentum"), torch.device("cuda"), 100_000)
    assert whole.channels_last and whole.opt_kernels == "fused"


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_two_gpus(tmp_path, amp):
    """Not verified: no machine with two was there."""
    words = [w for w in COMMON if w != "device=cpu"] + ["limit=96", *VIT, *SGD, MIXTURE, f"amp={amp}"]
    for kind in ("true", "false"):
        code, message = invoke(["train", *words, f"fsdp={kind}", "--gpus", "2", "--out", str(tmp_path / kind)])
        assert code == 0, message
    assert apart(tmp_path / "true", tmp_path / "false") < (1e-4 if amp == "none" else 1e-2)
    code, message = invoke(["eval", str(tmp_path / "true")])
    assert code == 0, message
