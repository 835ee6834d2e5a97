"""`Idempotency-Key`: a creating request that is sent twice creates once.

A key is kept for some days, from the transaction that creates, with a fingerprint of the request and the id of what
was created.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from app import errors
from app.db import Base


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    resource_id: Mapped[str]
    created_at: Mapped[datetime]


_NOTHING_YET = ""
"""Of a transaction that is under way, which nobody else sees."""


@dataclass(frozen=True)
class Request:
    """One creating request; `key` is None where the caller sent none."""

    scope: str
    key: str | None
    fingerprint: str


def fingerprint(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def recall(session: Session, request: Request) -> str | None:
    """Id of what an earlier request with this key created, if there was one."""
    row = _row(session, request.scope, request.key)
    if row is None:
        return None
    if row.fingerprint != request.fingerprint:
        raise errors.Invalid(
            f"Idempotency-Key {request.key!r} was used before for another request; use a new key",
            code="idempotency_key_reused",
        )
    return row.resource_id


def is_known(session: Session, scope: str, key: str | None) -> bool:
    """Whether an earlier request with this key, the same or another, has created something."""
    return _row(session, scope, key) is not None


def take(session: Session, request: Request, *, now: datetime) -> str | None:
    """As `recall`, before anything is created: where nothing was, the key is that of this request as soon as its
    transaction ends, which has to `remember` what it created. Another request with the key is waited for, so that both
    have the same answer."""
    found = recall(session, request)
    if request.key is None or found is not None:
        return found
    row = IdempotencyKey(
        scope=request.scope,
        key=request.key,
        fingerprint=request.fingerprint,
        resource_id=_NOTHING_YET,
        created_at=now,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return recall(session, request)  # PostgreSQL says so once the transaction that has the key is over
    return None


def remember(session: Session, request: Request, resource_id: str) -> None:
    """Keep what this request, whose key is taken, has created, in place of what it may have created before."""
    session.execute(
        update(IdempotencyKey)
        .where(IdempotencyKey.scope == request.scope, IdempotencyKey.key == request.key)
        .values(resource_id=resource_id)
    )


def forget(session: Session, *, before: datetime) -> None:
    """Forget the keys of requests older than that."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < before))


def _row(session: Session, scope: str, key: str | None) -> IdempotencyKey | None:
    if key is None:
        return None
    return session.scalar(select(IdempotencyKey).where(IdempotencyKey.scope == scope, IdempotencyKey.key == key))
