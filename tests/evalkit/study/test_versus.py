import json

import numpy as np
import pytest

from evalkit import results
from evalkit.cli.described import protocols
from evalkit.errors import EvalkitError
from evalkit.robustness.comparison import compare as compare_models
from evalkit.robustness.recorded import outcome_of
from evalkit.study import versus
from tests.evalkit import fake_records

from .test_report import TOP1, ran  # noqa: F401


def test_methods_of_a_study_are_compared_seed_by_seed(ran, tmp_path, capsys):  # noqa: F811
    _, folder = ran
    a, b = f"{folder}:method=GOOD", f"{folder}:method=vanilla"
    assert versus.is_over_seeds(a) and not versus.is_over_seeds("nowhere")
    assert versus.compare(a, b, ["accuracy"], protocols(), outcome_of, tmp_path) == 0
    vit, net = json.loads((tmp_path / versus.FILE).read_text())
    line = next(m for m in vit["metrics"] if m["metric"] == "top1")
    d = np.subtract(TOP1["good"], TOP1["vanilla"])
    assert vit["seeds"] == ["0", "1", "2"] and line["difference"] == f"{100 * d.mean():+.2f}"
    assert line["verdict"] == "better" and line["a"] == pytest.approx(np.mean(TOP1["good"]))
    assert net["seeds"] == ["0", "1"] and "not decidable (2 seeds" in net["metrics"][0]["verdict"]
    assert "accuracy on digits-photo, vit, seeds 0, 1, 2" in capsys.readouterr().out
    for words, message in (("", "say which cells"), (":metod=good", "method"), (":method=goo", "good")):
        with pytest.raises(EvalkitError, match=message):
            versus.side(f"{folder}{words}")


def test_trainings_of_several_seeds(tmp_path, capsys):
    for label, lift in (("mixup", 0.02), ("vanilla", 0.0)):
        for seed in (0, 1, 2):
            name = f"{label}{seed}"
            record = fake_records.record(
                label=label, method=label, metrics={"top1": 0.8 + lift + 0.001 * seed * (1 + lift)}, seed=seed,
                checkpoint_sha256=name.encode().hex().ljust(64, "0"), config={"mixup": label, "seed": seed},
            )  # fmt: skip
            results.append(tmp_path / name, record)
    a, b = f"{tmp_path}:mixup", f"{tmp_path}:vanilla"
    assert versus.is_over_seeds(a) and versus.compare(a, b, [], protocols(), outcome_of) == 0
    assert "better" in capsys.readouterr().out
    with pytest.raises(EvalkitError, match="2 methods"):
        versus.side(str(tmp_path))
    with pytest.raises(EvalkitError, match="vanilla"):
        versus.side(f"{tmp_path}:vanila")


def test_two_evaluations_of_accuracy_by_their_predictions(tmp_path, capsys):
    right = {"a": [1] * 9 + [0], "b": [0] * 8 + [1] * 2}
    for name, correct in right.items():
        record = fake_records.record(
            task="eval", label=name, n=10, metrics={"top1": sum(correct) / 10}, checkpoint_sha256=name * 64, config={}
        )
        results.append(tmp_path / name, record)
        lines = [f"{i:02d},x,x,0.5,{c}" for i, c in enumerate(correct)]
        head = "file_name,label,predicted_class,predicted_probability,correct"
        (tmp_path / name / "predictions.csv").write_text("\n".join([head, *lines]) + "\n")
    sides = [str(tmp_path / name) for name in right]
    assert not versus.is_over_seeds(sides[0]) and compare_models(*sides) == 0
    assert "8 / 1, p = 0.039" in capsys.readouterr().out  # as McNemar's example
    (tmp_path / "b" / "predictions.csv").unlink()
    with pytest.raises(EvalkitError, match="does not hold the predictions of b"):
        compare_models(*sides)
