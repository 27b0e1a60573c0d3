"""The benchmark of classification transfer, and what it recorded."""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_record_says_which_sets_and_every_seed():
    made = json.loads((ROOT / "benchmarks/results/transfer_cls.json").read_text())
    assert (made["source"], made["target"], made["seeds"]) == ("digits-photo", "digits", [0, 1, 2])
    assert {row["mode"] for row in made["rows"]} == {"linear", "knn", "fewshot"}
    for row in made["rows"]:
        assert len(row["pretrained"]) == len(row["initial"]) == 3
        means = [statistics.fmean(row[k]) for k in ("pretrained", "initial")]
        assert abs(row["difference"] - means[0] + means[1]) < 1e-12
