"""Small trained networks that come with evalkit: `zoo:NAME` may stand wherever a checkpoint may. Quick to import.

Each is a folder laid out as a checkpoint, with what was measured on it beside the weights:

    NAME/model.safetensors    the weights
    NAME/meta.json            architecture, classes, every setting of the training, sha256 (see `evalkit.checkpoint`)
    NAME/results.jsonl        the records of training and evaluations, with the commit and versions that made them
    NAME/predictions.csv      what `evalkit eval` predicted, and records/ what the protocols saw: `evalkit compare`
    NAME/card.json            the commands that made all this

`python -m benchmarks.zoo` makes them from scratch.
"""

from pathlib import Path

from .. import results
from ..errors import EvalkitError, unknown
from ..files import parse_json

PREFIX = "zoo:"
CARD = "card.json"
FOLDER = Path(__file__).parent
DAMAGE = (OSError, ValueError, KeyError, TypeError)  # what reading its files raises where they are not as they came


def names() -> list[str]:
    """What stands behind `zoo:`, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/meta.json"))


def specs() -> list[str]:
    """Every checkpoint of the zoo as it is given on a command line."""
    return [f"{PREFIX}{name}" for name in names()]


def is_member(spec: str | Path) -> bool:
    """Whether a checkpoint is one of the zoo, by the way it is written."""
    return str(spec).startswith(PREFIX)


def located(spec: str | Path) -> Path:
    """Where a checkpoint lies: a folder of this package for `zoo:NAME`, else the path itself. Raises EvalkitError,
    naming the closest, for a name that is not in the zoo."""
    if not is_member(spec):
        return Path(spec)
    if str(spec) not in specs():
        raise unknown("checkpoint", str(spec), specs())
    return FOLDER / str(spec).removeprefix(PREFIX)


def table() -> list[str]:
    """A line for each: network, mixup, data, and the accuracy that `evalkit eval` recorded."""
    return [_line(name) for name in names()]


def _line(name: str) -> str:
    try:
        meta = parse_json((FOLDER / name / "meta.json").read_text(encoding="utf-8"))
        records = results.read([FOLDER / name / results.FILE])
        (top1, *_) = [r["metrics"]["top1"] for r in records if r["task"] == "eval"]
        data = meta["data"]["name"]
        return f"{PREFIX}{name:22}  {meta['model']}, {meta['method']}, {data}: top-1 {100 * top1:.1f} %"
    except DAMAGE as e:
        raise _damaged(name) from e


def _damaged(name: str) -> EvalkitError:
    return EvalkitError(f"{FOLDER / name} is damaged; install evalkit again")


def commands(spec: str) -> list[str]:
    """The command lines that made a checkpoint of the zoo, its training first.

    Args:
        spec: As in `specs`.
    """
    try:
        found = parse_json((located(spec) / CARD).read_text(encoding="utf-8"))["commands"]
        if not isinstance(found, list):
            raise TypeError
        return [str(line) for line in found]
    except DAMAGE as e:
        raise _damaged(located(spec).name) from e
