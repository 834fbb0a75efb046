"""Errors: of invalid input of the user, and of too little memory, which is no fault of the input."""


class TombolaError(ValueError):
    """Error of the user's input. Its message is one sentence that names the culprit, the value and the correction.

    The command line prints it without a traceback and exits with code 2.
    """


class MemoryShortError(TombolaError):
    """The error of too little memory. Its message names the settings to lower."""


_SAID_BY = (
    "out of memory",  # CUDA, and most others
    "can't allocate memory",  # torch's CPU allocator
    "cannot allocate memory",  # the operating system
    "not enough memory",  # torch's CPU allocator on Windows
    "bad_alloc",
    "alloc_failed",  # cuBLAS and cuDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one that it came from, is of too little memory on any device.

    Where errors of foreign code become sentences about the module, one of memory is raised as it is.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError | MemoryShortError) or type(found).__name__ == "OutOfMemoryError":  # torch's
            return True
        if isinstance(found, RuntimeError | OSError) and any(words in str(found).lower() for words in _SAID_BY):
            return True
        found = found.__cause__
    return False
