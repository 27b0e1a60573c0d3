"""evalkit: train image classifiers with any mixup, and measure whether the checkpoint is good, transfers and holds."""

import sys as _sys
from importlib.machinery import ModuleSpec as _ModuleSpec
from importlib.util import spec_from_file_location as _spec_from_file_location
from pathlib import Path as _Path

__version__ = "0.1.0"

_ROOT = _Path(__file__).resolve().parent.parent


class _Checkout:
    """Finds evalkit.train and the others in a checkout, where setup.py maps them to folders beside this one.

    Run from the repository root, this folder shadows an installed wheel, so it must be able to find them by itself.
    """

    FOLDERS = ("train", "downstream", "robustness", "configs")

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> _ModuleSpec | None:
        package, _, folder = name.partition(".")
        init = _ROOT / folder / "__init__.py"
        if package != "evalkit" or folder not in cls.FOLDERS or not init.is_file():
            return None
        return _spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])


if (_ROOT / "train" / "mixups").is_dir() and _Checkout not in _sys.meta_path:
    _sys.meta_path.insert(0, _Checkout)
