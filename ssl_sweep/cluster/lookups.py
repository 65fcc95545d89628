"""Tune's lookups of what it runs: it fetches a sweep's trainable from the cluster several times a trial."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import registry


@contextmanager
def remembered_trainables() -> Iterator[None]:
    """Have Tune, while the block runs, fetch and unpickle what it has registered once."""
    shared: Any = registry._global_registry
    find, has, register = shared.get, shared.contains, shared.register
    known: dict[tuple[str, str], Any] = {}

    def get(category: str, key: str) -> Any:
        if (category, key) not in known:
            known[category, key] = find(category, key)
        return known[category, key]

    def contains(category: str, key: str) -> bool:
        return (category, key) in known or has(category, key)

    def register_anew(category: str, key: str, value: Any) -> None:
        known.pop((category, key), None)
        register(category, key, value)

    own = {"get": get, "contains": contains, "register": register_anew}
    vars(shared).update(own)
    try:
        yield
    finally:
        for name in own:
            del vars(shared)[name]
