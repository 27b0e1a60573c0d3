"""The keys of the protocols: recipes equal the defaults, and values that cannot be are refused in one line."""

from pathlib import Path

import pytest

from evalkit import config
from evalkit.errors import EvalkitError
from evalkit.recipe_text import sources
from evalkit.robustness import CONFIGS, PROTOCOLS


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_recipe_names_every_key_with_its_default_and_a_reason(name):
    schema, path = CONFIGS[name], config.find(name, "robustness")
    assert (
        config.load(schema, name, [], folder="robustness")
        == config.load(schema, None, [], folder="robustness")
        == schema()
    )
    assert set(config.read(path, "robustness")) == set(config.to_dict(schema()))
    assert set(sources(path, "robustness")) == set(config.to_dict(schema()))


def test_every_protocol_has_a_config_and_a_recipe():
    recipes = config.recipes("robustness")
    assert set(CONFIGS) == set(PROTOCOLS) <= set(recipes)
    for name in set(recipes) - set(PROTOCOLS):  # a variant of one
        assert config.base_name(recipes[name]) in PROTOCOLS


def test_overrides_and_saving(tmp_path):
    cfg = config.load(
        CONFIGS["occlusion"],
        "occlusion",
        ["head=3", "levels=[0.5]", "modes=[salient]", "limit=7", "data=007"],
        folder="robustness",
    )
    assert (cfg.head, cfg.levels, cfg.modes, cfg.limit, cfg.data) == ("3", [0.5], ["salient"], 7, "007")
    config.save(cfg, tmp_path / "again.yaml")
    assert config.load(CONFIGS["occlusion"], tmp_path / "again.yaml", [], folder="robustness") == cfg


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("imagenet-a", "preproces=model", "unknown key 'preproces'. Did you mean 'preprocess'"),
        ("imagenet-a", "preprocess=publish", "unknown value of preprocess 'publish'. Did you mean 'published'"),
        ("imagenet-a", "on_error=skp", "unknown value of on_error 'skp'. Did you mean 'skip'"),
        ("imagenet-a", "weights=averaged", "unknown value of weights 'averaged'"),
        ("imagenet-a", "forward_batch=0", "key 'forward_batch' must be at least 1, but got 0"),
        ("imagenet-a", "limit=0", "key 'limit' must be at least 1"),
        ("imagenet-a", "workers=-1", "key 'workers' must be at least 0"),
        ("imagenet-a", "repeats=3", "unknown key 'repeats'"),
        ("imagenet-o", "id_date=x", "Did you mean 'id_data'"),
        ("imagenet-r", "on_error=wrogn", "unknown value of on_error 'wrogn'. Did you mean 'wrong'"),
        ("imagenet-o", "on_error=wrong", "unknown value of on_error 'wrong'"),
        ("imagenet-val", "classes=imagenet-b", "unknown value of classes 'imagenet-b'. Did you mean 'imagenet-"),
        ("imagenet-a", "val_labels=x", "unknown key 'val_labels'"),
        ("imagenet-c", "corruptions=[fogg]", "unknown value of corruptions 'fogg'. Did you mean 'fog'"),
        ("imagenet-c", "corruptions=[]", "corruptions must name at least one"),
        ("imagenet-c", "corruptions=[fog, fog]", "corruptions must name at least one and none twice"),
        ("imagenet-c", "severities=[0, 1]", "unknown value of severities '0'. Choose one of: 1, 2, 3, 4, 5"),
        ("imagenet-c", "severities=[3, 1]", "severities must ascend within 1..5"),
        ("imagenet-c", "severities=[]", "severities must ascend within 1..5"),
        ("fgsm", "eps=[]", "eps must ascend within 0..255"),
        ("fgsm", "eps=[8, 4]", "eps must ascend within 0..255"),
        ("fgsm", "eps=[-1]", "each number of key 'eps' must lie between 0 and 255"),
        ("fgsm", "eps=[.nan]", "each number of key 'eps' must lie between 0 and 255"),
        ("fgsm", "steps=3", "unknown key 'steps'. Did you mean 'eps'"),
        ("pgd", "steps=0", "key 'steps' must be at least 1"),
        ("pgd", "alpha=0", "key 'alpha' must be larger than 0 and at most 255"),
        ("pgd", "seed=-1", "key 'seed' must lie between 0 and 2.64-1"),
        ("occlusion", "modes=[salent]", "unknown value of modes 'salent'. Did you mean 'salient'"),
        ("occlusion", "modes=[]", "modes must name each"),
        ("occlusion", "modes=[random, random]", "modes must name each"),
        ("occlusion", "levels=[0.5, 1.5]", "each number of key 'levels' must lie between 0 and 1"),
        ("occlusion", "levels=[-0.1, 0.5]", "each number of key 'levels' must lie"),
        ("occlusion", "levels=[.nan]", "each number of key 'levels' must lie"),
        ("occlusion", "levels=[0.5, 0.2]", "levels must ascend"),
        ("occlusion", "levels=[0.0]", "levels must ascend within 0..1 and reach above 0"),
        ("occlusion", "repeats=0", "key 'repeats' must be at least 1"),
        ("occlusion", "seed=-1", "key 'seed' must lie between 0 and 2.64-1"),
        ("occlusion", "grid=0", "key 'grid' must be at least 1"),
        ("occlusion", "head=first", "head must be auto, mean or a head's number, but got 'first'"),
    ],
)
def test_one_clear_line(name, override, message):
    with pytest.raises(EvalkitError, match=message) as e:
        config.load(CONFIGS[name], name, [override], folder="robustness")
    assert "\n" not in str(e.value)


def test_recipes_ship_as_package_data():
    assert all(Path(p).name.endswith(".yaml") for p in config.recipes("robustness").values())
