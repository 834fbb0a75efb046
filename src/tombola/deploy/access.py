"""Options of all kernels."""

from typing import Any

import numpy as np

OPTIONS: dict[str, Any] = {"fastmath": True, "boundscheck": False, "cache": True, "nogil": True, "error_model": "numpy"}
INNER = OPTIONS | {"no_cpython_wrapper": True}
"""Options of functions that kernels alone call: numba then compiles no way into them from Python."""
ZERO = np.float32(0)
