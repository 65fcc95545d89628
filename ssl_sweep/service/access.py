"""Users of the service: their tokens and the audit log, in the service's database."""

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Engine, Row, delete, insert, select

from ssl_sweep.service import tables

Role = Literal["viewer", "submitter", "admin"]


@dataclass(frozen=True)
class User:
    """A user and what they may do."""

    name: str
    role: Role


class Access:
    """The part of the service's database that the middleware uses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create_token(self, user: str, role: Role) -> tuple[str, str]:
        """Make a token for a user; return it and its id. Only its hash is stored, so it cannot be read again."""
        token, number = f"sslsweep_{secrets.token_urlsafe(32)}", secrets.token_hex(4)
        row = {"digest": _digest(token), "id": number, "user": user, "role": role, "created": time.time()}
        with self._engine.begin() as connection:
            connection.execute(insert(tables.tokens).values(row))
        return token, number

    def revoke_token(self, number: str) -> bool:
        """Revoke a token by its id; return whether there was one."""
        with self._engine.begin() as connection:
            return connection.execute(delete(tables.tokens).where(tables.tokens.c.id == number)).rowcount == 1

    def tokens(self) -> list[dict[str, Any]]:
        """All tokens: id, user, role and time of creation."""
        table = tables.tokens
        rows = self._rows(select(table.c.id, table.c.user, table.c.role, table.c.created).order_by(table.c.created))
        return [dict(row._mapping) for row in rows]

    def has_tokens(self) -> bool:
        """Whether any token exists."""
        return bool(self._rows(select(tables.tokens.c.id).limit(1)))

    def user_of(self, token: str) -> User | None:
        """The user who has this token; None for an unknown one."""
        table = tables.tokens
        rows = self._rows(select(table.c.user, table.c.role).where(table.c.digest == _digest(token)))
        return User(rows[0].user, rows[0].role) if rows else None

    def record_action(self, user: str, address: str, action: str, status: int) -> None:
        """Add an entry to the audit log."""
        row = {"time": time.time(), "user": user, "address": address, "action": action[:200], "status": status}
        with self._engine.begin() as connection:
            connection.execute(insert(tables.audit).values(row))

    def audit_log(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest entries of the audit log."""
        rows = self._rows(select(tables.audit).order_by(tables.audit.c.number.desc()).limit(limit))
        return [dict(row._mapping) for row in rows]

    def _rows(self, query: Any) -> list[Row[Any]]:
        with self._engine.connect() as connection:
            return list(connection.execute(query).all())


def _digest(token: str) -> str:
    # tokens are 256 random bits: no dictionary attack, so a slow hash would only cost us time
    return hashlib.sha256(token.encode()).hexdigest()
