"""How the tensors of a file become those of a network, and what became of each: the one place where weights are filled
in.

timm's converters resample silently whatever has another size: positions, relative positions of another window, patch
kernels. So what they make is compared with what they were given: a tensor with a value that the file does not hold was
resampled. That is refused, unless the caller says which sizes a change of the image's size explains.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import Size, Tensor, nn

from ..errors import EvalkitError
from .convert import to_timm

Report = dict[str, list[str]]
DERIVED = ("relative_position_index", "attn_mask", "relative_coords_table")  # buffers that follow from the architecture
SEVERAL = "several"
# parts of relatives of a network: the tokens of distilled ones and of those with registers, layers before the head
ELSEWHERE = ("dist_token", "head_dist", "register_tokens", "reg_token", "pre_logits", "fc_norm", "norm_pre")
COUNTER = "num_batches_tracked"  # old files of residual networks lack it; nothing reads it
ADVICE = "give the model and model_args it was made with"
WORDS = {  # what a reader must know of the tensors of each part of a report
    "renamed": "renamed to timm's names",
    "resized": "resampled to the network's size",
    "missing": "lacking, the network's own kept",
    "unexpected": "not used",
}


def fit(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    before: Callable[[], Mapping[str, Size]] | None = None,
    positions: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Report:
    """Load `tensors` into `model`, all of it, and tell what was done: names of the model's tensors that were "loaded",
    of these the "resized" and the "missing"; names of the file's that are "unexpected" or "dropped" (a head that the
    model has not); "old -> new" of the "renamed".

    Args:
        model: A timm classifier; nothing of it is changed if the file does not fit.
        tensors: The state dict.
        source: What messages call it.
        before: Shapes of the same model at the image size that the file is for: a tensor that has its shape there, and
            another one in `model`, may be resampled. None: nothing may.
        positions: (model, tensors) -> tensors, how positions are resampled rather than as timm does it.

    Raises EvalkitError for whatever is lacking, of another shape, resampled, or unused within the model's own modules.
    """
    own, heads = model.state_dict(), head_names(model)
    given, renamed = to_timm(model, dict(tensors))
    given, prefix = without_prefix(given, own)
    if again := _twice(given, own):
        raise EvalkitError(
            f"{source} holds the network twice, as it is and behind {again!r}; which of the two is meant? Save that one"
            " alone"
        )
    made = given if positions is None else positions(model, given)
    if any(k not in made or made[k].shape != v.shape for k, v in own.items() if k.rpartition(".")[0] not in heads):
        made = convert(model, made)
    head = f"{heads[0]}.weight"
    if head in own and head in made and made[head].ndim and len(made[head]) != len(own[head]):
        raise EvalkitError(
            f"{source} has {len(made[head])} classes, but the model has {len(own[head])}; give the class count of the"
            " checkpoint"
        )
    if apart := _behind(given, [k for k in own if k.rpartition(".")[0] not in heads]):
        raise EvalkitError(
            f"{source} holds the network behind {' and behind '.join(map(repr, apart))}, and other tensors beside it;"
            " save the one that is meant alone, without what stands before its names"
        )
    origin = _origins(given, made, own)
    # what a converter of ours makes and leaves out by intention, such as the class token that a plain Swin has not
    begun = [k for k in getattr(model, "converter_makes", ()) if k not in given]
    left_out = tuple(getattr(model, "converter_leaves_out", ()))
    lacking = sorted({k for k in own if k not in made} | set(begun))
    used = {*own, *origin.values()}
    # of tensors that were put together it is not known which; what the converter left is not among them
    rest = made if SEVERAL in used else given
    unused = [k for k in rest if k not in used and not k.endswith(DERIVED)]
    gone = tuple(f"{name}." for name in heads if f"{name}.weight" not in own)
    dropped = sorted(k for k in unused if k.startswith(gone))
    unexpected = sorted(set(unused) - set(dropped))
    resized = sorted(k for k in own if origin.get(k, k) is None and k not in begun)
    _refuse(
        model,
        source,
        {
            "lacks": [k for k in lacking if not k.endswith(COUNTER) and k not in begun],
            "has other shapes for": sorted(k for k in own if k in made and made[k].shape != own[k].shape),
            "has layers that the model has not,": [
                k for k in unexpected if _has_place(model, k, own) and not (left_out and k.endswith(left_out))
            ],
            "is for another size of": _not_allowed(resized, given, own, before) or _other_windows(model, given),
        },
    )
    _check_values(source, {k: made[k] for k, v in own.items() if k in made and v.is_floating_point()})
    model.load_state_dict({k: made.get(k, v) for k, v in own.items()})
    moved = [f"{old} -> {new}" for new, old in origin.items() if old not in (None, SEVERAL)]
    return {
        "loaded": sorted(k for k in own if k not in lacking),
        "resized": resized,
        "missing": lacking,
        "unexpected": unexpected,
        "dropped": dropped,
        "renamed": renamed + prefix + moved,
    }


def describe(report: Mapping[str, list[str]]) -> list[str]:
    """What a reader must know of a file that was loaded, one clause each."""
    return list(report.get("chosen", [])) + [
        f"{len(names)} tensors of the file {words}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for part, words in WORDS.items()
        if (names := report.get(part, []))
    ]


def without_prefix(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without the one prefix that all their names share, if none of the model's own begins so; and what
    was taken off.

    Args:
        tensors: Weights by name.
        own: Those of the model.
    """
    found: list[str] = []
    while len(first := {name.partition(".")[0] for name in tensors}) == 1:
        (part,) = first
        if part in _parts(own) or not all("." in name for name in tensors):
            break
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
        found.append(f"{part}.NAME -> NAME")
    return tensors, found


