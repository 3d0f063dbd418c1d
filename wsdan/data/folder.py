"""A tree of pictures, root/train/CLASS/*.jpg and root/val/CLASS/*.jpg (or test/)."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from wsdan.data.pictures import EXTENSIONS, BadPictureError, load_picture
from wsdan.errors import UserError


class PictureFolder(Dataset):
    """Pictures of a folder with one folder a class.

    Items are (image (3,H,W), label), or a BadPictureError where a file cannot be read: the loader
    decides what becomes of it.

    Args:
        folder: the split's folder. transform: PIL picture -> tensor.
        classes: class names in label order; None takes the folder's own, sorted.

    Raises:
        UserError: no such folder, no or one class, an empty class, or a class not in `classes`.
    """

    def __init__(
        self,
        folder: Path,
        transform: Callable[..., Tensor],
        classes: list[str] | None = None,
    ):
        self.transform = transform
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if classes is None and len(found) < 2:
            raise UserError(f"{folder}: at least two class folders are needed; found {len(found)}")
        self.classes = found if classes is None else classes
        unknown = [name for name in found if name not in self.classes]
        if unknown:
            raise UserError(f"{folder}: class {unknown[0]!r} is not among the training classes")
        self.samples: list[tuple[Path, int]] = []
        for name in found:
            files = sorted(
                path for path in (folder / name).rglob("*") if path.suffix.lower() in EXTENSIONS
            )
            if not files:
                raise UserError(f"{folder / name}: the class folder holds no picture")
            self.samples += [(path, self.classes.index(name)) for path in files]
        if not self.samples:
            raise UserError(f"{folder}: holds no picture")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | BadPictureError:
        path, label = self.samples[index]
        try:
            return self.transform(load_picture(path)), label
        except BadPictureError as error:
            return error


def split_folder(root: Path, names: tuple[str, ...]) -> Path:
    """The first of root/NAME that is a folder. Raises UserError where there is none."""
    if not root.is_dir():
        raise UserError(f"--root: no such folder: {root}")
    for name in names:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(f"{name}/" for name in names)
    raise UserError(f"--root: {root} has no {wanted} folder with one folder a class")
