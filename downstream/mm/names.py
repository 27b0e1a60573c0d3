"""The class names of the sets that mmsegmentation knows."""

import mmseg.datasets


def classes(dataset: str) -> list[str]:
    """In the order of labels, of a data set by the name of mmsegmentation's class, such as ADE20KDataset."""
    names: list[str] = list(getattr(mmseg.datasets, dataset).METAINFO["classes"])
    return names