def convert(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What timm's converter for this architecture makes of a state dict: official key names, other sizes.

    Args:
        model: The timm model.
        tensors: Weights by name.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    try:
        return convert(dict(tensors), model, **options)
    except Exception:  # converters trip over files of another architecture; the caller then says what does not fit
        return tensors


def head_names(model: nn.Module) -> list[str]:
    """Module paths of the classifier; two for distilled models."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head"
    return [names] if isinstance(names, str) else list(names)


def resized_by_timm(name: str, model: nn.Module, model_args: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that timm resampled. Raises EvalkitError where anything but `img_size` made it do so.

    Args:
        name: Of the architecture, with the tag of its weights.
        model: The model with timm's weights.
        model_args: What it was made with.
    """
    if not model_args:
        return []

    def shapes(m: nn.Module) -> dict[str, Size]:
        return {k: v.shape for k, v in m.state_dict().items() if k.rpartition(".")[0] not in head_names(m)}

    published, own = shapes(timm.create_model(name)), shapes(model)
    if published == own:
        return []
    kept = {k: v for k, v in model_args.items() if k not in ("img_size", "num_classes")}
    others = shapes(timm.create_model(name, **kept)) if kept else published
    odd = sorted(k for k in published.keys() | others.keys() if published.get(k) != others.get(k))
    if odd:
        raise EvalkitError(
            f"timm's weights of '{name}' are for another size of {len(odd)} tensors ({', '.join(odd[:3])}) than"
            f" {', '.join(kept)} asks for; leave that out, or train without pretrained weights"
        )
    return sorted(k for k in own if own[k] != published.get(k))


def _origins(
    given: Mapping[str, Tensor], made: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, str | None]:
    """Name in the model -> name in the file of each tensor that is not simply the one of its name; `SEVERAL`: it was
    put together from tensors of the file; None: it has values that the file does not hold."""
    storages = {tensor.untyped_storage().data_ptr(): name for name, tensor in given.items()}
    left: list[Tensor] | None = None
    found: dict[str, str | None] = {}
    for name in own:
        tensor = made.get(name)
        if tensor is None or tensor is given.get(name):
            continue
        if name in given and given[name].shape == tensor.shape and torch.equal(given[name], tensor):
            continue
        source = storages.get(tensor.untyped_storage().data_ptr()) if tensor.numel() else name
        if source is None:  # put together anew: of values of the file, or of others
            left = left or [t.flatten().double() for k, t in given.items() if k not in own or t.shape != own[k].shape]
            values = torch.cat([*left, torch.zeros(1, dtype=torch.float64)])
            source = SEVERAL if bool(torch.isin(tensor.flatten().double(), values).all()) else None
        if source != name:
            found[name] = source
    return found


def _not_allowed(
    resized: list[str],
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    before: Callable[[], Mapping[str, Size]] | None,
) -> list[str]:
    """Which of the resampled tensors no change of the image's size explains."""
    if not resized or before is None:
        return resized
    shapes, there = before(), {t.shape for t in given.values()}
    moved = [k for k in resized if k in shapes and shapes[k] != own[k].shape]
    explained = {k for k in moved if (given[k].shape == shapes[k] if k in given else shapes[k] in there)}
    return [k for k in resized if k not in explained]


def _other_windows(model: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """Buffers of the file that follow from the architecture, and that have another shape in this one."""
    own = {k: v.shape for k, v in model.named_buffers() if k.endswith(DERIVED)}
    return sorted(k for k, v in given.items() if k in own and v.shape != own[k])


def _twice(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """What stands before the names of a second set of all of the model's weights; None where there is none."""
    some = next(iter(own))
    prefixes = [name.removesuffix(some) for name in tensors if name.endswith(f".{some}")]
    return next((p for p in prefixes if all(k in tensors and p + k in tensors for k in own)), None)


def _behind(tensors: Mapping[str, Tensor], wanted: list[str]) -> list[str]:
    """What stands before the names of all of the tensors that are wanted, where none has its own name."""
    if not wanted or any(name in tensors for name in wanted):
        return []
    prefixes = [name.removesuffix(wanted[0]) for name in tensors if name.endswith(f".{wanted[0]}")]
    return [p for p in prefixes if all(p + k in tensors for k in wanted)]


def _refuse(model: nn.Module, source: str, problems: Mapping[str, list[str]]) -> None:
    heads, name = head_names(model), getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__
    for what, keys in problems.items():
        if keys:
            shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            only_heads = all(k.rpartition(".")[0] in heads for k in keys)
            raise EvalkitError(
                f"{source} does not fit model '{name}': it {what} {len(keys)} tensors ({shown});"
                f" {'load it with num_classes=0' if only_heads else ADVICE}"
            )


def _has_place(model: nn.Module, name: str, own: Mapping[str, Tensor]) -> bool:
    """Whether a tensor belongs to a part that the model has, or that models of its kind may have: one that is None or
    does nothing in this one, such as register tokens or a norm before the head."""
    part = name.partition(".")[0]
    return part in _parts(own) or part in ELSEWHERE or hasattr(model, part)


def _check_values(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise EvalkitError for weights that are no finite floating-point numbers (torch would cast integers, truth values
    and complex numbers without a word), and for variances that no images have."""
    variances = {k: v for k, v in tensors.items() if k.endswith("running_var")}
    if (matrices := [v for v in tensors.values() if v.ndim > 1]) and not any(bool(v.any()) for v in matrices):
        raise EvalkitError(f"{source}: all weights are 0, as a file has them that was written while they lay elsewhere")
    for what, odd, looked_at in (
        ("are no floating-point numbers", lambda t: not t.is_floating_point(), tensors),
        ("are NaN or infinite", lambda t: not t.float().isfinite().all(), tensors),
        ("are below 0, though they are variances", lambda t: bool((t.float() < 0).any()), variances),
        ("are 0 throughout, though they are variances", lambda t: not bool(t.any()), variances),
    ):
        if names := [name for name, tensor in looked_at.items() if odd(tensor)]:
            raise EvalkitError(
                f"{source}: {len(names)} tensors hold values that {what}, such as {names[0]}; ask for the weights as"
                " they were trained"
            )


def _parts(own: Mapping[str, Tensor]) -> set[str]:
    """The first parts of the model's names, numbers within them left out."""
    return {name.partition(".")[0] for name in own}
