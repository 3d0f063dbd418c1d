"""What a store answers: which errors pass, and what the others mean, in words."""

from wsdan.errors import UserError

# Packages whose exceptions are those of a network or a store, besides OSError.
_CLIENTS = {
    "adlfs", "aiobotocore", "aiohttp", "asyncio", "azure", "botocore", "fsspec", "gcsfs", "google",
    "http", "httpx", "huggingface_hub", "paramiko", "requests", "s3fs", "urllib3",
}  # fmt: skip
_PASSING = {408, 425, 429}  # of the status codes below 500


class RemoteError(UserError):
    """A file behind an address could not be read or written, after all attempts."""


class RefusedError(RemoteError):
    """The store refused the access: 401, 403, 404 and others."""


class NotThereError(RefusedError):
    """There is no such object, folder or bucket."""


def is_of_the_store(error: BaseException) -> bool:
    """Whether an exception is one of the network or of a client library, and no mistake in code."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    known = isinstance(error, OSError | EOFError | NotImplementedError)
    return known or bool(modules & _CLIENTS) or _is_of_an_address(error)


def _is_of_an_address(error: BaseException) -> bool:
    """Whether it is a ValueError by which a client refuses an address."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return type(error) is ValueError and name.partition(".")[0] in _CLIENTS


def final_error(address: str, error: BaseException) -> RemoteError | None:
    """The error that no further attempt would change, in words; None for one that may pass."""
    status, name = status_of(error), type(error).__name__
    if "Credential" in name or name in ("ProfileNotFound", "TokenRetrievalError"):
        return RemoteError(
            f"{address}: no credentials were found; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or `aws configure`, give those of s3, GOOGLE_APPLICATION_CREDENTIALS those of gs, "
            "HF_TOKEN those of hf"
        )
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and status is None and cause is not None:
        # fsspec says so of every address of http that gives no answer.
        return final_error(address, cause)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return NotThereError(f"{address}: no such file, folder or bucket (404)")
    if status == 401:
        return RefusedError(f"{address}: credentials are needed (401)")
    if isinstance(error, PermissionError) or status == 403:
        return RefusedError(
            f"{address}: access is forbidden (403): the credentials do not allow it"
        )
    if isinstance(error, NotImplementedError):
        return RemoteError(f"{address}: such addresses can be read, not written")
    refused = status is not None and 400 <= status < 500 and status not in _PASSING
    refused |= status == 501  # a method that the server does not have
    if refused or _is_of_an_address(error) or name in ("ParamValidationError", "InvalidURL"):
        return RefusedError(f"{address}: refused: {reason_of(error)}")
    return None


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status in an exception or its causes; None if there is none.

    aiohttp's errors of a connection that was cut bear a 400, which no server sent.
    """
    while error is not None and type(error).__module__ != "aiohttp.http_exceptions":
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        elif hasattr(error, "status"):
            value = error.status
        else:
            value = getattr(error, "code", getattr(response, "status_code", None))
        if isinstance(value, int) and 100 <= value < 600:
            return value
        error = error.__cause__
    return None


def reason_of(error: BaseException) -> str:
    """The first line of an exception, or of its name."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
