"""Uploads, against a hub that is not there."""

from types import SimpleNamespace

import pytest

from evalkit.cli import invoke
from evalkit.errors import EvalkitError
from evalkit.export import hub


class Hub:
    """Writes down what it is asked."""

    def __init__(self, fails: str = ""):
        self.fails, self.asked = fails, []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            if name == self.fails:
                raise RuntimeError("401 Unauthorized\nmore lines")
            self.asked.append((name, args, kwargs))
            return SimpleNamespace(repo_id="me/mine", __str__=None)

        return call


def test_a_folder_goes_into_a_repository_that_is_made(tmp_path, monkeypatch):
    there = Hub()
    monkeypatch.setattr(hub, "HfApi", lambda: there)
    hub.check("me/mine")
    assert hub.push(tmp_path, "me/mine").startswith("uploaded: ")
    assert [name for name, _, _ in there.asked] == ["whoami", "create_repo", "upload_folder"]
    assert there.asked[1][1:] == (("me/mine",), {"exist_ok": True})
    assert there.asked[2][2]["repo_id"] == "me/mine" and there.asked[2][2]["folder_path"] == tmp_path


@pytest.mark.parametrize("fails", ["whoami", "create_repo", "upload_folder"])
def test_what_the_hub_refuses_is_one_line(fails, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", lambda: Hub(fails))
    with pytest.raises(EvalkitError, match=r"\(401 Unauthorized\); log in with `hf auth login`") as e:
        hub.check("me/mine")
        hub.push(tmp_path, "me/mine")
    assert "\n" not in str(e.value)


def test_a_push_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", lambda: Hub("whoami"))
    assert invoke(["export", "nowhere", str(tmp_path / "out"), "--to", "hf", "--push", "a//b"]) == (
        1,
        "--push a//b is no name of a repository, which is USER/NAME",
    )
    code, message = invoke(["export", "nowhere", str(tmp_path / "out"), "--to", "hf", "--push", "a/b"])
    assert code == 1 and "the Hub does not know you" in message
    code, message = invoke(["export", "nowhere", str(tmp_path / "out"), "--to", "timm", "--push", "a/b"])
    assert code == 1 and message == "--push uploads a folder that --to hf wrote, not one of --to timm"
    assert not (tmp_path / "out").exists()
