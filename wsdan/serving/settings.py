"""How `wsdan serve` serves, and how it refuses a request."""

from dataclasses import dataclass

MEGABYTE = 2**20
BODIES = 16  # request bodies of the largest size that are held at once
MOST_FILES = 32  # images of one request
MOST_TOP = 1000  # classes of one answer


@dataclass(frozen=True)
class Settings:
    """The options of `wsdan serve`.

    Args:
        max_batch: images that pass the network at once. max_wait: seconds that the first image of
            a batch waits for others. queue: images that are received, waiting or in work.
        max_upload: bytes of a request. timeout: seconds for a request, its upload included.
        grace: seconds for what is in flight when the server is stopped.
        hosts: names in the Host header that are answered, in lower case; None for any.
    """

    max_batch: int = 16
    max_wait: float = 0.005
    queue: int = 256
    max_upload: int = 32 * MEGABYTE
    timeout: float = 60.0
    grace: float = 30.0
    hosts: frozenset[str] | None = None

    @property
    def most_files(self) -> int:
        """The largest number of images in a request."""
        return min(MOST_FILES, self.queue)


class RefusedError(Exception):
    """A request that is answered with an HTTP status of 4xx or 5xx and one line.

    retry: seconds after which the client may try again, or None.
    """

    def __init__(self, status: int, message: str, retry: int | None = None):
        super().__init__(message)
        self.status, self.message, self.retry = status, message, retry
