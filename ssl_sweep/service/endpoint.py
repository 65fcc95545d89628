"""What endpoints share: who asks, which sweep is meant, and threads for what takes its time."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio
from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPBearer

from ssl_sweep.errors import UserError
from ssl_sweep.service.access import User
from ssl_sweep.service.guard import AWAY_S, Refused
from ssl_sweep.service.loop import Loop
from ssl_sweep.service.models import NAME
from ssl_sweep.service.store import Submission
from ssl_sweep.storage.urls import redacted

_heavy = anyio.CapacityLimiter(2)
_pages = anyio.CapacityLimiter(2)  # that MLflow is asked for: it may be away for minutes, and nobody else waits for it
T = TypeVar("T")
# for the document: it is the guard that looks at the token
Token = Annotated[object, Depends(HTTPBearer(auto_error=False, description="made by `ssl-sweep token create`"))]


def service_of(request: Request) -> Loop:
    """The service that this application is the front of."""
    loop: Loop = request.app.state.service
    return loop


def viewer(request: Request, _: Token) -> User:
    """Anybody who was let in."""
    user: User = request.state.user
    return user


Service = Annotated[Loop, Depends(service_of)]
Viewer = Annotated[User, Depends(viewer)]
Name = Annotated[str, Path(pattern=NAME, examples=["alphas"])]
Named = Annotated[str, Query(pattern=NAME, examples=["alphas"])]


def found(service: Loop, name: str) -> Submission:
    """A sweep that was submitted."""
    submission = service.store.get(name)
    if submission is None:
        raise Refused(404, f"no sweep named {name!r} was submitted here")
    return submission


async def heavy(work: Callable[..., T], *given: Any, **named: Any) -> T:
    """Do what takes seconds, two at a time, and have the rest of the service answer meanwhile."""
    return await anyio.to_thread.run_sync(lambda: work(*given, **named), limiter=_heavy)


async def from_mlflow(make: Callable[[], T]) -> T:
    """Make what is read from MLflow, two at a time."""
    return await anyio.to_thread.run_sync(lambda: _readable(make), limiter=_pages)


def _readable(make: Callable[[], T]) -> T:
    """What is made from MLflow; what the package itself says against it is the answer."""
    try:
        return make()
    except (UserError, FileNotFoundError) as error:
        raise Refused(409, str(error)) from None
    except Exception as error:
        if type(error).__module__.startswith("mlflow."):
            raise Refused(503, f"MLflow does not answer as it should: {redacted(str(error))[:500]}", AWAY_S) from error
        raise
