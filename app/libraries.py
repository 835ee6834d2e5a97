"""Libraries that tell their makers of their use, imported so that they do not; None where there is none for a machine.

ONNX Runtime asks this variable, and OpenVINO does without the module that sends its messages. Import them from here.
"""

import os
import sys

__all__ = ("onnxruntime", "openvino")

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
