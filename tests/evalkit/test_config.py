"""Recipes and overrides: every value by hand, every mistake with the line a person reads."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from omegaconf import MISSING

from evalkit import config
from evalkit.errors import EvalkitError
from evalkit.keys import Keys, Retired, key
from evalkit.train.config import TrainConfig


@dataclass(frozen=True)
class Small(Keys):
    RETIRED: ClassVar = {
        "rate": Retired("its name is lr", renamed="lr"),
        "turbo": Retired("fast=true does what turbo=2 did", harmless=(0, None)),
    }
    name: str = key(MISSING, "name")
    mixup: Any = key("vanilla", "method")
    model_args: dict[str, Any] = key({}, "arguments")
    epochs: int = key(3, "epochs")
    lr: float = key(0.1, "learning rate")
    clip: float | None = key(None, "largest norm; null: none")
    note: str | None = key(None, "note")
    fast: bool = key(False, "whether to hurry")
    betas: list[float] = key([0.9, 0.999], "decay rates")


def load(*overrides):
    return config.load(Small, None, ["name=x", *overrides])


def recipe(tmp_path, text, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("epochs=7", "epochs", 7),
        ("lr=1e-3", "lr", 0.001),
        ("lr=1", "lr", 1.0),
        ("lr='5e-4'", "lr", 0.0005),
        ("clip=0.5", "clip", 0.5),
        ("clip=null", "clip", None),
        ("fast=true", "fast", True),
        ("betas=[0.5, 1e-1]", "betas", [0.5, 0.1]),
        ("betas=[]", "betas", []),
        (
            "model_args={patch_size: 14, rates: [0.1, {a: null}]}",
            "model_args",
            {"patch_size": 14, "rates": [0.1, {"a": None}]},
        ),
        ("model_args.patch_size=14", "model_args", {"patch_size": 14}),
        ("model_args.a.b=1e-3", "model_args", {"a": {"b": 0.001}}),
        ("note=007", "note", "007"),
        ("note=1e-3", "note", "1e-3"),
        ("note=yes", "note", "yes"),
        ("note=a: b, [c]", "note", "a: b, [c]"),
        ("note=x=y", "note", "x=y"),
        ("note=null", "note", None),
        ("note='null'", "note", "null"),
        ('note=""', "note", ""),
        ("mixup=transmix", "mixup", "transmix"),
        ("mixup.alpha=0.5", "mixup", {"name": "vanilla", "alpha": 0.5}),
        ("mixup={name: mixup, alpha: 0.8}", "mixup", {"name": "mixup", "alpha": 0.8}),
        (
            "mixup={choice: [{name: mixup, prob: 0.2}, {name: cutmix}]}",
            "mixup",
            {"choice": [{"name": "mixup", "prob": 0.2}, {"name": "cutmix"}]},
        ),
    ],
)
def test_override(override, key, value):
    cfg = load(override)
    assert getattr(cfg, key) == value and type(getattr(cfg, key)) is type(value)
    assert cfg == dataclasses.replace(load(), **{key: value})


def test_overrides_apply_in_order_and_leave_the_schema_alone():
    cfg = load(
        "mixup=transmix", "mixup.alpha=0.5", "mixup.edge=new", "lr=1", "lr=2", "model_args.a=1", "model_args.b=2"
    )
    assert (
        cfg.mixup == {"name": "transmix", "alpha": 0.5, "edge": "new"}
        and cfg.lr == 2.0
        and cfg.model_args == {"a": 1, "b": 2}
    )
    assert load().model_args == {} and load().mixup == "vanilla"
    assert load("mixup.alpha=0.5", "mixup=cutmix").mixup == "cutmix"


@pytest.mark.parametrize(
    "override, message",
    [
        ("epoch=3", "unknown key 'epoch'. Did you mean 'epochs'?"),
        ("lr.warmup=3", "key 'lr.warmup' cannot be set, since lr is not a mapping; give lr as a whole"),
        ("zzz=3", "unknown key 'zzz'. Choose one of: betas, clip, epochs, fast, lr, mixup, model_args, name, note."),
        ("epochs=3.5", "key 'epochs' must be an integer, but got 3.5"),
        ("epochs=true", "key 'epochs' must be an integer, but got True"),
        ("epochs=null", "key 'epochs' must be an integer, but got None"),
        ("lr=fast", "key 'lr' must be a number, but got 'fast'"),
        ("clip=x", "key 'clip' must be a number or null, but got 'x'"),
        ("fast=maybe", "key 'fast' must be true or false, but got 'maybe'"),
        ("betas=0.9", "key 'betas' must be a list of numbers such as [1, 2], but got 0.9"),
        ("betas=[a]", "key 'betas' must be a list of numbers such as [1, 2], but got ['a']"),
        ("betas.0=1", "key 'betas.0' cannot be set, since betas is not a mapping; give betas as a whole"),
        ("model_args=[1]", "key 'model_args' must be a mapping such as {key: 1}, but got [1]"),
        (
            "model_args.a.=1",
            (
                "'model_args.a.=1' is not key=value; for no value write model_args.a.=null, for empty text"
                " model_args.a.='\"\"'"
            ),
        ),
        ("lr=", "'lr=' is not key=value; for no value write lr=null, for empty text lr='\"\"'"),
        ("lr", "'lr' is not key=value; for no value write lr=null, for empty text lr='\"\"'"),
        ("betas=[1,", "betas=[1,: not valid YAML: did not find expected node content"),
        ("model_args={a: 1, a: 2}", "model_args={a: 1, a: 2}: not valid YAML: found duplicate key a"),
        (
            "model_args={a:1, b:2}",
            "model_args={a:1, b:2}: YAML wants a blank after the colon of a mapping: 'a: 1', and quotes around it all",
        ),
    ],
)
def test_wrong_override_is_one_line_that_helps(override, message):
    with pytest.raises(EvalkitError) as e:
        load(override)
    assert str(e.value) == message


def test_a_choice_is_replaced_as_a_whole():
    with pytest.raises(
        EvalkitError, match="mixup is a choice of several, so 'mixup.alpha' is ambiguous; replace it as a whole"
    ):
        load("mixup={choice: [{name: mixup}]}", "mixup.alpha=1")


def test_inside_a_plain_value_there_is_nothing_to_set():
    with pytest.raises(EvalkitError, match="key 'model_args.a.b' cannot be set, since a is not a mapping"):
        load("model_args.a=1", "model_args.a.b=2")


def test_recipe_file(tmp_path):
    cfg = config.load(Small, recipe(tmp_path, "name: a\nlr: 1e-3  # a comment\nbetas: [0.1, 2]\n"), ["epochs=1"])
    assert cfg == Small(name="a", lr=0.001, betas=[0.1, 2.0], epochs=1)
    assert config.load(Small, str(tmp_path / "mine.yaml"), ["epochs=1"]) == cfg


def test_base_lies_below_its_recipe_and_mappings_are_replaced(tmp_path):
    recipe(tmp_path, "name: a\nlr: 0.5\nmodel_args: {a: 1}\nnote: n", "below.yaml")
    cfg = config.load(Small, recipe(tmp_path, "base: below.yaml\nmodel_args: {b: 2}\nlr: 0.25\nnote: null"))
    assert cfg == Small(name="a", lr=0.25, model_args={"b": 2})


@pytest.mark.parametrize(
    "text, message",
    [
        ("name: a\nepoch: 3", "recipe '{path}': unknown key 'epoch'. Did you mean 'epochs'?"),
        ("name: a\nlr: fast", "recipe '{path}': key 'lr' must be a number, but got 'fast'"),
        ("name: 1e-3", "recipe '{path}': key 'name' must be text (in quotes if it looks like a number), but got 0.001"),
        ("lr: 1", "recipe '{path}' lacks name; add name=..."),
        ("name: a\nlr: 1\nlr: 2", "{path}, line 3: not valid YAML: found duplicate key lr"),
        ("name: a\nmodel_args: {b: 1, b: 2}", "{path}, line 2: not valid YAML: found duplicate key b"),
        ("name: [", "{path}, line 2: not valid YAML: did not find expected node content"),
        ("- name", "{path}: a recipe is a list of `key: value` lines, but this holds list"),
        ("base: deit-30", "unknown recipe 'deit-30'. Did you mean 'deit-300'?"),
        ("base: 3", "mine.yaml: `base` must be the name or the path of a recipe, but got 3"),
        (
            "base: digits-photo-mixpro",
            "mine.yaml: its base 'digits-photo-mixpro' has a base itself; only one level is allowed",
        ),
        (
            "1: 2",
            (
                "recipe '{path}': unknown key '1'. Choose one of: betas, clip, epochs, fast, lr, mixup, model_args,"
                " name, note."
            ),
        ),
    ],
)
def test_wrong_recipe_is_one_line_that_helps(tmp_path, text, message):
    path = recipe(tmp_path, text)
    with pytest.raises(EvalkitError) as e:
        config.load(Small, path)
    assert str(e.value) == message.replace("{path}", str(path))


def test_unknown_recipe_names_the_closest():
    with pytest.raises(EvalkitError, match=r"^unknown recipe 'digit-photo'. Did you mean 'digits-photo'\?$"):
        config.load(TrainConfig, "digit-photo")
    with pytest.raises(
        EvalkitError,
        match="^no recipe file 'nowhere/x.yaml'; give the path of a YAML file or a name from `evalkit recipes list`$",
    ):
        config.load(TrainConfig, "nowhere/x.yaml")


def test_all_missing_keys_are_named():
    with pytest.raises(
        EvalkitError,
        match="^the configuration lacks model, data, epochs, batch_size, micro_batch, lr; add model=... data=...",
    ):
        config.load(TrainConfig, None)


def test_resolve_lets_mandatory_keys_be_missing_and_skips_the_checks():
    assert config.resolve(TrainConfig, "deit-300").data == "folder"
    with pytest.raises(EvalkitError, match="data=folder needs data_dir=DIR"):
        config.load(TrainConfig, "deit-300")


def test_yaml_tags_run_nothing(tmp_path):
    flag = tmp_path / "flag"
    path = recipe(tmp_path, f"name: !!python/object/apply:os.mkdir ['{flag}']")
    with pytest.raises(EvalkitError, match="not valid YAML"):
        config.load(Small, path)
    assert not flag.exists()


AWKWARD = [
    "plain",
    "1e-3",
    "null",
    "yes",
    "007",
    "2024-01-01",
    " spaced ",
    "a: b # c",
    "'quoted'",
    '"',
    "[1]",
    "{a}",
    "é√",
    "1:30",
    "line\nbreak",
    "-",
    "~",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_saved_config_loads_to_an_equal_one(tmp_path, text):
    mixup = {"choice": [{"name": text, "x": [1, 2.5, None, True]}]}
    cfg = dataclasses.replace(load(), note=text, mixup=mixup, lr=1e-5, clip=1e20, model_args={"a": {"b": text}})
    config.save(cfg, tmp_path / "run" / "config.yaml")
    again = config.load(Small, tmp_path / "run" / "config.yaml")
    assert again == cfg and repr(again) == repr(cfg)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_every_recipe_survives_saving(tmp_path):
    for name in config.recipes():
        cfg = config.load(TrainConfig, name, ["data_dir=somewhere"])
        config.save(cfg, tmp_path / "config.yaml")
        assert config.load(TrainConfig, str(tmp_path / "config.yaml")) == cfg


def test_result_holds_plain_containers_that_json_takes():
    cfg = load("mixup={choice: [{name: mixup}]}", "model_args={a: [1]}")
    assert (
        type(cfg.mixup) is dict
        and type(cfg.mixup["choice"]) is list
        and type(cfg.betas) is list
        and type(cfg.model_args["a"]) is list
    )
    assert json.loads(json.dumps(config.to_dict(cfg))) == config.to_dict(cfg)


# ---- keys of the past


def test_a_file_with_a_renamed_key_is_read(tmp_path):
    old = recipe(tmp_path, "name: x\nrate: 0.5")
    with pytest.warns(UserWarning, match=r"key 'rate' is called 'lr' now"):
        assert config.load(Small, old) == load("lr=0.5")


def test_a_dropped_key_that_did_nothing_is_said_and_dropped(tmp_path):
    for value in ("0", "null"):
        with pytest.warns(UserWarning, match=r"key 'turbo' no longer exists; without it nothing changes"):
            assert config.load(Small, recipe(tmp_path, f"name: x\nturbo: {value}")) == load()


def test_one_line_says_what_replaced_a_dropped_key(tmp_path):
    with pytest.raises(EvalkitError, match=r"': key 'turbo' no longer exists; fast=true does what turbo=2 did$"):
        config.load(Small, recipe(tmp_path, "name: x\nturbo: 2"))
    for override, now in (("turbo=0", "fast=true does what turbo=2 did"), ("rate=1", "its name is lr")):
        with pytest.raises(EvalkitError, match=f"^key '{override.split('=')[0]}' no longer exists; {now}$"):
            load(override)
    both = recipe(tmp_path, "name: x\nrate: 0.5\nlr: 0.1")
    with pytest.raises(EvalkitError, match="key 'rate' no longer exists; its name is lr"):
        config.load(Small, both)


# ---- the values a training recipe may hold


def check(**values):
    base = {"model": "m", "data": "digits", "epochs": 1, "batch_size": 8, "micro_batch": 4, "lr": 0.1}
    TrainConfig(**base | values).check()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"augment": "rc"}, "unknown value of augment 'rc'. Did you mean 'rrc'?"),
        ({"schedule": "cosin"}, "unknown value of schedule 'cosin'. Did you mean 'cosine'?"),
        ({"amp": "bf-16"}, "unknown value of amp 'bf-16'. Did you mean 'bf16'?"),
        ({"lr": 0.0}, "key 'lr' must be larger than 0, but got 0.0"),
        ({"lr": float("nan")}, "key 'lr' must be larger than 0, but got nan"),
        ({"weight_decay": -1.0}, "key 'weight_decay' must be at least 0, but got -1.0"),
        ({"label_smoothing": 1.5}, "key 'label_smoothing' must lie between 0 and 1, but got 1.5"),
        ({"betas": [0.9, 1.0]}, "key 'betas' must be numbers from 0 to below 1, but got [0.9, 1.0]"),
        (
            {"schedule": "step"},
            "schedule=step needs the epochs at which the learning rate falls, for example decay_epochs=[30,60,90]",
        ),
        (
            {"data": "folder"},
            "data=folder needs data_dir=DIR, a folder with a sub-folder per split that holds a sub-folder per class",
        ),
        (
            {"batch_size": 12, "micro_batch": 5},
            "micro_batch=5 does not divide batch_size=12; use one of 1, 2, 3, 4, 6, 12",
        ),
        ({"micro_batch": 16}, "micro_batch=16 does not divide batch_size=8; use one of 1, 2, 4, 8"),
        ({"accumulate": 3}, "accumulate=3 does not divide the 2 micro-batches of a step"),
    ],
)
def test_train_config_refuses_what_no_run_could_use(values, message):
    with pytest.raises(EvalkitError) as e:
        check(**values)
    assert str(e.value) == message


def test_train_config_takes_what_is_at_the_edge():
    check(
        erasing=1.0,
        label_smoothing=0.0,
        warmup_epochs=5.0,
        clip_grad=0.1,
        ema=0.0,
        threads=1,
        accumulate=2,
        schedule="step",
        decay_epochs=[1.0],
    )
