"""What pages print as code exists: keys, metrics, methods, commands, files, names of Python."""

import dataclasses
import re

import pytest
import timm

import evalkit.models  # noqa: F401  (registers its architectures with timm)
from docs.generate import api
from evalkit import records
from evalkit.cli import described, schemas
from evalkit.report.training import CURVES
from evalkit.train import METHODS
from evalkit.train.mixups import arguments

from .pages import DOCS, PAGES

ROOT = DOCS.parent
READ = [ROOT / "README.md", *PAGES, *(DOCS / f"{name}.md" for name in ("cluster", "studies", "transfer"))]
SNAKE = re.compile(r"^[a-z]\w*_(?:\w+|\*)$")
OTHERS = {  # names of Slurm's plug-in, of mm's configs and functions, and of the package that an export writes
    *("mem_mb", "cpus_per_task", "frozen_stages", "norm_eval", "init_cfg", "load_from", "base_batch_size"),
    *("custom_imports", "init_detector", "inference_detector", "init_model", "inference_model", "evalkit_export"),
    *("mmengine", "mmcv", "mmdet", "mmsegmentation", "pkg_resources"),
    *("model_ema", "state_dict_ema"),  # what others call averaged weights in their files
}
KEY = re.compile(r"^(?:mixup\.)?([a-z_]+)(?:\.\w+)*=[^=\s]")


@pytest.fixture(scope="module")
def known():
    found = {name for name, _, _ in records.fields()} | set(CURVES) | set(METHODS) | set(timm.list_models())
    for schema in schemas.schemas().values():
        for field in dataclasses.fields(schema):
            found |= {field.name, *map(str, field.metadata["key"].choices if "key" in field.metadata else ())}
    for protocol in described.protocols().values():
        found |= {prefix + m.name for m in protocol.metrics for prefix in ("", "val_")}  # val_: in the log of a run
    for cls in METHODS.values():
        found |= {*arguments(cls), *cls.PRESETS}
    for module in api.modules():
        found |= {name for name in vars(module) if not name.startswith("__")}
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__.startswith("evalkit"):
                found |= set(dir(value)) | set(getattr(value, "__annotations__", ()))
    return found


def inline(text: str) -> list[str]:
    """The code within sentences."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


@pytest.mark.parametrize("page", READ, ids=lambda p: p.stem)
def test_names_in_sentences_exist(page, known):
    unknown = []
    for words in inline(page.read_text(encoding="utf-8")):
        key = KEY.match(words)
        name = key[1] if key else words.partition("(")[0]
        if (key or SNAKE.match(name)) and not (
            any(k.startswith(name[:-1]) for k in known) if name.endswith("*") else name in known | OTHERS
        ):
            unknown.append(words)
    assert unknown == []


@pytest.mark.parametrize("page", READ, ids=lambda p: p.stem)
def test_files_in_sentences_exist(page):
    for words in inline(page.read_text(encoding="utf-8")):
        if re.match(r"^(?:tests|configs|benchmarks|train|downstream|robustness|docs)/[\w./-]+$", words):
            assert (ROOT / words).exists(), words


def test_files_of_a_run_are_named_where_they_lie():
    """Weights are in `last` and `best`, not beside them."""
    found = [
        m
        for page in READ
        for m in re.findall(r"runs/\w+/([\w/-]*)(model\w*\.safetensors|meta\.json)", page.read_text())
    ]
    assert len(found) > 1 and {folder for folder, _ in found} <= {"last/", "best/"}
