"""The reference pages of the site, each from what describes itself: keys, methods, protocols, records, commands, API.

`write(folder)` makes them; `python docs/generate DIR` does the same by hand.
"""

from pathlib import Path

from . import api, lookups, methods, pictures, protocols

__all__ = ["pages", "write"]


def pages() -> dict[str, str]:
    """Path below the reference, without suffix -> text of every page."""
    return {**lookups.pages(), **methods.pages(), **protocols.pages(), **api.pages()}


def write(folder: Path) -> list[Path]:
    """Write every page and picture of the reference into `folder`, what is no longer made is deleted.

    Args:
        folder: Where; made if it is not there.

    Returns the files.
    """
    made = {folder / f"{name}.md": text.encode() for name, text in pages().items()}
    made |= {folder / "methods" / name: content for name, content in pictures.files().items()}
    for old in (*folder.rglob("*.md"), *folder.rglob("*.jpg")):
        if old not in made:
            old.unlink()
    for path, content in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:  # Sphinx reads anew what is newer
            path.write_bytes(content)
    return list(made)
