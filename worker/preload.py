"""What the forkserver imports before it forks the jobs' processes: libraries that are slow to import and survive a
fork as long as nothing is computed. Lance is not among them, nor pyarrow, which starts a thread.
"""

import numpy
import PIL.Image
import pydantic
import safetensors.torch
import sqlalchemy.orm
import timm.data
import timm.models
import torch
import torchvision.models

from app import planning, settings
from app.jobs import leases
from worker.optimising import compare
from worker.training import profile, search, strategies

__all__ = [
    "PIL",
    "compare",
    "leases",
    "numpy",
    "planning",
    "profile",
    "pydantic",
    "safetensors",
    "search",
    "settings",
    "sqlalchemy",
    "strategies",
    "timm",
    "torch",
    "torchvision",
]
