"""Studies that were measured, and whose images are overwritten under the same names and with as many bytes: they are
refused when they are run again, and taken by no other study."""

import contextlib
import importlib.util
import io
import json
import shutil

import numpy as np
import pytest
import yaml

from evalkit import checkpoint, fingerprint, models, results
from evalkit.cli import identities, invoke
from evalkit.data import folders as image_folders
from evalkit.errors import EvalkitError
from evalkit.report.collect import group_of
from evalkit.study import plan, reuse, spec
from evalkit.study.job import prune
from tests.bad_inputs.make import folders, put, run_folder, splits, training
from tests.downstream.conftest import write_shapes

from .made import made_study

needs_mm = pytest.mark.skipif(importlib.util.find_spec("mmseg") is None, reason="the extra 'downstream' is missing")
QUICK = {"workers": 0, "device": "cpu", "batch_size": 8, "forward_batch": 8}


def measured(folder, evaluations):
    """A study of one-layer networks whose evaluations were made: (its file, its folder, its plan)."""
    weights = run_folder(folder / "run")
    for meta in weights.glob("checkpoints/*/meta.json"):
        meta.write_text(meta.read_text().replace('"label"', '"image_size": 32, "label"'))
    axes = {"network": {"one": {"weights": str(weights)}, "two": {"weights": str(weights)}}}
    return made_study(folder, {"recipe": "digits", "axes": axes, "evaluate": evaluations})


