"""The one exception for what a user can put right: the command line prints it as one line."""


class UserError(Exception):
    """A mistake in the arguments or the data; the message names it and says what is expected."""
