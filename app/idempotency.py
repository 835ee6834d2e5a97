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
    if request.key is None:
        return None
    row = session.scalar(
        select(IdempotencyKey).where(IdempotencyKey.scope == request.scope, IdempotencyKey.key == request.key)
    )
    if row is None:
        return None
    if row.fingerprint != request.fingerprint:
        raise errors.Invalid(
            f"Idempotency-Key {request.key!r} was used before for another request; use a new key",
            code="idempotency_key_reused",
        )
    return row.resource_id


def remember(session: Session, request: Request, resource_id: str, *, now: datetime) -> None:
    """Keep what this request created. Raises `Conflict` where the same key is being used at this moment."""
    if request.key is None:
        return
    session.add(
        IdempotencyKey(
            scope=request.scope,
            key=request.key,
            fingerprint=request.fingerprint,
            resource_id=resource_id,
            created_at=now,
        )
    )
    try:
        session.flush()
    except IntegrityError as error:
        raise errors.Conflict(
            f"another request with Idempotency-Key {request.key!r} is under way; repeat this one to get its result",
            code="idempotency_in_progress",
        ) from error


def move_on(session: Session, request: Request, resource_id: str) -> None:
    """Keep what a request that was recalled has created next, in place of what it created before."""
    session.execute(
        update(IdempotencyKey)
        .where(IdempotencyKey.scope == request.scope, IdempotencyKey.key == request.key)
        .values(resource_id=resource_id)
    )


def forget(session: Session, *, before: datetime) -> None:
    """Forget the keys of requests older than that."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < before))
