"""The protocols fgsm and pgd: the units of their keys, which label is attacked, and that the records are those of the
attacks."""

import dataclasses

import numpy as np
import pytest
import torch

from evalkit.inference import normaliser
from evalkit.robustness import adversarial, attacks
from evalkit.robustness.about.attacks import FGSMConfig, PGDConfig

from .fakes import CPU, loaded, vit, write_tree

CLASSES = ["dog", "eel", "bird", "cat"]  # the model's order is not that of the folders, and one class has none


@pytest.fixture
def world(tmp_path):
    """(model, images in [0, 1] in the order of the ids, labels as outputs, data folder); the weights are large, so that
    attacks matter."""
    root = write_tree(tmp_path / "val", {"bird": 5, "cat": 6, "dog": 7}, side=16)
    network = vit(4)
    with torch.no_grad():
        network.model.head.weight.mul_(40)
    model = loaded(network, CLASSES)
    plan = adversarial.FGSM.prepare(model, FGSMConfig(data=str(root)), CPU)
    images = plan.sets["data"]
    x = torch.stack([plan.transform(images.read(i)) for i in range(len(images))]).float() / 255
    return model, x, torch.tensor([CLASSES.index(sample.split("/")[0]) for sample in images.ids]), root


def records(protocol, model, cfg):
    plan = protocol.prepare(model, cfg, CPU)
    arrays, bad = protocol.collect(model, plan, cfg, CPU)
    assert bad == [] and not plan.published and plan.complete
    return plan, arrays


def predictions(model, x):
    with torch.no_grad():
        return model.network(normaliser(model.network, CPU)(x)).logits.argmax(1).numpy()


def test_fgsm_strengths_count_255ths_and_the_label_is_the_images_own(world):
    model, x, y, root = world
    plan, got = records(
        adversarial.FGSM, model, FGSMConfig(data=str(root), workers=0, eps=[0.0, 1.0, 16.0], forward_batch=18)
    )
    gradient = attacks.loss_gradient(model.network, normaliser(model.network, CPU), y)
    expected = [predictions(model, x), predictions(model, x)] + [
        predictions(model, (x + e / 255 * gradient(x).sign()).clamp(0, 1)) for e in (1.0, 16.0)
    ]
    assert got["labels"].tolist() == y.tolist() and got["eps"].tolist() == [0, 0, 1, 16]
    np.testing.assert_array_equal(got["predictions"], np.stack(expected, axis=1))
    assert (got["predictions"][:, 3] != got["predictions"][:, 0]).any()
    metrics = adversarial.FGSM.evaluate(got).metrics
    assert (
        metrics["clean_top1"] == metrics["top1_eps_0"] == (expected[0] == y.numpy()).mean()
        and metrics["top1_eps_16"] == (expected[3] == y.numpy()).mean()
    )
    assert plan.settings["eps"] == [0.0, 1.0, 16.0] and "steps" not in plan.settings


@pytest.mark.parametrize("alpha", [None, 1.0, 6.0])
def test_pgd_steps_count_255ths_too_and_are_a_quarter_of_eps_by_default(world, alpha, monkeypatch):
    model, x, y, root = world
    seen = []
    real = attacks.pgd
    monkeypatch.setattr(
        attacks,
        "pgd",
        lambda gradient, x, eps, **keys: (
            seen.append((eps, keys["alpha"], keys["steps"])) or real(gradient, x, eps, **keys)
        ),
    )
    cfg = PGDConfig(data=str(root), workers=0, eps=[2.0, 16.0], steps=3, alpha=alpha, seed=5, forward_batch=18)
    plan, got = records(adversarial.PGD, model, cfg)
    assert seen == [(2 / 255, (alpha or 0.5) / 255, 3), (16 / 255, (alpha or 4.0) / 255, 3)]
    gradient = attacks.loss_gradient(model.network, normaliser(model.network, CPU), y)
    start = torch.from_numpy(
        np.stack([attacks.random_start(5, sample, (3, 16, 16)) for sample in plan.sets["data"].ids])
    )
    expected = [
        predictions(model, real(gradient, x, e / 255, alpha=(alpha or e / 4) / 255, steps=3, start=start))
        for e in (2.0, 16.0)
    ]
    np.testing.assert_array_equal(got["predictions"], np.stack([predictions(model, x), *expected], axis=1))
    assert (plan.settings["steps"], plan.settings["alpha"], plan.settings["seed"]) == (3, alpha, 5)


@pytest.mark.parametrize(
    "config, words",
    [
        (FGSMConfig(eps=[0.0, 0.03, 0.5, 4.0]), ["eps=0.03 counts 1/255", "was meant, give 7.65"]),
        (FGSMConfig(eps=[0.5, 4.0]), []),
        (PGDConfig(eps=[8.0], alpha=0.01, steps=10), ["alpha=0.01 counts 1/255", "was meant, give 2.55"]),
        (PGDConfig(eps=[8.0], alpha=0.1, steps=10), []),
        (PGDConfig(eps=[0.25]), ["eps=0.25 counts 1/255"]),
    ],
)
def test_strengths_that_look_like_shares_of_the_range_are_said(world, config, words):
    model, _, _, root = world
    notes = adversarial.FGSM.prepare(model, dataclasses.replace(config, data=str(root)), CPU).notes
    assert sum("counts 1/255" in note for note in notes) == bool(words)
    assert all(word in " ".join(notes) for word in words)


def test_the_numbers_by_hand():
    arrays = {"ids": np.arange(4).astype(str), "labels": np.array([0, 1, 1, 0]), "eps": np.array([0.0, 0.5, 8.0])}
    outcome = adversarial.PGD.evaluate(arrays | {"predictions": np.array([[0, 0, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])})
    assert outcome.metrics == {"clean_top1": 0.75, "top1_eps_0.5": 0.5, "top1_eps_8": 0.0} and outcome.n == 4
    assert outcome.standard_errors["top1_eps_0.5"] == 0.25
    assert outcome.series == [
        {"mode": "pgd", "level": eps, "top1": top1} for eps, top1 in ((0.0, 0.75), (0.5, 0.5), (8.0, 0.0))
    ]
