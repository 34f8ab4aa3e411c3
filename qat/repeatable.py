"""Sums that do not depend on threads or on where memory lies: MKL's conditional reproducibility, asked for before torch
loads it.

Without it MKL takes other paths by alignment and by the number of threads (seen on an Intel Xeon with AVX-512, where a
frozen network and the trained one then differ in last bits). A GEMM of 1024 x 1024 x 1024 keeps its rate. What a user
has set stays; processes that are started later inherit it. Nothing here makes two kinds of CPU agree.
"""

import os

KEY, USUAL = "MKL_CBWR", "AUTO,STRICT"

os.environ.setdefault(KEY, USUAL)
