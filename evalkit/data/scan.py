"""The one look into a folder of images: which files it holds, and what is there besides.

Links are followed, but no folder is read twice: a link that points up, at its own folder or at another class would
multiply images, so it is refused. What is passed over is counted, for a reader to see.
"""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..errors import EvalkitError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# what archives and network storage leave: thumbnails, waste
LITTER = ("__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information")
LITTER_FILES = ("thumbs.db", "desktop.ini")
# of files that hold images all the same: of other kinds, or packed
HOLD_IMAGES = (".gif", ".jfif", ".heic", ".avif", ".jp2", ".svg", ".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
Times = tuple[int, int, int, int]  # device, inode, times of modification and of status change in nanoseconds
SHOWN = 6  # kinds of what was passed over


class Scan:
    """The sub-folders and images of `root`, as asked for; `passed_over` counts what was left out of all that was asked.

    Raises EvalkitError, from every method, for a folder that cannot be read or that is reached twice.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.passed_over: Counter[str] = Counter()
        self.links: Counter[str] = Counter()  # the real path of what links to files mean
        self.times: dict[str, Times] = {}  # of the sub-folders that were read, from before that
        above = [self.root.resolve(), *self.root.resolve().parents]
        self._seen = {key: str(path) for path in above if (key := _identity(path)) is not None}

    def folders(self) -> list[str]:
        """Names of the sub-folders of the root, sorted, without hidden ones and litter; images beside them are passed
        over."""
        found = []
        for entry in self._entries(self.root):
            if _is_folder(entry):
                if self._wanted(entry.name):
                    found.append(entry.name)
            elif is_image(entry.name):
                self.passed_over["images beside the class folders"] += 1
            elif (suffix := os.path.splitext(entry.name)[1].lower()) in HOLD_IMAGES:
                self.passed_over[f"{suffix} beside the class folders"] += 1
        return sorted(found)

    def images(self, folder: str = "", deep: bool = True) -> list[str]:
        """Paths of the images below root/`folder`, relative to the root, POSIX, sorted; with `deep` at any depth. What
        is called an image counts as one, be it a link to nowhere: reading it will say so."""
        found: list[str] = []
        left = [folder]
        while left:
            inside = left.pop()
            if inside:
                self._enter(inside)
            prefix = f"{inside}/" if inside else ""
            # a million turns: no calls that are not needed
            for entry in self._entries(self.root / inside):
                name = entry.name
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself
                    is_folder = False
                if is_folder:
                    if deep and self._wanted(name):
                        left.append(prefix + name)
                elif name.lower().endswith(EXTENSIONS):
                    if name.startswith("."):
                        self.passed_over["hidden"] += 1
                        continue
                    found.append(prefix + name)
                    if entry.is_symlink():
                        self.links[os.path.realpath(entry.path)] += 1
                elif not name.startswith(".") and name.lower() not in LITTER_FILES:
                    self.passed_over[os.path.splitext(name)[1].lower() or "without a suffix"] += 1
        return sorted(found)

    def remarks(self) -> list[str]:
        """What a reader should know of what was asked for, one sentence each."""
        found = []
        if self.passed_over:
            most = self.passed_over.most_common()
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in most[:SHOWN]) + (", ..." if len(most) > SHOWN else "")
            found.append(f"{self.root.name}: passed over, since by their names they are no images of a class: {kinds}")
        root = os.path.join(self.root.resolve(), "")
        twice = sum(n - 1 for n in self.links.values()) + sum(target.startswith(root) for target in self.links)
        if twice:
            found.append(f"{self.root.name}: {twice:,} images are links to files that another name stands for as well")
        return found

    def _wanted(self, name: str) -> bool:
        """Whether a folder may hold images of a class; counted if not."""
        if name in LITTER:
            self.passed_over[f"folders {name}"] += 1
        elif name.startswith("."):
            self.passed_over["hidden folders"] += 1
        return name not in LITTER and not name.startswith(".")

    def look(self, inside: str) -> Times | None:
        """What tells a state of a sub-folder from any other; None if it is not there."""
        try:
            found = os.stat(self.root / inside)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns

    def _enter(self, inside: str) -> None:
        if times := self.look(inside):
            self.times[inside] = times
        key = times and times[:2]
        if key in self._seen:
            raise EvalkitError(
                f"{self.root / inside} is a link to {self._seen[key]}, so its images would count twice; remove the link"
            )
        if key is not None:
            self._seen[key] = inside

    def _entries(self, folder: Path) -> Iterable[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except OSError as e:
            raise EvalkitError(
                f"cannot read the data folder {folder}: {e.strerror or e}; give an existing one that you may read"
            ) from e


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what the path means; None for nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