def robustness(folder):
    """Every kind of role: clean images, two sides, corruptions, saliency maps."""
    data = splits(folder / "data")
    folders(folder / "ood", seed=9000)
    folders(folder / "c" / "fog" / "1", seed=7000)
    ids = [f"{name}/{i}.png" for name in "ab" for i in range(4)]
    np.savez(folder / "maps.npz", ids=np.array(ids), saliency=np.random.default_rng(0).random((8, 64)))
    clean = {**QUICK, "data": str(data / "val")}
    maps = {"saliency": str(folder / "maps.npz"), "grid": 8, "levels": [0.5], "repeats": 1}
    fog = {"data": str(folder / "c"), "corruptions": ["fog"], "severities": [1], "preprocess": "published"}
    classes = {"workers": 0, "device": "cpu", "mode": "knn", "k": [1], "data": str(data)}
    return [
        {"robustness": "imagenet-val", "set": clean},
        {"robustness": "occlusion", "set": clean | maps},
        {"robustness": "imagenet-o", "set": {**QUICK, "data": str(folder / "ood"), "id_data": str(data / "val")}},
        {"robustness": "imagenet-c", "set": QUICK | fog},
        {"robustness": "fgsm", "set": clean | {"eps": [1]}},
        {"transfer": "cls", "set": classes},
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, *measured(folder, robustness(folder))


def again(file, out):
    with contextlib.redirect_stdout(io.StringIO()):
        return invoke(["study", "run", str(file), "--out", str(out)])


def compared(out, made):
    return reuse.changed(out, made, identities.of_jobs(out))


def overwrite(path, seed=77):
    """Other pixels, or saliency, in as many bytes."""
    before = path.stat().st_size
    if path.suffix == ".npz":
        content = dict(np.load(path))
        np.savez(path, **content | {"saliency": np.random.default_rng(seed).random((8, 64))})
    else:
        put(path, seed)
    assert path.stat().st_size == before


def test_what_is_as_it_was_is_no_matter(study):
    _, _, out, made = study
    assert all(plan.finished(out, job) for job in made.jobs) and len(made.jobs) == 12
    assert compared(out, made) == []


@pytest.mark.parametrize(
    "path, evaluation, says",
    [
        ("data/val/b/2.png", "imagenet-val", "the images are not those that it was made with"),
        ("maps.npz", "occlusion", "the saliency data are not those"),
        ("ood/a/1.png", "imagenet-o", "the ood data are not those"),
        ("c/fog/1/b/3.png", "imagenet-c", "the fog/1 data are not those"),
        ("data/train/a/0.png", "cls", "the training images are not those"),
    ],
)
def test_overwritten_images_are_refused(study, path, evaluation, says):
    folder, file, out, made = study
    kept = (folder / path).read_bytes()
    overwrite(folder / path)
    try:
        code, line = again(file, out)
        assert code == 1 and line.count("\n") == 0 and says in line and f"/{evaluation} is finished" in line
        assert "remove" in line and "another --out" in line
        for kind in {job.argv[1] for job in made.jobs}:  # each by itself, the first of the plan would hide it
            some = plan.Plan("s", "s", [job for job in made.jobs if job.argv[1] == kind])
            if kind == evaluation:
                with pytest.raises(EvalkitError, match=f"{kind} is finished"):
                    compared(out, some)
    finally:
        (folder / path).write_bytes(kept)
    assert compared(out, made) == []


@pytest.mark.parametrize("kind", ["imagenet-val", "occlusion", "imagenet-o", "fgsm", "cls"])
def test_every_evaluation_of_the_validation_images_knows_them(study, kind):
    folder, _, out, made = study
    path = folder / "data" / "val" / "a" / "1.png"
    kept = path.read_bytes()
    overwrite(path)
    try:
        with pytest.raises(EvalkitError, match=f"{kind} is finished, but the (images|id data|validation images) are"):
            compared(out, plan.Plan("s", "s", [job for job in made.jobs if job.argv[1] == kind]))
    finally:
        path.write_bytes(kept)


@contextlib.contextmanager
def other_weights(run, aside):
    """Inside, a run folder holds other weights of the same network."""
    shutil.copytree(run, aside, symlinks=True)
    (meta,) = run.glob("checkpoints/*/meta.json")
    more = {k: v for k, v in checkpoint.verify(meta.parent).items() if k not in ("sha256", "schema", "step")}
    tensors, _, _ = checkpoint.read_weights(run)
    shutil.rmtree(run)
    checkpoint.save(run, 1, {k: v + 1 for k, v in tensors.items()}, None, {}, more)
    try:
        yield
    finally:
        shutil.rmtree(run)
        shutil.copytree(aside, run, symlinks=True)


def test_other_weights_under_the_name_are_refused(study, tmp_path):
    folder, _, out, made = study
    with (
        other_weights(folder / "run", tmp_path / "kept"),
        pytest.raises(EvalkitError, match="imagenet-val is finished, but the weights are not those"),
    ):
        compared(out, made)
    assert compared(out, made) == []


def test_what_cannot_be_known_is_said_once_for_all_cells(study, tmp_path):
    folder, _, out, made = study
    (folder / "data").rename(tmp_path / "away")
    try:
        said = compared(out, made)
    finally:
        (tmp_path / "away").rename(folder / "data")
    assert len(said) < 6 and all("is not known: " in line for line in said)  # of 10 jobs that read them
    assert said[0].startswith("one.imagenet-val and 7 more: ") and "no such folder" in said[0], said
    older = tmp_path / "older"
    shutil.copytree(out, older, symlinks=True)
    for path in older.glob("cells/*/*/results.jsonl"):
        (record,) = results.read([path])
        del record["_dir"]
        record["data"]["fingerprint"] = "0" * 64
        record["data"] |= {"sets": {role: {"fingerprint": "0" * 64} for role in record["data"].get("sets", {})}}
        record["data"]["train_fingerprint"] = "0" * 64
        path.unlink()
        results.append(path.parent, record)
    said = compared(older, made)
    assert len(said) == 1 and said[0].endswith("and 11 more: whether its images are those of now is not known: it has"
                                              " another kind of fingerprint"), said  # fmt: skip


def test_a_sample_is_said_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "FULL_BYTES", 10)
    clean = {**QUICK, "data": str(splits(tmp_path / "data") / "val")}
    _, out, made = measured(tmp_path, [{"robustness": "imagenet-val", "set": clean}])
    (line,) = compared(out, made)
    assert line.startswith("one.imagenet-val and 1 more: its images are those of before, compared by name, class")
    overwrite(tmp_path / "data" / "val" / "b" / "3.png")
    with pytest.raises(EvalkitError, match="the images are not those"):
        compared(out, made)


def test_an_older_version_of_a_protocol_is_said(study, monkeypatch):
    from dataclasses import replace

    _, _, out, made = study
    now = identities.of_jobs(out)
    jobs = [job for job in made.jobs if job.argv[1] == "fgsm"]
    (line,) = reuse.changed(out, plan.Plan("s", "s", jobs), lambda job: replace(now(job), version=99))
    assert "it was measured by version" in line and "which is 99 now" in line


def test_each_file_is_read_once(study, monkeypatch):
    """However many cells, evaluations and sets it is in."""
    _, _, out, made = study
    read, scanned = [], []
    monkeypatch.setattr(fingerprint, "_digest", lambda path, kept=fingerprint._digest: read.append(path) or kept(path))
    monkeypatch.setattr(
        image_folders, "Scan", lambda root, kept=image_folders.Scan: scanned.append(str(root)) or kept(root)
    )
    with fingerprint.remembered():
        assert compared(out, plan.Plan("s", "s", made.of_cell("one"))) == []
    assert len(read) == len(set(read)) == 32  # 8 each of train, val, ood and fog/1
    of_a_cell = scanned.copy()
    scanned.clear()
    monkeypatch.setattr(models.Network, "__init__", None)  # no network is built
    assert compared(out, made) == [] and scanned == of_a_cell


