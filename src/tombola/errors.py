"""Error for invalid input of the user."""


class TombolaError(ValueError):
    """Error of the user's input. Its message is one sentence that names the culprit, the value and the correction.

    The command line prints it without a traceback and exits with code 2.
    """
