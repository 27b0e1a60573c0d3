"""Which preparation is chosen: the run's own where there is a run, unless told otherwise."""

import numpy as np
import pytest

from evalkit import models
from evalkit.data.images import ArrayImages
from evalkit.errors import EvalkitError
from evalkit.models import Loaded
from evalkit.preparation import preparation

RECIPE = {"image_size": 32, "eval_size": None, "eval_resize": 34, "interpolation": "bicubic"}
OWN, NATIVE = "shorter side 34 (bicubic), centre 32", "as they are, 32"
PUBLISHED = "shorter side 36 (bilinear), centre 32"


def network(recipe=None, size=32):
    made = models.create("resnet10_cifar", num_classes=3)
    made.input_size = (size, size)
    meta = {} if recipe is None else {"config": recipe}
    return Loaded(made, made.name, None, None, "w.pth", None, "w", "raw", meta)


def images(side):
    pixels = np.zeros((3, side, side, 3), np.uint8)
    return ArrayImages("set", ["a", "b", "c"], np.arange(3), ["x", "y", "z"], pixels)


@pytest.mark.parametrize(
    "recipe, side, mode, own, chosen",
    [
        (RECIPE, 40, None, True, ("run", OWN)),
        (RECIPE, 32, None, True, ("run", NATIVE)),
        (RECIPE, 40, None, False, ("published", PUBLISHED)),
        (RECIPE, 40, "published", True, ("published", PUBLISHED)),
        (RECIPE, 32, "published", True, ("published", PUBLISHED)),
        (RECIPE, 40, "run", False, ("run", OWN)),
        (None, 40, None, True, ("published", PUBLISHED)),
        (None, 32, None, True, ("native", NATIVE)),
        (RECIPE | {"eval_size": 24}, 40, None, True, ("published", PUBLISHED)),  # the network was told another size
    ],
)
def test_choice(recipe, side, mode, own, chosen):
    mode, transform = preparation(network(recipe), images(side), mode, own)
    assert (mode, str(transform)) == chosen


@pytest.mark.parametrize("recipe", [None, "text", []])
def test_weights_of_no_run_have_no_preparation_of_their_own(recipe):
    with pytest.raises(EvalkitError, match="w.pth is no checkpoint of a run of evalkit, which preprocess=run needs"):
        preparation(network(recipe), images(40), "run")


@pytest.mark.parametrize("recipe", [{"lr": 1}, RECIPE | {"eval_resize": "wide"}, RECIPE | {"image_size": None}])
def test_a_recipe_that_does_not_say_it_is_refused(recipe):
    with pytest.raises(EvalkitError, match="does not say how its run prepared validation images"):
        preparation(network(recipe), images(40), None)
