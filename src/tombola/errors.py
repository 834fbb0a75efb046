"""The one error that is a user's to mend."""


class TombolaError(ValueError):
    """Bad input. Its message is one sentence that names the culprit, the value and the mend.

    The command line prints it without a traceback and leaves with exit code 2.
    """
