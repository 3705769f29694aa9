"""Orders with FastAPI, SQLAlchemy and Alembic: the schema is migrated on cold start.

Two lines make the difference to a service that is migrated by hand: the import and the middleware.
The settings `LAMBDA_MIGRATE_SOURCE=alembic` and `LAMBDA_MIGRATE_TABLE` do the rest.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from mangum import Mangum
from models import Customer, Order, make_sqlalchemy_url
from pydantic import BaseModel, Field
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from lambda_migrate.asgi import MigrateMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator

api = FastAPI()


class NewOrder(BaseModel):
    """The body of a request that places an order."""

    email: str = Field(min_length=3, max_length=320)
    item: str = Field(min_length=1, max_length=200)
    quantity: int = Field(default=1, ge=1, le=1_000_000)
    unit_cents: int = Field(ge=0, le=1_000_000)


@functools.cache
def get_engine() -> Engine:
    """One connection for each environment, opened by the first request and not by the import."""
    return create_engine(
        make_sqlalchemy_url(os.environ["DATABASE_URL"]),
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"application_name": "orders"},
    )


def get_session() -> Iterator[Session]:
    """A session for one request; `with` commits it."""
    with Session(get_engine()) as session, session.begin():
        yield session


SessionDependency = Annotated[Session, Depends(get_session)]


@api.post("/orders", status_code=201)
def place_order(new_order: NewOrder, session: SessionDependency) -> dict[str, Any]:
    """Place an order; add the customer if the email address is new."""
    upsert = insert(Customer).values(email=new_order.email)
    upsert = upsert.on_conflict_do_update(index_elements=["email"], set_={"email": new_order.email})
    customer_id = session.scalars(upsert.returning(Customer.id)).one()
    order = Order(customer_id=customer_id, **new_order.model_dump(exclude={"email"}))
    session.add(order)
    session.flush()
    return _serialize_order(order, new_order.email)


@api.get("/orders/{order_id}")
def get_order(order_id: int, session: SessionDependency) -> dict[str, Any]:
    """Return an order."""
    rows = select(Order, Customer.email).join(Customer).where(Order.id == order_id)
    found = session.execute(rows).one_or_none()
    if found is None:
        raise HTTPException(404, f"order {order_id} does not exist")
    return _serialize_order(*found)


def _serialize_order(order: Order, email: str) -> dict[str, Any]:
    return {
        "order_id": order.id,
        "email": email,
        "item": order.item,
        "quantity": order.quantity,
        "total_cents": order.quantity * order.unit_cents,
    }


api.add_middleware(MigrateMiddleware)
handler = Mangum(api, lifespan="off")
