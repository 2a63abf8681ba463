"""What holds for every test: shapes are checked at each call, one thread, no window."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors are faster on one, and the last bits do not depend on the machine
os.environ["MPLBACKEND"] = "Agg"

from jaxtyping import install_import_hook

# Before any module of ours is imported: from here on a tensor of the wrong shape is an error where it is passed.
install_import_hook("hopscotch", "beartype.beartype")
