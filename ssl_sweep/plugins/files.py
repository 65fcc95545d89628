"""The files that a local plugin is made of, and their hash."""

import ast
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

PACKAGE = "ssl_sweep_local"  # the name under which a plugin folder is imported: its files may import each other


def plugin_files(folder: Path, file: Path, kinds: Iterable[str]) -> list[Path]:
    """What a plugin is made of; sorted.

    That is its file, or all files of the folder that it is; the files of other plugins that it imports; and every
    Python file beside the folders of `kinds`, since imports can be made in ways that cannot be read from the code.

    Raises:
        SyntaxError: its file is not Python.
    """
    made_of: set[Path] = set()
    homes = [folder / kind for kind in kinds]
    waiting = [path for path in _files_below(folder) if path.suffix == ".py" and not _is_below(path, homes)]
    waiting += list(_files_below(file.parent)) if file.name == "__init__.py" else [file]
    while waiting:
        current = waiting.pop()
        if current not in made_of:
            made_of.add(current)
            with (
                nullcontext() if current == file else suppress(SyntaxError)
            ):  # of a script that has nothing to do with it
                waiting += _imported(folder, current) if current.suffix == ".py" else ()
    return sorted(made_of)


def shipped_files(folder: Path, kinds: Iterable[str]) -> Iterator[Path]:
    """Yield the files below a plugin folder that plugins can be made of: Python files, and all those of plugins that
    are folders themselves."""
    packages = [package.parent for kind in kinds for package in (folder / kind).glob("*/__init__.py")]
    for file in _files_below(folder):
        if file.suffix == ".py" or _is_below(file, packages):
            yield file


def _files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and those below it, sorted; without hidden ones, compiled ones and virtual environments.

    Links are followed, each folder once.
    """
    seen = {folder.resolve()}
    for path, folders, files in os.walk(folder, followlinks=True):
        kept = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        real = {name: Path(path, name).resolve() for name in kept if not Path(path, name, "pyvenv.cfg").exists()}
        folders[:] = [name for name, target in real.items() if target not in seen]
        seen |= set(real.values())
        yield from (Path(path, name) for name in sorted(files) if not name.startswith("."))


def _is_below(file: Path, folders: Iterable[Path]) -> bool:
    return any(file.is_relative_to(folder) for folder in folders)


def digest(folder: Path, files: Iterable[Path]) -> str:
    """A hash of names below `folder` and contents."""
    total = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        total.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def _imported(folder: Path, file: Path) -> Iterator[Path]:
    """The files below `folder` that a file's import statements name."""
    here = [PACKAGE, *file.relative_to(folder).with_suffix("").parts]
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = [".".join(here[: -node.level])] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            wanted = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in wanted:
            yield from _files_of(folder, name)


def _files_of(folder: Path, module: str) -> Iterator[Path]:
    """The file of a module of the folder, and the `__init__.py` of each package around it."""
    package, *parts = module.split(".")
    if package != PACKAGE:
        return
    for depth in range(len(parts) + 1):
        path = folder.joinpath(*parts[:depth])
        yield from (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file() and depth)
    if (folder / "__init__.py").is_file():
        yield folder / "__init__.py"
