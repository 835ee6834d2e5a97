"""What the forkserver imports before it forks the jobs' processes: libraries that are slow to import and survive a
fork as long as nothing is computed. Lance is not among them, nor pyarrow, which starts a thread.

Neither the forkserver nor the jobs' processes, which have it from there, hear what tells a worker to end: a terminal
tells all that it runs in the foreground, systemd all that a service has begun. The worker has to find its jobs'
processes alive; it stops them itself, and they end when it has gone.
"""

import gc
import importlib
import signal

MODULES = (
    "numpy",
    "PIL.Image",
    "pydantic",
    "safetensors.torch",
    "sqlalchemy.orm",
    "timm.data",
    "timm.models",
    "torch",
    "torchvision.models",
    "app.planning",
    "app.settings",
    "app.jobs.leases",
    "worker.optimising.compare",
    "worker.training.profile",
    "worker.training.search",
    "worker.training.strategies",
)

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)

# None of it is garbage, neither now nor in the jobs, each of which would go through half a million objects again and
# again, and would have them copied for itself by that.
gc.disable()
try:
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()
finally:
    gc.enable()
