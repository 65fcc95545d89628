"""What endpoints share: the user, the service, the named sweep, and threads for slow work."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio
from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPBearer

from ssl_sweep.errors import UserError
from ssl_sweep.service.access import User
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.middleware import AWAY_S, ApiError
from ssl_sweep.service.models import NAME
from ssl_sweep.service.states import ACTIVE
from ssl_sweep.service.store import Submission
from ssl_sweep.storage.urls import redacted

_slow_threads = anyio.CapacityLimiter(2)
_mlflow_threads = anyio.CapacityLimiter(2)  # of their own: MLflow may be away for minutes
T = TypeVar("T")
# only for the OpenAPI document: the middleware has checked the token
Token = Annotated[object, Depends(HTTPBearer(auto_error=False, description="made by `ssl-sweep token create`"))]


def service_of(request: Request) -> Dispatcher:
    """The service behind this application."""
    service: Dispatcher = request.app.state.service
    return service


def viewer(request: Request, _: Token) -> User:
    """The authenticated user, whatever their role."""
    user: User = request.state.user
    return user


Service = Annotated[Dispatcher, Depends(service_of)]
Viewer = Annotated[User, Depends(viewer)]
Name = Annotated[str, Path(pattern=NAME, examples=["alphas"])]
Named = Annotated[str, Query(pattern=NAME, examples=["alphas"])]


def get_submission(service: Dispatcher, name: str) -> Submission:
    """A submitted sweep by its name. Raises ApiError."""
    submission = service.store.get(name)
    if submission is None:
        raise ApiError(404, f"no sweep named {name!r} was submitted here")
    return submission


def is_driven(service: Dispatcher, name: str) -> bool:
    """Whether a driver of this service runs the sweep, or is being started."""
    return get_submission(service, name).state in ACTIVE


async def run_slow(work: Callable[..., T], *given: Any, **named: Any) -> T:
    """Run what takes seconds in one of two threads, so that other requests are answered meanwhile."""
    return await anyio.to_thread.run_sync(lambda: work(*given, **named), limiter=_slow_threads)


async def from_mlflow(make: Callable[[], T]) -> T:
    """Make a response from MLflow's data in one of two threads."""
    return await anyio.to_thread.run_sync(lambda: _made_from_mlflow(make), limiter=_mlflow_threads)


def _made_from_mlflow(make: Callable[[], T]) -> T:
    """Turn user errors, and MLflow's, into responses."""
    try:
        return make()
    except (UserError, FileNotFoundError) as error:
        raise ApiError(409, str(error)) from None
    except Exception as error:
        if type(error).__module__.startswith("mlflow."):
            raise ApiError(503, f"MLflow does not answer as it should: {redacted(str(error))[:500]}", AWAY_S) from error
        raise
