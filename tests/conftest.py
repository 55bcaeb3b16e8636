"""One cache of compiled programs for all tests and the processes they start."""

import os
import tempfile

_cache = tempfile.TemporaryDirectory(prefix="tuner-compiled-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
