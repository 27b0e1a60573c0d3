import json
from collections import Counter

import pytest

from evalkit import published
from evalkit.cli import invoke
from evalkit.study import coverage, plan, spec

COVERED = coverage.coverage()


def test_every_published_cell_has_a_study_or_says_why_not():
    assert len(COVERED) == 731 and {c.value for c in COVERED} == {
        v for v in published.values() if not v.source.startswith("timm")
    }
    assert [c.value for c in COVERED if c.missing] == []
    assert Counter(bool(c.study) for c in COVERED) == {True: 723, False: 8}
    quoted = [c for c in COVERED if not c.study and not c.missing]
    assert {(c.value.source, c.value.table, c.value.model) for c in quoted} == {
        ("TransMix supplementary", "Table 2", "resnet50")
    }


def test_a_value_names_its_cell_and_its_command():
    (found,) = (c for c in COVERED if c.value.value == "68.95" and c.value.model == "resnet18")
    assert found.study == "openmixup-pytorch-100" and found.cells == ("resnet18-CutMix-seed0",)
    assert found.only == "model=resnet18,method=CutMix"
    assert found.command == ("train", "imagenet-r18", "mixup=cutmix", "seed=0")
    (size,) = (c for c in COVERED if c.value.value == "84M")
    assert size.command[:2] == ("bench", "step") and "model=xcit_medium_24_p16_224" in size.command
    (a,) = (c for c in COVERED if c.value.value == "32.4" and c.value.metric == "aurra")
    assert a.command == ("robustness", "imagenet-a", "cells/MixPro-seed0/train")


def test_what_selects_a_cell_selects_it_in_its_seeds_alone():
    studies = {name: spec.load(name) for name in {c.study for c in COVERED if c.study}}
    for c in COVERED:
        if c.study:
            assert tuple(cell.name for cell in spec.select(studies[c.study], c.only)) == c.cells


def test_every_evaluation_of_a_plan_is_a_command_of_the_coverage():
    study = spec.load("mixpro-segmentation")
    made = plan.make(study, study.cells, given=["data_dir=D", "segmenter.data_dir=V"])
    argv = {job.id: job.argv for job in made.jobs}
    assert len(argv) == 9 and argv["MixPro-seed0.segmenter"][-1] == "data_dir=V"
    assert "data_dir=V" not in argv["MixPro-seed0.linear"] and "data_dir=D" in argv["MixPro-seed0.train"]


def test_the_commands(capsys):
    code, _ = invoke(["study", "coverage"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and len(lines) == 732
    assert lines[-1].endswith("8 quoted without a setting, 0 not expressible")
    assert any("MixPro paper, Table 1: deit_tiny_patch16_224 MixPro top1 73.8: evalkit study run" in x for x in lines)
    code, _ = invoke(["study", "coverage", "--json"])
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == 731 and sum(bool(e["command"]) for e in entries) == 731 - 8
    code, _ = invoke(["study", "show", "mixpro-robustness", "--only", "method=mixpro"])
    assert "32.4 aurra of imagenet-a (MixPro paper, Table 5, last)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_prints_every_command_its_data_and_its_cost(capsys):
    code, _ = invoke(["study", "run", "mixpro-robustness", "--only", "method=mixpro,seed=0", "--dry-run"])
    out = capsys.readouterr().out
    assert code == 0 and "evalkit train mixpro seed=0 data_dir=DIR" in out and "12.3 H100 hours" in out
    assert out.count("evalkit robustness") == 3
