"""For measuring Ultralytics where no torchvision matches torch: no build of it is made for a CPU's torch here.

Ultralytics imports torchvision for one function, non-maximum suppression, and has its own that is to give the same.
"""

import sys
from types import ModuleType, SimpleNamespace


def lend() -> None:
    """Put Ultralytics' own function where torchvision's would be, unless torchvision can be imported."""
    try:
        import torchvision  # type: ignore[import-not-found]  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        stand_in = ModuleType("torchvision")
        sys.modules["torchvision"] = stand_in
        from ultralytics.utils.nms import TorchNMS  # type: ignore[import-not-found]

        stand_in.ops = SimpleNamespace(nms=TorchNMS.nms)  # type: ignore[attr-defined]
