"""The plugins of this process: installed ones, by entry points, and a folder's files, as `local/NAME`.

An installed distribution names the module of each plugin in the entry-point groups `ssl_sweep.methods`,
`ssl_sweep.evaluations`, `ssl_sweep.encoders` and `ssl_sweep.sources`. A folder holds `methods/NAME.py` and so on.
Names are read from metadata and file names; a module is imported when it is used.
"""

import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from ssl_sweep.errors import UserError
from ssl_sweep.plugins.files import PACKAGE, digest, plugin_files, shipped_files

Kind = Literal["methods", "evaluations", "encoders", "sources"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LOCAL = "local/"  # the start of the names of a folder's plugins
FOLDER_VARIABLE = "SSL_SWEEP_PLUGINS"
NAME = re.compile(r"[A-Za-z0-9_-]+")
MAX_FILES, MAX_BYTES = 1_000, 20_000_000  # that are copied to the workers


class PluginError(UserError, ValueError):
    """A plugin cannot be found or imported, or its name is taken."""


def use(folder: str | Path | None) -> None:
    """Take local plugins from a folder from now on; None takes `SSL_SWEEP_PLUGINS`.

    Modules of local plugins are imported anew: files may have changed since the last call.

    Raises:
        PluginError: it is no folder, or has none of the folders of plugins.
    """
    told = str(folder) if folder else f"{FOLDER_VARIABLE}={os.environ.get(FOLDER_VARIABLE)}"
    folder = folder or os.environ.get(FOLDER_VARIABLE)
    load.cache_clear()
    identity.cache_clear()
    find_installed_anew()
    for module in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[module]
    if not folder:
        return
    path = Path(os.path.expanduser(folder)).resolve()
    if not any((path / kind).is_dir() for kind in KINDS):
        remedy = f"put them into {path}/methods/NAME.py, or {', '.join(KINDS[1:])}"
        if path.name in KINDS and path.is_dir():
            remedy = f"name the folder around it, {path.parent}"
        raise PluginError(f"{told}: {'has no plugins' if path.is_dir() else 'is no folder'}; {remedy}")
    spec = ModuleSpec(PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(path)]
    importlib.invalidate_caches()
    sys.modules[PACKAGE] = module_from_spec(spec)


def find_installed_anew() -> None:
    """See plugins that were installed since the last call. What is imported already stays as it is."""
    _installed.cache_clear()


def local_folder() -> Path | None:
    """The folder of local plugins: the one in use, that which Ray has brought to this worker, or the environment's."""
    if PACKAGE not in sys.modules and (spec := find_spec(PACKAGE)) is not None:
        return Path(next(iter(spec.submodule_search_locations or ())))
    if PACKAGE not in sys.modules and os.environ.get(FOLDER_VARIABLE):
        use(None)
    package = sys.modules.get(PACKAGE)
    return None if package is None else Path(next(iter(package.__path__)))


def names(kind: Kind) -> list[str]:
    """Names of all plugins of a kind, as specs write them, sorted. Nothing is imported."""
    return sorted([*_installed(kind), *(f"{LOCAL}{name}" for name in _local_files(kind))])


def is_plugin(kind: Kind, name: str) -> bool:
    """Whether the name is that of an installed plugin, or a local one's, which need not be there."""
    return name.startswith(LOCAL) or name in _installed(kind)


def check_free(kind: Kind, name: str, own: Collection[str]) -> None:
    """Check that a name means one thing only, and can stand in paths and metrics.

    Raises:
        PluginError: the package has it, in `own`, and an installed distribution too; the message names both. Or it has
            a space, a dot or another such character.
    """
    points = _installed(kind).get(name, [])
    if (points or name.startswith(LOCAL)) and not NAME.fullmatch(name if points else name.removeprefix(LOCAL)):
        remedy = "use letters, digits, `_` and `-`, and name the file or the entry point so"
        raise PluginError(f"{kind.removesuffix('s')} {name!r} cannot be the name of a plugin; {remedy}")
    owners = ["ssl_sweep itself"] * (name in own) + [_distribution(point) for point in points]
    if len(owners) > 1 and points:
        remedy = f"uninstall one, or rename its entry point in the group ssl_sweep.{kind}"
        raise PluginError(f"{kind.removesuffix('s')} {name!r} is provided by {' and by '.join(owners)}; {remedy}")


@cache
def load(kind: Kind, name: str) -> ModuleType:
    """The module of a plugin.

    Raises:
        PluginError: there is no such plugin, or importing it fails; the message has the error's place.
    """
    what = f"{kind.removesuffix('s')} {name!r}"
    identity(kind, name)  # before the import: a file that changes in between must not pass for the older one
    try:
        if name.startswith(LOCAL):
            with _without_bytecode():
                return importlib.import_module(f"{PACKAGE}.{kind}.{name.removeprefix(LOCAL)}")
        loaded = _installed(kind)[name][0].load()
    except (Exception, SystemExit) as error:  # a script that ends itself must not end the driver
        raise PluginError(f"{what} of {origin(kind, name)} cannot be imported: {_place_of(error)}") from error
    if not isinstance(loaded, ModuleType):
        raise PluginError(f"{what} of {origin(kind, name)} is no module; name the module alone in the entry point")
    return loaded


def attribute(kind: Kind, name: str, attribute: str) -> Any:
    """What a plugin's module has under a name of the contract: `Method`, `evaluate`, `Backbone` or `open_source`.

    Raises:
        PluginError: there is no such plugin, importing it fails, or its module lacks the name.
    """
    module = load(kind, name)
    if not hasattr(module, attribute):
        raise PluginError(f"{kind.removesuffix('s')} {name!r}: {module.__file__} has no `{attribute}`; define it there")
    return getattr(module, attribute)


def origin(kind: Kind, name: str) -> str:
    """Where a plugin comes from, for people: its file, or its distribution and version.

    Raises:
        PluginError: there is no such plugin, or it is both a file and a folder.
    """
    _check_known(kind, name)
    if name.startswith(LOCAL):
        return str(_local_files(kind)[name.removeprefix(LOCAL)])
    return _distribution(_installed(kind)[name][0])


@cache
def identity(kind: Kind, name: str) -> str:
    """What makes two plugins of a name the same: a hash of the files that it is made of, or distribution and version.

    A local plugin is made of its file, the plugins that it imports, and all Python files of the folder that are no
    plugins. An editable installation is hashed as well: its version stays when it is edited.

    Raises:
        PluginError: there is no such plugin, or a file cannot be read, or is not Python.
    """
    _check_known(kind, name)
    try:
        if name.startswith(LOCAL):
            folder = local_folder()
            assert folder is not None  # noqa: S101 - it has given the name
            file = _local_files(kind)[name.removeprefix(LOCAL)]
            return f"sha256:{digest(folder, plugin_files(folder, file, KINDS))}"
        point = _installed(kind)[name][0]
        return _distribution(point) + (f" sha256:{_editable_digest(point)}" if _is_editable(point) else "")
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise PluginError(f"{kind.removesuffix('s')} {name!r} cannot be read: {_place_of(error)}") from error


def copy_local(target: Path) -> Path:
    """Copy what local plugins are made of to `target/PACKAGE`, for workers that do not see their folder.

    Raises:
        PluginError: there is no folder of plugins, or it is far too large.
    """
    folder, copy = local_folder(), target / PACKAGE
    if folder is None:
        raise PluginError(f"there are no local plugins; {_remedy('methods', LOCAL)}")
    copy.mkdir(parents=True)
    total = 0
    for number, file in enumerate(shipped_files(folder, KINDS), 1):
        total += file.stat().st_size
        if number > MAX_FILES or total > MAX_BYTES:
            most = f"{MAX_FILES:,} files or {MAX_BYTES // 1_000_000} MB"
            raise PluginError(
                f"{folder}: has more than {most} of plugins, too much to copy to every worker; "
                "give the plugins a folder of their own, and keep images and weights elsewhere"
            )
        to = copy / file.relative_to(folder)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
    return copy


@contextmanager
def _without_bytecode() -> Iterator[None]:
    """Write no bytecode: it counts as current by whole seconds and size, and an edited plugin would run as it was."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@cache
def _installed(kind: Kind) -> dict[str, list[EntryPoint]]:
    """Entry points of a kind by name; more than one where distributions disagree about a name."""
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"ssl_sweep.{kind}"):
        points.setdefault(point.name, []).append(point)
    return points


def _local_files(kind: Kind) -> dict[str, Path]:
    """The file of each local plugin of a kind by name: `NAME.py`, or `NAME/__init__.py`."""
    folder = local_folder()
    if folder is None or not (folder / kind).is_dir():
        return {}
    entries = sorted(path for path in (folder / kind).iterdir() if not path.name.startswith(("_", ".")))
    packages = {path.name: path / "__init__.py" for path in entries if (path / "__init__.py").is_file()}
    return {**packages, **{path.stem: path for path in entries if path.suffix == ".py"}}


def _check_known(kind: Kind, name: str) -> None:
    if name not in names(kind):
        raise PluginError(f"there is no {kind.removesuffix('s')} {name!r}; {_remedy(kind, name)}")
    if name.startswith(LOCAL):
        file = _local_files(kind)[name.removeprefix(LOCAL)]
        package = file.with_suffix("") / "__init__.py"
        if file.name != "__init__.py" and package.is_file():  # Python would import the package
            raise PluginError(f"{kind.removesuffix('s')} {name!r} is both {file} and {package}; rename or remove one")


def _remedy(kind: Kind, name: str) -> str:
    if not name.startswith(LOCAL):
        return f"install the distribution that has it in the entry points of ssl_sweep.{kind}"
    folder = local_folder()
    if folder is None:
        return f"name its folder with --plugins DIR or {FOLDER_VARIABLE}"
    there = ", ".join(f"{LOCAL}{other}" for other in _local_files(kind)) or "none"
    return f"{folder / kind} has {there}"


def _distribution(point: EntryPoint) -> str:
    return "an unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _is_editable(point: EntryPoint) -> bool:
    written = point.dist.read_text("direct_url.json") if point.dist is not None else None
    return bool(json.loads(written or "{}").get("dir_info", {}).get("editable"))


def _editable_digest(point: EntryPoint) -> str:
    """A hash of all Python files of the package that an editable installation imports the plugin from."""
    spec = find_spec(point.module.partition(".")[0])
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{point.module}: has no file")
    folder = Path(spec.origin).parent
    files = sorted(folder.rglob("*.py")) if spec.submodule_search_locations else [Path(spec.origin)]
    return digest(folder, files)


def _place_of(error: BaseException) -> str:
    """The error with the file and line that raised it, in one line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "importlib" not in file and file != __file__:
            place = f"{file}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return f"{place}{type(error).__name__}: {error}"
