"""The n-th write, fsync, rename or mkdir of a stage fails: what the user sees, and what a second run makes of it.

    python -m tests.faults RUN CONFIG.yaml [--stages db,index] [--kinds full,broken,short] [--every 1]

takes a finished run and its settings, and for each stage makes every n-th of its calls fail, one after the other.
"""
