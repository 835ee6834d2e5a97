"""`python -m worker`: the worker of the embedded mode.

A main module is imported anew in the process of each job, which would take longer than all else there until it begins;
`multiprocessing` makes an exception of those of this name alone.
"""

from worker import local

if __name__ == "__main__":
    local.main()
