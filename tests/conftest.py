"""Settings that must be in force before any test imports torch."""

import os

# The tensors of the tests are small: threads cost more than they give, and make times depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
