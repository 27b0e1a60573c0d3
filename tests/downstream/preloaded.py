"""What a transfer imports, for forks of a process that has imported it: they are spared these seconds."""

from importlib import import_module

from evalkit.downstream.mm import require

require("mmseg")
for name in ("evalkit.downstream.mm.seg", "evalkit.downstream.run"):
    import_module(name)
import_module("mmseg.utils").register_all_modules(init_default_scope=False)
