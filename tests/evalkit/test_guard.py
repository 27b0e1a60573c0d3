import os
import signal

import pytest
import torch

from evalkit.guard import Guard


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_a_signal_becomes_a_request(number):
    before = signal.getsignal(number)
    with Guard(torch.device("cpu")) as guard:
        os.kill(os.getpid(), number)
        assert guard.received == number
        assert guard.agree(guard.received, 0.0) == [number, 0.0]
    assert signal.getsignal(number) == before


def test_second_ctrl_c_stops_at_once():
    with Guard(torch.device("cpu")), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Guard(torch.device("cpu")) as guard:
            os.kill(os.getpid(), signal.SIGHUP)
            assert guard.received is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
