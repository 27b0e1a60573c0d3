"""The transfers by name. What each is, and its keys, stands in a file of this folder, quick to import; what trains and
measures it lies one folder up."""

from evalkit.protocols import Protocol, by_name

from . import cls, det, seg

#: Name -> description of every transfer task; add your own.
PROTOCOLS: dict[str, Protocol] = by_name((seg.SEG, det.DET, cls.CLS))
