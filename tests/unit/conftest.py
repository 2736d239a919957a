"""What holds for all unit tests."""

import os

# Before torch is imported. Tensors are tiny here: several threads gain nothing, and on a busy machine each operation
# waits until the system has run all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
