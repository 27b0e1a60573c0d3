"""evalkit: train image classifiers with any mixup, and measure whether the checkpoint is good, transfers and holds."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a checkout the sub-packages train/, robustness/, ... lie beside this folder (setup.py maps them). Run from the
# repository root, this folder shadows an installed wheel, so it must be able to find them by itself.
_root = _Path(__file__).resolve().parent.parent
if (_root / "train" / "mixups").is_dir():
    __path__.append(str(_root))
