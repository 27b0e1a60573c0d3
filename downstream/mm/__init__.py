"""The bridge to mmengine, mmcv, mmseg and mmdet: the only folder that imports them. Its other modules may be imported
once `require` has run."""

import warnings
from importlib import import_module

from evalkit.errors import EvalkitError


def require(*packages: str) -> None:
    """Serve mmcv's compiled operators and import `packages` ("mmseg", "mmdet"); raises EvalkitError where one is
    missing or does not load."""
    from . import ext

    ext.install()
    warnings.filterwarnings("ignore", module=r"mm(engine|cv|seg|det)\b")  # what they tell one another
    for package in ("mmengine", "mmcv", *packages):
        try:
            import_module(package)
        except ImportError as e:
            raise EvalkitError(
                f"transfer needs packages that are not installed ({e}); install them with: pip install"
                " 'evalkit[downstream]'"
            ) from e
        except Exception as e:  # they assert the versions of one another
            why = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise EvalkitError(
                f"{package} does not work here ({why}); install the versions that go together with: pip install"
                " 'evalkit[downstream]'"
            ) from e
