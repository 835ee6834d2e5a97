"""Libraries that are not to be imported as others are. Import them from here.

Some tell their makers of their use: ONNX Runtime asks this variable, and OpenVINO does without the module that sends
its messages; each is None where there is none for a machine. Others take seconds and hundreds of megabytes to import,
most of it for torch's compiler, and are imported when a network is first built: many processes never build one.
"""

import gc
import importlib
import os
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ("onnxruntime", "openvino", "timm", "timm_data", "torchvision_models")


class _Deferred(ModuleType):
    """Stands for a module until something of it is asked for; for any thread."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


_one_at_a_time = threading.Lock()
_is_left_out = threading.Event()


def import_deferred() -> None:
    """Import those that wait for a network to be built: before memory is counted, or while nobody waits for them.

    The search for garbage leaves out from then on what there is. It went through the half million objects of torch and
    its like again and again, for which every thread of the process waits a quarter of a second each time. Nothing
    that goes again, such as a network, should be there yet: what refers to itself would never be freed.
    """
    with _one_at_a_time:
        for name in ("timm.data", "torchvision.models"):
            importlib.import_module(name)
        if not _is_left_out.is_set():
            gc.collect()
            gc.freeze()
            _is_left_out.set()


if TYPE_CHECKING:
    import timm
    from timm import data as timm_data
    from torchvision import models as torchvision_models
else:
    timm = _Deferred("timm")
    timm_data = _Deferred("timm.data")
    torchvision_models = _Deferred("torchvision.models")

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # children have it, too
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # to be seen as not installed

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

try:
    import openvino
except ImportError:
    openvino = None
