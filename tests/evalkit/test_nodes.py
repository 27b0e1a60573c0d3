import os
import stat
import subprocess
import sys

import pytest

from evalkit.errors import EvalkitError
from evalkit.nodes import Meeting, meeting
from tests import ports
from tests.train.test_resume import command, digest, finish

STEP = {
    "SLURM_JOB_ID": "40123",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[7-8]",
}


@pytest.fixture
def step(monkeypatch, tmp_path):
    """The variables of a step of srun on two nodes, and Slurm's tool that spells them out."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$*" = "show hostnames n[7-8]" ] && printf "n7\\nn8\\n"\n')
    (tmp_path / "scontrol").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)


def test_without_slurm_it_is_what_is_given(monkeypatch):
    for name in STEP:
        monkeypatch.delenv(name, raising=False)
    assert meeting(None, None) is None and meeting(1, None) is None
    assert meeting(3, "node1:29400") == Meeting(3, "node1:29400")
    for nodes, endpoint, message in (
        (None, "node1:29400", "--nodes"),
        (2, None, "--rendezvous HOST:PORT"),
        (2, "node1", "HOST:PORT"),
        (2, ":1", "HOST:PORT"),
    ):
        with pytest.raises(EvalkitError, match=message):
            meeting(nodes, endpoint)


def test_a_step_of_slurm_says_it_all(step, monkeypatch):
    found = meeting(None, None)
    assert found == Meeting(2, "n7:20123", "40123.2") == meeting(2, None)
    assert meeting(1, None) is None  # each for itself, by word
    with pytest.raises(EvalkitError, match="starts the command on 3 nodes"):
        meeting(3, None)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(EvalkitError, match="--ntasks-per-node=1"):
        meeting(None, None)


@pytest.mark.slow
def test_two_nodes_of_one_process_end_in_the_weights_of_one_node_of_two(tmp_path):
    finish(*command(tmp_path / "one", "epochs=1", processes=2))
    words = command(tmp_path / "two", "epochs=1", "--nodes", "2", "--rendezvous", f"127.0.0.1:{ports.free()}")
    nodes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert sum("2 x CPU" in text for text in said) == 1, said  # one of them speaks
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.slow
def test_a_node_that_stays_alone_says_so_in_a_line(tmp_path):
    code = "from evalkit import launch, nodes; nodes.JOIN_SECONDS = 2\n"
    code += f"launch.spawn(1, ['doctor'], nodes.Meeting(2, '127.0.0.1:{ports.free()}'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert "the 2 nodes did not meet at 127.0.0.1" in done.stderr.splitlines()[-1]
