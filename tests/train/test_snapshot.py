"""What a checkpoint of several processes is made of: the same weights and states in all of them."""

import os
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from evalkit.errors import EvalkitError
from evalkit.train import snapshot


def _process(rank, folder, changed):
    """One of two processes of a run; the second changes something, and what it is told is left as a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trainee = torch.nn.ModuleDict({"network": torch.nn.BatchNorm1d(3), "method": torch.nn.Linear(2, 2)})
    for i, t in enumerate(trainee.state_dict().values()):
        t.copy_(torch.full_like(t, i))
    trainee["network"].running_var[0] = torch.nan  # the same in all
    if rank == 1 and changed:
        part, _, name = changed.partition(".")
        held = trainee[part].state_dict()[name]
        held.copy_(-held if held.is_floating_point() else held + 1)
    try:
        snapshot.check_same(SimpleNamespace(trainee=trainee, cfg=SimpleNamespace(fsdp=False), step=7))
        said = ""
    except EvalkitError as e:
        said = str(e)
    with open(os.path.join(folder, f"said-{rank}"), "w", encoding="utf-8") as f:
        f.write(said)
    dist.destroy_process_group()


@pytest.mark.parametrize("changed", [None, "network.bias", "network.num_batches_tracked", "method.weight"])
def test_processes_that_hold_different_values_save_nothing(tmp_path, changed):
    torch.multiprocessing.start_processes(_process, args=(str(tmp_path), changed), nprocs=2, start_method="fork")
    told = f"at step 7 the processes hold different values of {changed}; code of yours"
    for rank in range(2):
        said = (tmp_path / f"said-{rank}").read_text()
        assert said.startswith(told) if changed else said == ""
