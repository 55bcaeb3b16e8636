"""One thread for NumPy's linear algebra, in this process and those it starts. Import before NumPy.

OpenBLAS's threads wait for each other by spinning: where several tests share the cores, most of
their time is lost to that.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
