"""Errors for users: one base class, and a drawing of their tree that is complete."""

import pkgutil
from importlib import import_module

import ssl_sweep
from ssl_sweep import errors
from ssl_sweep.errors import UserError


def import_all_modules() -> None:
    for module in pkgutil.walk_packages(ssl_sweep.__path__, "ssl_sweep."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


def drawn(base: type[Exception], indent: str = "") -> list[str]:
    """The lines of a tree, each with a class and its package, drawn from the classes themselves."""
    kinds = sorted(
        (kind for kind in base.__subclasses__() if kind.__module__.startswith("ssl_sweep.")),
        key=lambda kind: kind.__name__,
    )
    lines = []
    for kind in kinds:
        last = kind is kinds[-1]
        lines.append(f"{indent}{'└── ' if last else '├── '}{kind.__name__} {kind.__module__.split('.')[1]}")
        lines += drawn(kind, indent + ("    " if last else "│   "))
    return lines


def test_the_drawn_tree_has_every_class_and_its_package() -> None:
    import_all_modules()
    lines = (errors.__doc__ or "").partition("UserError\n")[2].partition("\n\n")[0].splitlines()
    names_and_packages = [indent_and_name(line) for line in lines]
    assert names_and_packages == drawn(UserError)


def indent_and_name(line: str) -> str:
    branch, words = line.partition("── ")[0] + "── ", line.partition("── ")[2].split()
    return f"{branch}{words[0]} {words[1]}"
