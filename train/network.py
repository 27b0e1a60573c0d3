"""The network of a recipe, with the weights that it starts from."""

from collections.abc import Sequence

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.models import Network
from evalkit.models.fit import head_names

from .config import TrainConfig


def make_network(
    cfg: TrainConfig, num_classes: int, said: list[str] | None = None, classes: Sequence[str] | None = None
) -> Network:
    """The recipe's network, starting from `init` if given: a head for other classes is left out, anything else must
    fit.

    Args:
        cfg: The recipe.
        num_classes: How many classes it tells apart.
        said: What a reader must know of the file is appended to it.
        classes: Their names; None: any.
    """
    models.check_arguments(cfg.model, cfg.model_args)
    create = {"num_classes": num_classes, **cfg.model_args}
    said = [] if said is None else said
    if cfg.init is None:
        return models.create(cfg.model, **create)
    if cfg.init == "pretrained":
        network = models.create(cfg.model, pretrained=True, **create)
        report = {"resized": models.resized_by_timm(cfg.model, network.model, cfg.model_args)}
        said += [f"timm's weights of {cfg.model}: {line}" for line in models.describe(report)]
        return network
    network = models.create(cfg.model, **create)
    loaded = models.load(cfg.init, model=cfg.model, model_args=dict(cfg.model_args))
    assert isinstance(loaded.network, Network), "read from a file"
    weights, own = loaded.network.model.state_dict(), network.model.state_dict()
    heads = tuple(f"{name}." for name in head_names(network.model))
    others = loaded.network.num_classes != num_classes or (classes and loaded.classes not in (None, list(classes)))
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    fitting = {k: v for k, v in fitting.items() if not (others and k.startswith(heads))}
    left = [k for k in own if k not in fitting]
    if odd := [k for k in left if not (others and k.startswith(heads))]:
        raise EvalkitError(
            f"{cfg.init} does not fit model '{cfg.model}': {len(odd)} tensors differ, e.g. {odd[0]}; give the model it"
            " was trained with"
        )
    network.model.load_state_dict(fitting, strict=False)
    said += [f"init={cfg.init}: {line}" for line in models.describe(loaded.report)]
    if (loaded.network.mean, loaded.network.std) != (network.mean, network.std):
        said.append(f"init={cfg.init}: its weights saw images normalised otherwise than here; model=null keeps theirs")
    if left:
        what = "" if loaded.network.num_classes != num_classes else ", others than those of the data,"
        said.append(f"init={cfg.init}: its head of {loaded.network.num_classes} classes{what} was left out")
    elif loaded.classes is None:
        said.append(f"init={cfg.init}: its head is kept, though the file does not name its classes")
    return network
