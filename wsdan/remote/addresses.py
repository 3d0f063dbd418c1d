"""Addresses, and paths below them."""

import re
from pathlib import Path, PurePosixPath

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_remote(text: object) -> bool:
    """Whether a text is an address PROTOCOL://..., or a RemotePath; None is not."""
    if isinstance(text, RemotePath):
        return True
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def place(text: "str | Path | RemotePath") -> "Path | RemotePath":
    """The path of a text: a RemotePath of an address, else a Path."""
    if isinstance(text, RemotePath):
        return text
    return RemotePath(text) if is_remote(text) else Path(text)


def protocol_of(address: object) -> str:
    """What stands before ://, in small letters."""
    return str(address).partition("://")[0].lower()


def is_web(address: object) -> bool:
    """Whether an address is one of http or https, where listings are pages of links at most."""
    return protocol_of(address) in ("http", "https")


class RemotePath:
    """The address of a file or folder, with the part of pathlib's interface that readers need.

    It is no os.PathLike: what opens files of this machine refuses it. The methods that look at the
    store raise RemoteError.

    Args:
        stamp: size, and ETag or time, of the object as it was listed; "" if unknown.
    """

    __slots__ = ("address", "stamp")

    def __init__(self, address: str, stamp: str = ""):
        protocol, _, rest = str(address).partition("://")
        self.address = f"{protocol}://{rest.rstrip('/')}"
        self.stamp = stamp

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"RemotePath({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.address == other.address

    def __lt__(self, other: "RemotePath") -> bool:
        return self.address < other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(name if is_remote(name) else f"{self.address}/{name}")

    @property
    def name(self) -> str:
        """The last part; of the web, without the ?query of a signed address."""
        address = self.address.partition("?")[0] if is_web(self) else self.address
        return address.rpartition("/")[2]

    @property
    def versioned(self) -> bool:
        """Whether the stamp tells the object from another of the same size."""
        return bool(self.stamp.partition(" ")[2])

    @property
    def suffix(self) -> str:
        """Of the name, with the dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        """The address without its last part."""
        return RemotePath(self.address.rpartition("/")[0])
