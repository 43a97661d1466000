"""Where a file or folder is, on a disk or behind a URL, and how it is read and written."""

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import fsspec


class Location:
    """A file or folder of any file system that fsspec knows.

    Local paths become absolute, since the processes of a cluster have other working directories; "~" is the home. Slashes
    at the end and double ones are left out, since an object store would take them for parts of another name.

    Args:
        url: path or URL; a Location stays what it is.
    """

    def __init__(self, url: "str | os.PathLike | Location"):
        text = str(url).removeprefix("file://")
        if "://" not in text:
            text = re.sub("^//+", "/", os.path.abspath(os.path.expanduser(text)))
        elif not text.startswith(("http://", "https://")) and "::" not in text:
            scheme, path = text.split("://", 1)
            text = f"{scheme}://{re.sub('//+', '/', path)}"
        self.url = text if text == "/" else text.rstrip("/")
        self.fs, self.path = fsspec.core.url_to_fs(self.url) if "://" in text else (fsspec.filesystem("file"), self.url)
        """The file system, and the path in it."""

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Location({self.url!r})"

    def __eq__(self, other) -> bool:
        return isinstance(other, Location) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __reduce__(self):
        return type(self), (self.url,)

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Self:
        """The folder that it lies in."""
        return type(self)(self.url.rsplit("/", 1)[0] or "/")

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine, where files can be appended to and memory-mapped."""
        return "://" not in self.url

    def exists(self) -> bool:
        return self.fs.exists(self.path)

    def is_dir(self) -> bool:
        return self.fs.isdir(self.path)

    def size(self) -> int:
        """Bytes of a file."""
        return self.fs.size(self.path)

    def info(self) -> dict[str, Any]:
        """Returns what the file system knows: "size", and its own words for when the file was last written."""
        return self.fs.info(self.path)

    def glob(self, pattern: str) -> list[Self]:
        """Returns what this folder holds whose name matches a pattern, sorted by name; nothing where there is no folder.

        Only the pattern is one: the path of the folder may hold brackets and the like.
        """
        try:
            return [child for child in self.children() if child != self and fnmatchcase(child.name, pattern)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def children(self) -> list[Self]:
        """Returns what this folder holds, sorted by name."""
        return [self._sibling(path) for path in sorted(self.fs.ls(self.path, detail=False))]

    def folders(self) -> list[Self]:
        """Returns the folders, and links to folders, among what this folder holds, sorted by name."""
        entries = self.fs.ls(self.path, detail=True)
        names = [
            e["name"] for e in entries if e["type"] == "directory" or (e.get("islink") and self.fs.isdir(e["name"]))
        ]
        return [self._sibling(name) for name in sorted(names)]

    def _sibling(self, path: str) -> Self:
        return type(self)(self.url.rstrip("/") + path.removeprefix(self.path.rstrip("/")).rstrip("/"))

    def make_folder(self) -> Self:
        """Makes the folder, with those above it; returns itself."""
        self.fs.makedirs(self.path, exist_ok=True)
        return self

    def remove(self) -> None:
        """Deletes a file, or a folder with all it holds."""
        self.fs.rm(self.path, recursive=True)

    def move_to(self, other: "Location") -> None:
        """Gives a file or folder another name in the same file system."""
        self.fs.mv(self.path, other.path, recursive=True)

    def refresh(self) -> Self:
        """Forgets what the file system remembers of its contents; another process may have written there."""
        self.fs.invalidate_cache()
        return self

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Gives a path on this machine: its own, or that of a copy that is deleted at the end."""
        if self.is_local:
            yield Path(self.path)
            return
        folder = Path(tempfile.mkdtemp(prefix="raysys-"))
        try:
            self.fs.get(self.path, str(folder / self.name), recursive=True)
            yield folder / self.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def open(self, mode: str = "rb"):
        """Returns an open file; for writing whole files use `write`."""
        return self.fs.open(self.path, mode)

    def read(self) -> bytes:
        return self.fs.cat_file(self.path)

    def read_json(self) -> Any:
        return json.loads(self.read())

    def write(self, content: Any) -> None:
        """Writes a file whole or not at all, and makes its folder: by a rename on a disk; objects appear when they are complete.

        Args:
            content: text, or anything that gives its bytes.

        Raises:
            OSError: it cannot be written; what was there before stays.
        """
        data = content.encode() if isinstance(content, str) else content
        if not self.is_local:
            try:
                self.fs.pipe_file(self.path, bytes(data))
            except FileNotFoundError:  # behind this URL are folders, which have to be made
                self.fs.makedirs(os.path.dirname(self.path), exist_ok=True)
                self.fs.pipe_file(self.path, bytes(data))
            return
        folder, name = os.path.split(self.path)
        os.makedirs(folder, exist_ok=True)
        unfinished = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}"
        try:
            with open(unfinished, "xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, self.path)
        except BaseException as error:
            Path(unfinished).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise OSError(error.errno, f"{self.url}: {error.strerror}") from error
            raise

    def write_json(self, value: Any) -> None:
        self.write(json.dumps(value, indent=1))