# ---- what another study made


@pytest.fixture
def trained(tmp_path):
    """A study with a training and evaluations of it: (folder, file, out, plan)."""
    folder = tmp_path / "first"
    folder.mkdir()
    keys = {"data": "folder", "data_dir": str(splits(folder / "data")), "epochs": 1, "batch_size": 4}
    keys |= {"micro_batch": 4, "threads": 1, "workers": 0, "device": "cpu", "mixup": "vanilla"}
    keys |= {"model_args": {"depth": 1, "embed_dim": 32, "num_heads": 2}}
    clean = {**QUICK, "data": str(folder / "data" / "val")}
    evaluations = [{"robustness": "imagenet-val", "set": clean}, {"robustness": "fgsm", "set": clean | {"eps": [1]}}]
    content = {"recipe": "digits", "set": keys, "axes": {"seed": [0]}, "evaluate": evaluations}
    return folder, *made_study(folder, content)


def taken(folder, out, made, name):
    second = folder / name
    plan.start(second, made, spec.load(out.parent / "mine.yaml"))
    return second, reuse.take(second, made, [out], identities.of_jobs(second))


def test_evaluations_are_taken_if_they_are_the_same_and_else_said(trained):
    folder, _, out, made = trained
    _, val, attack = made.jobs
    second, said = taken(folder, out, made, "same")
    assert said == [f"used: {job.id}: {out / job.out}" for job in made.jobs]
    assert compared(second, made) == []

    def altered(job, change):
        (record,) = results.read([out / job.out])
        del record["_dir"]
        path = out / job.out / results.FILE
        kept = path.read_bytes()
        change(record)
        path.unlink()
        results.append(path.parent, record)
        return path, kept

    for number, (change, why) in enumerate(
        [
            (
                lambda r: r["data"]["sets"]["data"].update(fingerprint="content-full:" + "1" * 64),
                "its images are others",
            ),
            (lambda r: r["data"]["sets"]["data"].update(fingerprint="1" * 64), "another kind of fingerprint"),
            (lambda r: r["data"].pop("sets"), "its record has no fingerprints"),
            (lambda r: r.update(version=r["version"] - 1 or 99), "it is of version"),
            (lambda r: r.update(checkpoint_sha256="2" * 64), "its weights are others than now"),
            (lambda r: r["config"].update(allow_partial=True), "its allow_partial is not as now"),
        ]
    ):
        path, kept = altered(val, change)
        third, said = taken(folder, out, made, f"other{number}")
        assert not (third / val.out).exists() and (third / attack.out).exists()
        (line,) = [line for line in said if not line.startswith("used: ")]
        assert line.startswith(f"{val.id}: made before, and not used: ") and why in line
        path.write_bytes(kept)


def test_overwritten_images_of_an_evaluation_alone_are_not_taken(trained):
    folder, _, out, _ = trained
    (folder / "elsewhere").mkdir()
    # the training keeps its images: those of the evaluations lie elsewhere
    val = shutil.copytree(folder / "data" / "val", folder / "elsewhere" / "val")
    study = spec.load(folder / "mine.yaml")
    moved = plan.make(study, study.cells, given=[f"imagenet-val.data={val}"])
    first = folder / "first-moved"
    plan.start(first, moved, study)
    shutil.copytree(out / moved.jobs[0].out, first / moved.jobs[0].out, symlinks=True)
    for job in moved.jobs[1:]:
        assert invoke([*plan.words(first, job), "--out", str(first / job.out)])[0] == 0
    overwrite(val / "a" / "0.png")
    second, said = taken(folder, first, moved, "second")
    names = [job.id for job in moved.jobs if (second / job.out).exists()]
    assert names == [moved.jobs[0].id, moved.jobs[2].id]
    assert any(line.endswith("made before, and not used: its images are others than now") for line in said)


# ---- transfers of mm


