"""The one exception that means "the input is at fault, not the program"."""


class InputError(ValueError):
    """Says what was expected, what was got and what to do; the command line prints it and exits with 2."""
