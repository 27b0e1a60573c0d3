"""What the methods of a study cost: parameters with those of a teacher, multiply-adds, images per second of training,
as MixPro's Tables 1 and 2 have them."""

import statistics
from typing import NamedTuple

from ..errors import EvalkitError
from ..files import parse_json
from ..models.cost import cost
from ..report.tables import NOT_MEASURED, Cell, Table
from ..report.training import SPEED
from .figures import read_log
from .gather import TRAIN, Gathered, Measured, name_of

META = "last/meta.json"
COLUMNS = ("#Params", "with teacher", "#FLOPs", "images/s")


class Costs(NamedTuple):
    """What a training cost; None where it is not known.

    Args:
        parameters: of the classifier.
        with_teacher: those and the parameters of frozen teachers.
        macs: multiply-adds of a forward pass of one image.
        images_per_second: of the training, median over its log.
    """

    parameters: int | None
    with_teacher: int | None
    macs: int | None
    images_per_second: float | None


def costs_of(m: Measured) -> Costs:
    """What the training of a cell cost, by its checkpoint and its log."""
    own = teachers = None
    try:
        meta = parse_json((m.folder / TRAIN / META).read_text(encoding="utf-8"))
        own = cost(meta["model"], meta["image_size"], meta["num_classes"], **meta["model_args"])
        teachers = sum(cost(name, meta["image_size"], 1000).parameters for name in meta["teachers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EvalkitError):
        pass  # what is not known stays open: a teacher may be a file, a network may be gone
    speeds = [speed for _, speed in (read_log(m) or {}).get(SPEED, [])]
    return Costs(
        None if own is None else own.parameters,
        None if own is None or teachers is None else own.parameters + teachers,
        None if own is None else own.macs,
        statistics.median(speeds) if speeds else None,
    )


def table(gathered: Gathered) -> Table | None:
    """A line for every place that was trained; None where nothing is known."""
    lines = []
    for place, members in gathered.places.items():
        found = [costs_of(m) for m in members if TRAIN in m.records]
        if not found:
            continue
        speeds = [c.images_per_second for c in found if c.images_per_second is not None]
        first = found[0]
        cells = [
            *(NOT_MEASURED if n is None else Cell(f"{n / 1e6:.2f}M") for n in (first.parameters, first.with_teacher)),
            NOT_MEASURED if first.macs is None else Cell(f"{first.macs / 1e9:.3f}G"),
            Cell(f"{statistics.fmean(speeds):.0f}") if speeds else NOT_MEASURED,
        ]
        lines.append((name_of(place, gathered), cells))
    if all(cell == NOT_MEASURED for _, cells in lines for cell in cells):
        return None
    notes = [
        "#Params: of the classifier, and with a frozen teacher; a method's own block (AutoMix) is not counted. #FLOPs:"
        " multiply-adds of a forward pass of one image. Images/s: median over a training's log, mean over seeds, by the"
        " clock: whatever else ran there shows in it."
    ]
    label = f"{gathered.study.name}-costs"
    return Table(
        f"{gathered.study.title}: costs", [("", "", "", len(COLUMNS))], list(COLUMNS), lines, notes, label=label
    )
