"""A method and a key that somebody adds are found wherever those of evalkit are."""

import json
import sys
from dataclasses import dataclass

import pytest

from evalkit import cli, config
from evalkit.cli import schemas
from evalkit.keys import Keys, key
from evalkit.train import METHODS
from tests.contract import test_mixups
from tests.contract.mixup_cases import Case

TOY = '''
import torch
from evalkit.train.mixups import Mixed, MixMethod


class Halves(MixMethod):
    """Halves (Nobody, 2020): the left part of one image beside the right part of another.

        M = 1 left of column lam W, else 0;  x~ = M x + (1 - M) x_pi,  t = mean(M) s(y) + (1 - mean(M)) s(y_pi)

    Args:
        least: The least share that each image keeps.

    Does not differ from the paper / the official code.
    """

    family = "toy"
    needs = "nothing but two images"
    bibtex = "@misc{nobody2020halves, title = {Halves}, author = {Nobody, A.}, year = {2020}}"
    PRESETS = {"default": {}, "wide": {"least": 0.4}}

    def __init__(self, least: float = 0.1):
        super().__init__()
        self.least = least

    def mix(self, ctx, x, y, net):
        lam = float(ctx.draw("lam", lambda rng: rng.uniform(self.least, 1 - self.least)))
        partner = torch.as_tensor(ctx.draw("partner", lambda rng: rng.permutation(len(x))))
        own = torch.zeros(1, 1, *x.shape[-2:])
        own[..., : round(lam * x.shape[-1])] = 1
        share = own.mean()
        weights = share * torch.eye(len(x)) + (1 - share) * torch.eye(len(x))[partner]
        mixed = (own * x + (1 - own) * x[partner]).to(x.dtype)
        return Mixed(mixed.contiguous(), weights, own, partner)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy method as a file of the user's, in the working directory."""
    (tmp_path / "toymix.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "toymix", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "toymix:Halves"


def test_a_method_of_the_users_own_file_is_shown_timed_and_described(toy, tmp_path, capsys):
    assert cli.invoke(["mixup", "list", toy]) == (0, "")
    text = " ".join(capsys.readouterr().out.split())
    for words in ("family toy", "The least share that each image keeps.", "wide {least: 0.4}", "nobody2020halves"):
        assert words in text
    assert cli.invoke(["mixup", "preview", "--methods", f"mixup,{toy}", "--out", "a.html"]) == (0, "")
    assert f"<th>{toy}</th>" in (tmp_path / "a.html").read_text()
    bench = ["mixup", "bench", "--methods", toy, "--batch", "2", "--size", "32", "--repeats", "1", "--json", "b.json"]
    assert cli.invoke(bench) == (0, "")
    assert json.loads((tmp_path / "b.json").read_text())["methods"].keys() == {"clone", toy}


def test_a_method_that_is_registered_is_in_every_list(toy, monkeypatch, capsys):
    from evalkit.train.mixups import find
    from evalkit.train.showcase import stand_in

    monkeypatch.setitem(METHODS, "halves", find(toy))
    assert cli.invoke(["mixup", "list"]) == (0, "")
    assert any(line.split()[:2] == ["halves", "toy"] for line in capsys.readouterr().out.splitlines() if line)
    assert "halves" in stand_in.chosen(None)
    assert cli.invoke(["mixup", "list", "halvs"]) == (1, "unknown mixup 'halvs'. Did you mean 'halves'?")


def test_the_matrix_takes_it_and_catches_its_faults(toy, monkeypatch):
    from evalkit.train.mixups import find

    cls = find(toy)
    monkeypatch.setitem(METHODS, "halves", cls)
    for preset in cls.PRESETS:
        test_mixups.test_shapes_shares_and_masks("halves", preset, None, 5, (16, 24))
        test_mixups.test_the_same_draws_give_the_same_batch_and_other_draws_another("halves", preset, None)
    monkeypatch.setattr(cls, "relabel", lambda self, ctx, mixed, y, out: mixed.weights / 2)
    with pytest.raises(AssertionError):
        test_mixups.test_shapes_shares_and_masks("halves", "default", None, 5, (16, 24))
    monkeypatch.setattr(cls, "row_sum", None)
    assert not Case("halves", "default", None).rows_sum_to_one


def test_a_key_is_found_in_the_reference_in_help_and_in_errors(monkeypatch, capsys):
    from evalkit.train import config as train_config

    @dataclass(frozen=True)
    class More(train_config.TrainConfig):
        spin: float = key(0.0, "turns of each training image", unit="degrees", least=0, most=180)

    monkeypatch.setattr(train_config, "TrainConfig", More)
    assert schemas.schemas()["train"] is More
    assert cli.invoke(["recipes", "keys", "spin"]) == (0, "")
    assert "a number in degrees, between 0 and 180; default 0.0" in capsys.readouterr().out
    for command in (["recipes", "keys"], ["train", "--help"]):
        assert cli.invoke(command) == (0, "")
        assert "turns of each training image" in " ".join(capsys.readouterr().out.split())
    code, message = cli.invoke(["train", "digits", "spin=200"])
    assert (code, message) == (1, "key 'spin' must lie between 0 and 180, but got 200.0")
    with pytest.raises(TypeError, match="needs a meaning"):
        key(0.0, "")
    with pytest.raises(TypeError, match="is not described"):
        dataclass(frozen=True)(type("Bad", (Keys,), {"__annotations__": {"spin": float}, "spin": 0.0}))
    assert config.load(More, "digits", ["spin=90"]).spin == 90