@needs_mm
@pytest.mark.slow
def test_overwritten_images_and_maps_of_a_segmentation_are_refused(tmp_path):
    shapes = write_shapes(tmp_path / "shapes")
    keys = {"data": str(shapes), "crop": 32, "stride": 32, "steps": 2, "warmup_steps": 1, "batch_size": 4}
    keys |= {"device": "cpu", "workers": 0, "threads": 1, "checkpoint_steps": 2}
    _, out, made = measured(tmp_path, [{"transfer": "seg", "set": keys}])
    assert compared(out, made) == []
    for split, what in (("train", "training"), ("val", "validation")):
        for kind in ("images", "masks"):
            path = shapes / kind / split / "001.png"
            kept = path.read_bytes()
            path.write_bytes((shapes / kind / split / "002.png").read_bytes())
            with pytest.raises(EvalkitError, match=f"seg is finished, but the {what} images are not those"):
                compared(out, made)
            path.write_bytes(kept)


# ---- what a study leaves of its trainings


def test_a_training_whose_state_was_removed_can_be_measured_and_does_not_begin_anew(trained):
    """A study removes it once all of a cell is measured."""
    folder, _, out, made = trained
    run = out / made.jobs[0].out
    (step,) = (run / "checkpoints").iterdir()
    prune(run)
    assert sorted(path.name for path in step.iterdir()) == ["meta.json", "model.safetensors"]
    code, line = invoke(
        [
            "eval",
            str(run),
            "device=cpu",
            "workers=0",
            "--data",
            str(folder / "data" / "val"),
            "--out",
            str(out / "later"),
        ]
    )
    assert code == 0, line
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, line = invoke(["train", "--resume", str(run)])
    assert code == 1 and "holds weights but no training state" in line and "\n" not in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert (run / "last").resolve() == step.resolve()


# ---- what a training reads besides images


@pytest.fixture(scope="module")
def helped(tmp_path_factory):
    """A study whose training begins with weights and asks a teacher: (folder, file, out, plan)."""
    folder = tmp_path_factory.mktemp("helped")
    run_folder(folder / "before")
    run_folder(folder / "teacher")
    keys = dict(word.split("=", 1) for word in training(splits(folder / "data"))[2:-2])
    keys = {key: yaml.safe_load(value) for key, value in keys.items()} | {"init": str(folder / "before")}
    keys |= {"mixup": {"name": "attentive_cutmix", "teacher": str(folder / "teacher")}}
    return folder, *made_study(folder, {"recipe": "digits", "set": keys, "axes": {"seed": [0]}})


@pytest.mark.parametrize("name, says", [("before", "the weights of {}"), ("teacher", "the weights of teacher {}")])
def test_a_training_by_other_helpers_is_refused_and_not_taken(helped, tmp_path, name, says):
    folder, file, out, made = helped
    assert compared(out, made) == []
    second, said = taken(tmp_path, out, made, "same")
    assert len(said) == 1 and (second / made.jobs[0].out).exists()
    (meta,) = (out / made.jobs[0].out).glob("checkpoints/*/meta.json")
    known = json.loads(meta.read_text())
    assert set(known["init"]) == {str(folder / "before")} and set(known["teachers"]) == {str(folder / "teacher")}
    with other_weights(folder / name, tmp_path / "kept"):
        code, line = again(file, out)
        assert code == 1 and f"is finished, but {says.format(folder / name)} are not those" in line
        third, said = taken(tmp_path, out, made, "other")
        assert [line.partition(":")[0] for line in said] == [f"nothing is used of {out}"]
        assert not (third / made.jobs[0].out).exists()


def test_evaluations_whose_training_is_gone_are_not_of_the_next_one(trained):
    _, file, out, made = trained
    train, val, _ = made.jobs
    (out / train.out).rename(out / "away")
    code, line = again(file, out)
    assert code == 1 and f"{out / val.out} is finished, but the weights that it measured would be trained anew" in line
    assert f"since {out / train.out} is not there" in line
    (out / "away").rename(out / train.out)
    assert compared(out, made) == []


def test_occlusion_by_other_maps_stands_in_no_table_with_the_first(study, tmp_path):
    folder, _, out, made = study
    (job,) = [job for job in made.of_cell("one") if job.argv[1] == "occlusion"]
    kept = (folder / "maps.npz").read_bytes()
    overwrite(folder / "maps.npz")
    try:
        assert invoke([*plan.words(out, job), "--out", str(tmp_path)])[0] == 0
    finally:
        (folder / "maps.npz").write_bytes(kept)
    (then,), (now,) = results.read([out / job.out]), results.read([tmp_path])
    assert then["data"]["sets"]["data"] == now["data"]["sets"]["data"]
    assert then["data"]["sets"]["saliency"] != now["data"]["sets"]["saliency"]
    assert group_of(then)._replace(fingerprint="") == group_of(now)._replace(fingerprint="")
    assert group_of(then) != group_of(now)
