"""The lines people read."""

import pytest

from evalkit.errors import EvalkitError, explained, suggest, unknown

METHODS = ["cutmix", "mixpro", "mixup", "transmix", "vanilla"]


@pytest.mark.parametrize(
    "typed, meant", [("mixpo", "mixpro"), ("trans-mix", "transmix"), ("vanila", "vanilla"), ("mixup", "mixup")]
)
def test_suggests_the_closest(typed, meant):
    assert suggest(typed, METHODS) == f" Did you mean '{meant}'?"


def test_a_beginning_is_completed():
    assert (
        suggest("vit_nano", ["convnext_nano", "vit_nano_patch4_32", "vit_nano_patch4_32_large"])
        == " Did you mean 'vit_nano_patch4_32'?"
    )


def test_lists_the_options_when_none_is_close():
    assert suggest("zzz", reversed(METHODS)) == " Choose one of: cutmix, mixpro, mixup, transmix, vanilla."


def test_lists_at_most_twelve():
    assert suggest("zzz", [f"name{i:02d}" for i in range(13)]).endswith("name11, ...")
    assert suggest("zzz", [f"name{i:02d}" for i in range(12)]).endswith("name11.")


def test_no_options_nothing_to_say():
    assert suggest("x", []) == ""


def test_unknown():
    error = unknown("method", "mixpo", METHODS)
    assert isinstance(error, EvalkitError) and str(error) == "unknown method 'mixpo'. Did you mean 'mixpro'?"


@pytest.mark.parametrize(
    "message, line",
    [
        ("[/x/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:31954.", "another process of this"),
        ("[1]: params[20] in this process with sizes [3] appears not to match sizes of the same param in process 0.",
         "parameters of other shapes"),
        ("DDP expects same model across all ranks, but Rank 1 has 19 params, while rank 0 has inconsistent 20 params.",
         "parameters of other shapes"),
        ("[/x/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 15000ms for recv operation to complete",
         "exchange different things (Timed out waiting 15000ms for recv operation to complete); one of them hangs"),
        ("[enforce fail at /x/pair.cc:464] op.preamble.length <= op.nbytes. 58124 vs 4. Received data size doesn't"
         " match expected size. Is there a distributed collective mismatch in your code?",
         "calls torch.distributed in some"),
        ("Expected to have finished reduction in the prior iteration before starting a new one.", "did not depend on"),
    ],
)  # fmt: skip
def test_what_processes_say_of_one_another(message, line):
    assert line in str(explained(RuntimeError(message))) and explained(RuntimeError("x")) is None
