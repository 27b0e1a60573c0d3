"""Data workers that die."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The worker writes the beginning of a batch, and is killed when torch no longer looks for it: as where its error is
# lost.
HALF_A_BATCH = """
import os, signal, struct, sys
import torch
from torch.utils.data import DataLoader, Dataset
from evalkit.data.workers import checked, shield
from evalkit.errors import EvalkitError

class Dies(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        if i == 3 - OFFSET:
            frame = sys._getframe()
            while "data_queue" not in frame.f_locals:
                frame = frame.f_back
            frame.f_locals["data_queue"]._writer._send(struct.pack("!i", 10**6))
            os.kill(os.getpid(), signal.SIGKILL)
        return i

OFFSET = int(sys.argv[1])
loader = DataLoader(Dies(), batch_size=None, num_workers=1 + OFFSET, worker_init_fn=shield)
signals = torch.utils.data.dataloader._utils.signal_handling
signals._set_worker_pids = signals._remove_worker_pids = lambda *_: None
try:
    for x in checked(loader):
        print(x)
except EvalkitError as e:
    print(e)
"""


@pytest.mark.parametrize("more", [0, 1])
def test_the_death_of_a_worker_that_torch_does_not_tell_of(more):
    words = [sys.executable, "-c", HALF_A_BATCH, str(more)]
    out = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    *batches, last = out.stdout.splitlines()
    assert last.startswith("a data worker died (DataLoader worker (pid") and "workers=0" in last, (
        out.stdout + out.stderr
    )
    assert batches == [str(i) for i in range(len(batches))] and len(batches) <= 3 - more


UNTOUCHED = """
import signal, torch
from torch.utils.data import DataLoader
from evalkit.data.workers import checked, shield
loader = DataLoader(range(5), batch_size=None, num_workers=2, worker_init_fn=shield)
list(loader)  # torch sets its own handler once
before = signal.getsignal(signal.SIGCHLD)
print(list(checked(loader)), signal.getsignal(signal.SIGCHLD) is before)
one, other = checked(loader), checked(loader)
next(one), next(other)
one.close(), other.close()
print(list(checked(loader)))
"""


def test_nothing_stays_of_the_watch():
    out = subprocess.run([sys.executable, "-c", UNTOUCHED], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert out.stdout.splitlines() == ["[0, 1, 2, 3, 4] True", "[0, 1, 2, 3, 4]"], out.stdout + out.stderr
