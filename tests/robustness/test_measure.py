"""The runner: records written once and used again, complete and published flags, exit codes, what a person reads."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit import config
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.report.collect import rows_of, runs_of
from evalkit.report.tables import summary
from evalkit.robustness import CONFIGS, PROTOCOLS, imagenet_a, measure, run, store

from .fakes import noise, records, save_checkpoint, write_corruptions, write_tree

CLASSES = ["bird", "cat", "dog"]


@pytest.fixture
def setup(tmp_path):
    """(checkpoint, keys): a tiny model of three classes and folders of its classes."""
    root = write_tree(tmp_path / "data", {"cat": 4, "dog": 3, "bird": 2})
    other = write_tree(tmp_path / "other", {"cat": 3, "dog": 3}, seed=1)
    write_corruptions(tmp_path / "corrupted", {"cat": 4, "dog": 3, "bird": 2})
    keys = {"data": str(root), "out": str(tmp_path / "out"), "workers": 0, "forward_batch": 4, "batch_size": 3}
    return save_checkpoint(tmp_path / "run", CLASSES), keys, str(other)


def options(protocol, keys, other, **more):
    extra = {
        "occlusion": {"levels": [0.0, 0.5], "repeats": 2, "grid": 4, "saliency": "self"},
        "imagenet-o": {"id_data": other},
        "imagenet-c": {
            "data": str(Path(other).parent / "corrupted"),
            "corruptions": ["fog", "snow"],
            "severities": [1, 3],
            "preprocess": "published",
        },
        "fgsm": {"eps": [2.0]},
        "pgd": {"eps": [2.0, 8.0], "steps": 2},
    }.get(protocol, {})
    return CONFIGS[protocol](**keys | extra | more)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_second_run_uses_the_records_without_a_forward_pass(setup, monkeypatch, capsys, protocol):
    checkpoint, keys, other = setup
    cfg, out = options(protocol, keys, other), Path(keys["out"])
    assert run(protocol, [str(checkpoint)], cfg) == 0
    (path,) = (out / "records").glob("*.npz")
    content = path.read_bytes()

    def forbidden(*args, **kwargs):
        raise AssertionError("a forward pass")

    with monkeypatch.context() as patch:
        patch.setattr(Network, "forward", forbidden)
        patch.setattr(Network, "class_attention", forbidden)
        assert run(protocol, [str(checkpoint)], cfg) == 0
    (first,) = records(out)  # the same measurement is recorded once
    assert path.read_bytes() == content and "used again" in capsys.readouterr().out
    assert (first["protocol"], first["task"], first["complete"], first["published"]) == (
        protocol,
        "robustness",
        True,
        False,
    )
    assert (
        first["records"] == f"records/{path.name}"
        and first["label"] == "tiny"
        and first["method"] == "vanilla"
        and first["weights"] == "raw"
    )

    # another setting that can show: new records
    run(protocol, [str(checkpoint)], options(protocol, keys, other, forward_batch=8))
    assert len(list((out / "records").glob("*.npz"))) == 2
    monkeypatch.setitem(PROTOCOLS, protocol, dataclasses.replace(PROTOCOLS[protocol], version=99))
    run(protocol, [str(checkpoint)], cfg)  # another version of the protocol as well
    assert len(list((out / "records").glob("*.npz"))) == 3


@pytest.mark.parametrize("damage", ["truncated", "changed", "no side file", "bad side file"])
def test_damaged_records_are_made_again(setup, damage):
    checkpoint, keys, other = setup
    cfg, out = options("imagenet-a", keys, other), Path(keys["out"])
    run("imagenet-a", [str(checkpoint)], cfg)
    (path,) = (out / "records").glob("*.npz")
    content, before = path.read_bytes(), records(out)
    if damage == "truncated":
        path.write_bytes(content[:100])
    elif damage == "changed":
        path.write_bytes(content[:-1] + b"x")
    elif damage == "no side file":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text("{")
    assert run("imagenet-a", [str(checkpoint)], cfg) == 0
    assert path.read_bytes() == content
    assert records(out) == before


def test_two_equal_commands_at_once_record_once(setup, monkeypatch):
    checkpoint, keys, other = setup
    cfg, write = options("imagenet-a", keys, other), store.write

    def second(*args):
        write(*args)
        monkeypatch.setattr(store, "write", write)
        assert run("imagenet-a", [str(checkpoint)], cfg) == 0

    monkeypatch.setattr(store, "write", second)
    assert run("imagenet-a", [str(checkpoint)], cfg) == 0
    assert len(records(Path(keys["out"]))) == 1


def test_records_hold_what_the_metrics_need(setup):
    checkpoint, keys, other = setup
    for protocol in PROTOCOLS:
        run(protocol, [str(checkpoint)], options(protocol, keys, other))
    by_protocol = {r["protocol"]: r for r in records(Path(keys["out"]))}
    for protocol, record in by_protocol.items():
        with np.load(Path(keys["out"]) / record["records"], allow_pickle=False) as content:
            arrays = dict(content)
        again = PROTOCOLS[protocol].load().evaluate(arrays)
        assert {k: None if np.isnan(v) else v for k, v in again.metrics.items()} == record[
            "metrics"
        ] and again.n == record["n"] == len(arrays["ids"])
    o = by_protocol["imagenet-o"]
    assert (o["data"]["n_ood"], o["data"]["n_id"], o["metrics"]["chance"]) == (9, 6, 0.6)
    assert set(o["data"]["sets"]) == {"ood", "id"}
    assert (
        by_protocol["occlusion"]["config"]["saliency"] == "self"
        and by_protocol["occlusion"]["config"]["head"] == "mean"
    )
    assert by_protocol["occlusion"]["config"]["preprocess"] == "published" and by_protocol["occlusion"]["seed"] == 0
    assert by_protocol["imagenet-a"]["undefined"].keys() == {
        "rms_calibration_error",
        "rms_calibration_error_temperature",
        "top5",
    }
    for record in by_protocol.values():
        assert any("1,000 bootstrap resamples" in note for note in record["notes"])
        for name, (low, high) in record["intervals"].items():
            assert low <= record["metrics"][name] <= high and record["standard_errors"][name] >= 0
        without = {"chance", "temperature", *record["undefined"]}
        assert set(record["intervals"]) == set(record["standard_errors"]) == set(record["metrics"]) - without


def test_the_tables_print_the_standard_errors(setup):
    checkpoint, keys, other = setup
    for protocol in ("imagenet-a", "imagenet-o", "occlusion"):
        run(protocol, [str(checkpoint)], options(protocol, keys, other))
    rows = rows_of(runs_of(records(Path(keys["out"]))))
    ((_, cells),) = summary(rows, PROTOCOLS)[0].rows
    # nine images have no RMS calibration error
    assert [cell.spread != "" for cell in cells] == [True] * 3 + [True, False, True] + [True] * 3
    assert cells[4].value == "n/a"


@pytest.mark.parametrize(("on_error", "code", "complete"), [("fail", 2, False), ("skip", 0, True)])
def test_unreadable_images_are_listed_after_the_pass(setup, capsys, on_error, code, complete):
    checkpoint, keys, other = setup
    truncated, empty = Path(keys["data"]) / "cat" / "cat_0001.JPEG", Path(keys["data"]) / "dog" / "dog_0002.JPEG"
    truncated.write_bytes(truncated.read_bytes()[:-200])
    empty.write_bytes(b"")
    cfg, out = options("imagenet-a", keys, other, on_error=on_error), Path(keys["out"])
    assert run("imagenet-a", [str(checkpoint)], cfg) == code
    (record,) = records(out)
    assert (
        record["complete"] == complete
        and record["n"] == 7
        and record["data"]["n_skipped"] == 2
        and not record["published"]
    )
    assert "2 images could not be read and were left out" in record["notes"]
    printed = capsys.readouterr().out
    assert "cat/cat_0001.JPEG: " in printed and "dog/dog_0002.JPEG: empty file" in printed
    bad = json.loads((out / record["records"]).with_suffix(".json").read_text())["bad"]
    assert [b[0] for b in bad] == ["cat/cat_0001.JPEG", "dog/dog_0002.JPEG"]
    # mended: the same names, so the records must not be used again
    write_tree(Path(keys["data"]), {"cat": 4, "dog": 3, "bird": 2})
    assert run("imagenet-a", [str(checkpoint)], cfg) == 0
    assert records(out)[1]["n"] == 9 and records(out)[1]["complete"]


def test_unreadable_images_can_count_as_wrong(setup, capsys):
    checkpoint, keys, other = setup
    (Path(keys["data"]) / "cat" / "cat_0001.JPEG").write_bytes(b"")
    assert run("imagenet-a", [str(checkpoint)], options("imagenet-a", keys, other, on_error="wrong")) == 0
    (record,) = records(Path(keys["out"]))
    assert record["complete"] and not record["published"] and record["n"] == 9 and record["data"]["n_skipped"] == 0
    assert (
        "1 images could not be read and count as wrong" in record["notes"]
        and record["metrics"]["nll"] is None
        and "nll" in record["undefined"]
    )
    assert (
        "1 images could not be read and count as wrong:\n    cat/cat_0001.JPEG: empty file" in capsys.readouterr().out
    )
    for protocol in ("imagenet-o", "occlusion", "imagenet-c", "fgsm"):
        with pytest.raises(EvalkitError, match="unknown value of on_error 'wrong'. "):
            options(protocol, keys, other, on_error="wrong").check()


# ---- models of every kind


def test_a_loaded_model_and_a_callable_give_the_records_of_the_checkpoint(setup):
    from evalkit import models

    checkpoint, keys, other = setup
    loaded = models.load(str(checkpoint))
    net = loaded.network
    wrapped = models.wrap(
        lambda x: net(x).logits, name="fn", classes=CLASSES, input_size=16, mean=net.mean, std=net.std, version="1"
    )
    module = models.wrap(net.model, name="module", classes=CLASSES, input_size=16, mean=net.mean, std=net.std)
    for protocol in ("imagenet-a", "imagenet-c", "pgd"):
        assert run(protocol, [str(checkpoint), loaded, wrapped, module], options(protocol, keys, other)) == 0
    made = {}
    for record in records(Path(keys["out"])):
        made.setdefault(record["protocol"], []).append(record)
    for three in made.values():
        assert [r["label"] for r in three] == ["tiny", "fn", "module"]  # the loaded one is the checkpoint again
        contents = [(Path(keys["out"]) / r["records"]).read_bytes() for r in three]
        assert len(set(contents)) == 1 and len({r["records"] for r in three}) == 3
        assert all(r["metrics"] == three[0]["metrics"] for r in three) and all(
            len(r["checkpoint_sha256"]) == 64 for r in three
        )
    with pytest.raises(EvalkitError, match="model fn is a plain callable without class attention"):
        run("occlusion", [wrapped], options("occlusion", keys, other))


def test_openmixup_weights_are_converted_and_the_conversion_is_said(setup, tmp_path, capsys):
    from evalkit import models

    from ..evalkit.models.test_convert import mm_transformer
    from .fakes import VIT

    checkpoint, keys, other = setup
    state = models.load(str(checkpoint)).network.model.state_dict()
    path = tmp_path / "openmixup.pth"
    torch.save(
        {
            "meta": {"epoch": 1},
            "state_dict": {mm_transformer(k): v for k, v in state.items()} | {"head_mix.fc.bias": torch.zeros(2)},
        },
        path,
    )
    network = models.load(str(path), model="vit_tiny_patch16_224", model_args=VIT)
    assert network.classes is None
    with pytest.raises(EvalkitError, match="the class names of openmixup are not known"):
        run("imagenet-a", [str(path)], options("imagenet-a", keys, other, model="vit_tiny_patch16_224", model_args=VIT))
    import dataclasses

    named = dataclasses.replace(network, classes=CLASSES)
    assert run("imagenet-a", [str(checkpoint), named], options("imagenet-a", keys, other)) == 0
    a, b = records(Path(keys["out"]))
    assert a["metrics"] == b["metrics"]
    out = capsys.readouterr().out
    assert (
        f"  {len(state)} tensors of the file renamed to timm's names: backbone." in out
        and "  1 tensors of the file not used: head_mix.fc.bias" in out
    )


def test_a_file_that_would_run_code_is_not_opened(setup, tmp_path):
    _, keys, other = setup
    mark = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (mark,)

    torch.save({"state_dict": {}, "meta": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(
        EvalkitError, match="bomb.pth holds more than tensors and was not opened, since that could run code"
    ):
        run("imagenet-a", [str(tmp_path / "bomb.pth")], options("imagenet-a", keys, other, model="resnet18"))
    assert not mark.exists()
    torch.load(tmp_path / "bomb.pth", weights_only=False)
    assert mark.exists()  # it is one


def test_partial_data_are_exit_code_2_and_say_so(setup, monkeypatch):
    checkpoint, keys, other = setup
    plan = imagenet_a.prepare
    partial = dataclasses.replace(
        imagenet_a.PROTOCOL, prepare=lambda *a: dataclasses.replace(plan(*a), complete=False, published=True)
    )
    monkeypatch.setattr(imagenet_a, "PROTOCOL", partial)
    assert run("imagenet-a", [str(checkpoint)], options("imagenet-a", keys, other)) == 2
    (record,) = records(Path(keys["out"]))
    assert not record["complete"] and not record["published"]


def test_peculiar_images_are_counted(setup):
    from PIL import Image

    checkpoint, keys, other = setup
    Image.new("CMYK", (30, 30), (10, 20, 30, 40)).save(Path(keys["data"]) / "cat" / "z.jpg")
    run("imagenet-a", [str(checkpoint)], options("imagenet-a", keys, other))
    assert "data: cmyk_converted in 1 images" in records(Path(keys["out"]))[0]["notes"]


def test_several_models_one_record_each_and_the_line_that_is_checked(setup, tmp_path, capsys):
    checkpoint, keys, other = setup
    # another order of classes: matched by name
    second = save_checkpoint(tmp_path / "second", CLASSES[::-1], label="second / run", seed=1)
    assert run("imagenet-a", [str(checkpoint), str(second)], options("imagenet-a", keys, other)) == 0
    a, b = records(Path(keys["out"]))
    assert (a["label"], b["label"]) == ("tiny", "second / run") and a["checkpoint_sha256"] != b["checkpoint_sha256"]
    assert a["data"]["fingerprint"] == b["data"]["fingerprint"] and Path(b["records"]).name.startswith(
        "imagenet-a-second-run-"
    )
    assert capsys.readouterr().out.count("3 of 3 class folders matched by name") == 2


def test_timm_weights_without_a_file_get_a_checksum_of_their_own(setup):
    checkpoint, _, _ = setup
    from evalkit import models

    network = models.load(str(checkpoint)).network
    before = measure._sha256_of(network)
    assert len(before) == 64 and before == measure._sha256_of(models.load(str(checkpoint)).network)
    with torch.no_grad():
        network.model.head.bias[0] += 1e-3
    assert measure._sha256_of(network) != before


def test_one_clear_line_before_any_pass(setup, tmp_path):
    checkpoint, keys, other = setup
    cfg = options("imagenet-a", keys, other)
    with pytest.raises(EvalkitError, match="unknown protocol 'imagenet-b'. Did you mean 'imagenet-"):
        run("imagenet-b", [str(checkpoint)], cfg)
    (tmp_path / "file").touch()
    with pytest.raises(EvalkitError, match="cannot write to .*file/records.*choose another output folder with --out"):
        run("imagenet-a", [str(checkpoint)], options("imagenet-a", keys | {"out": str(tmp_path / "file")}, other))
    with pytest.raises(EvalkitError, match="no default data; give the ImageNet-A folder with --data DIR"):
        run("imagenet-a", [str(checkpoint)], options("imagenet-a", keys | {"data": None}, other))
    with pytest.raises(
        EvalkitError, match="a grid of 14 patches does not divide images of 16 pixels; choose grid= one of 2, 4, 8"
    ):
        run("occlusion", [str(checkpoint)], CONFIGS["occlusion"](**keys, saliency="self"))
    assert not list(Path(keys["out"]).glob("*.jsonl"))


def test_non_finite_logits_stop_with_the_images_named(setup, tmp_path):
    _, keys, other = setup
    broken = save_checkpoint(tmp_path / "broken", CLASSES, scale=float("inf"))
    for protocol in PROTOCOLS:
        with pytest.raises(EvalkitError, match=r"the model's output is not finite for \d+ of \d+ images, e.g. "):
            run(protocol, [str(broken)], options(protocol, keys, other))
    assert not (Path(keys["out"]) / "results.jsonl").exists()


def test_limit_takes_part_of_each_set_and_keeps_the_masks(setup):
    checkpoint, keys, other = setup
    for limit in (None, 4):
        run("occlusion", [str(checkpoint)], options("occlusion", keys, other, limit=limit))
    whole, some = (np.load(Path(keys["out"]) / r["records"]) for r in records(Path(keys["out"])))
    at = [whole["ids"].tolist().index(sample) for sample in some["ids"]]
    assert len(at) == 4
    for name in ("predictions", "dropped", "labels"):
        np.testing.assert_array_equal(some[name], whole[name][at])


def test_the_config_in_the_record_runs_again(setup):
    checkpoint, keys, other = setup
    run("imagenet-a", [str(checkpoint)], options("imagenet-a", keys, other))
    (record,) = records(Path(keys["out"]))
    assert CONFIGS["imagenet-a"](**record["config"]) == options("imagenet-a", keys, other, preprocess="published")
    assert config.to_dict(options("imagenet-a", keys, other)).keys() == record["config"].keys()


@pytest.mark.slow
def test_the_embedded_stand_ins_are_the_defaults_of_a_digits_photo_checkpoint(tmp_path, capsys):
    digits = [str(d) for d in range(10)]
    checkpoint = save_checkpoint(tmp_path / "run", digits, data="digits-photo")
    keys = {"out": str(tmp_path / "out"), "workers": 0, "limit": 250}
    small = {"occlusion": {"levels": [0.5], "repeats": 1, "limit": 20}, "pgd": {"steps": 1, "limit": 20}}
    for protocol in PROTOCOLS:
        if protocol in ("imagenet-r", "imagenet-sketch", "imagenet-v2", "imagenet-c"):
            with pytest.raises(
                EvalkitError, match=f"{protocol} has no default data; give the ImageNet.* folder with --data DIR"
            ):
                run(protocol, [str(checkpoint)], CONFIGS[protocol](**keys))
            continue
        assert run(protocol, [str(checkpoint)], CONFIGS[protocol](**keys | small.get(protocol, {}))) == 0
    by_protocol = {r["protocol"]: r for r in records(tmp_path / "out")}
    photo = dict.fromkeys(("occlusion", "imagenet-val", "fgsm", "pgd"), "digits-photo")
    assert {p: r["data"]["name"] for p, r in by_protocol.items()} == {
        "imagenet-a": "digits-a",
        "imagenet-o": "digits-o",
    } | photo
    assert all(
        "a demonstration, not a benchmark" in " ".join(r["notes"]) and not r["published"] for r in by_protocol.values()
    )
    assert by_protocol["occlusion"]["config"]["grid"] == 4 and by_protocol["occlusion"]["config"]["saliency"] == "self"
    assert (
        by_protocol["imagenet-o"]["metrics"]["chance"] == 0.5
        and by_protocol["imagenet-a"]["metrics"]["rms_calibration_error"] is not None
    )
    assert "10 of 10 class folders matched by name" in capsys.readouterr().out


def test_a_network_without_patches_gets_a_default_grid():
    from evalkit.robustness.occlusion import _embedded_grid

    from .fakes import loaded, vit

    model = loaded(vit(), ["a", "b", "c"])
    assert _embedded_grid(model, 16) == 4 and _embedded_grid(model, 32) == 8
    model.network.patch_size = None
    assert _embedded_grid(model, 32) == 8
    model.network.patch_size = 32
    assert _embedded_grid(model, 32) == 8
    assert len(noise()) == 12


@pytest.mark.parametrize("out", [[], ["--out", "a/b"]])
def test_what_is_refused_leaves_no_folder(tmp_path, monkeypatch, out):
    from evalkit.cli import invoke

    monkeypatch.chdir(tmp_path)
    words = ["robustness", "occlusion", "zoo:mixpro-digits", "--data", "nowhere", "device=cpu", *out]
    assert invoke(words)[0] == 1 and not list(tmp_path.iterdir())
    (tmp_path / (out[-1] if out else "results")).mkdir(parents=True)
    assert invoke(words)[0] == 1
    assert [path.name for path in (tmp_path / (out[-1] if out else "results")).iterdir()] == []


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_data_that_are_not_there_are_said_before_weights_are_loaded(tmp_path, monkeypatch, protocol):
    """Weights by a timm name may be a download."""

    def forbidden(*args, **kwargs):
        raise AssertionError("weights")

    monkeypatch.setattr(measure.models, "load", forbidden)
    keys = dict.fromkeys(PROTOCOLS[protocol].needs, str(tmp_path)) | {"out": str(tmp_path / "out")}
    for key in PROTOCOLS[protocol].needs:
        for given, line in (
            (str(tmp_path / "none"), f"no such folder: {tmp_path}/none"),
            ("digits-fotos", "no such folder or data set: digits-fotos. Did you mean 'digits-photo'"),
            (None, f"no default data; give the .* folder with --{key.removesuffix('_data')} DIR"),
        ):
            with pytest.raises(EvalkitError, match=line):
                run(protocol, ["resnet10t"], CONFIGS[protocol](**keys | {key: given}))
    assert not (tmp_path / "out").exists()
    with pytest.raises(AssertionError, match="weights"):
        run(protocol, ["resnet10t"], CONFIGS[protocol](**keys))


def test_where_a_result_is_recorded_is_said(setup, capsys):
    checkpoint, keys, other = setup
    run("imagenet-a", [str(checkpoint)], options("imagenet-a", keys, other))
    assert f"n = 9; recorded in {keys['out']}/results.jsonl" in capsys.readouterr().out
