"""FastAPI on uvicorn: reads and updates a user, with a log line and metrics for Prometheus of each request.

    python -m benchmarks.peers.fastapi_app sync|async URL

`async` takes aiosqlite and asyncpg.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, HTTPException, Path
from prometheus_fastapi_instrumentator import Instrumentator
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.peers import database

CONNECTIONS = 16
UserId = Annotated[str, Path(pattern="^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]


class Update(BaseModel):
    display_name: str = Field(max_length=200)


class User(BaseModel):
    user_id: str
    email: str
    display_name: str
    locale: str
    time_zone: str
    labels: dict[str, str]
    create_time: int
    update_time: int
    etag: str
    last_transaction_id: str


def add_sync(app: FastAPI, url: str) -> None:
    engine = database.engine(url, CONNECTIONS)
    writing = engine.execution_options(writes=True)

    @app.get("/users/{user_id}")
    def get_user(user_id: UserId) -> User:
        with engine.connect() as connection:
            return _user(connection.execute(database.SELECT_USER, {"id_": user_id}).mappings().one_or_none())

    @app.patch("/users/{user_id}")
    def update_user(user_id: UserId, update: Update) -> User:
        with writing.begin() as connection:
            found = connection.execute(database.LOCK_USER, {"id_": user_id}).mappings().one_or_none()
            after: User = _user(found).model_copy(update=_changed(update))
            connection.execute(database.UPDATE_USER, {"id_": user_id, **_changed_columns(after)})
        return after


def add_async(app: FastAPI, url: str) -> None:
    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}[sa.make_url(url).get_backend_name()]
    engine = create_async_engine(sa.make_url(url).set(drivername=driver), pool_size=CONNECTIONS)
    if driver.startswith("sqlite"):
        sa.event.listen(engine.sync_engine, "connect", database.prepare_sqlite)
        sa.event.listen(engine.sync_engine, "begin", database.begin_immediately)
    writing = engine.execution_options(writes=True)

    @app.get("/users/{user_id}")
    async def get_user(user_id: UserId) -> User:
        async with engine.connect() as connection:
            found = await connection.execute(database.SELECT_USER, {"id_": user_id})
            return _user(found.mappings().one_or_none())

    @app.patch("/users/{user_id}")
    async def update_user(user_id: UserId, update: Update) -> User:
        async with writing.begin() as connection:
            found = await connection.execute(database.LOCK_USER, {"id_": user_id})
            after: User = _user(found.mappings().one_or_none()).model_copy(update=_changed(update))
            await connection.execute(database.UPDATE_USER, {"id_": user_id, **_changed_columns(after)})
        return after


def _user(row: Mapping[Any, Any] | None) -> User:
    if row is None:
        raise HTTPException(404, "There is no such user.")
    user: User = User.model_construct(**row)
    return user


def _changed(update: Update) -> dict[str, object]:
    return {"display_name": update.display_name, **database.stamp()}


def _changed_columns(user: User) -> dict[str, object]:
    return {"display_name": user.display_name, "update_time": user.update_time, "etag": user.etag}


class RequestLog:
    """Logs each request with its status and how long it took, in place of uvicorn's log, which does not say how long.
    Bare ASGI, which costs less than a middleware of Starlette's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._logger = logging.getLogger("requests")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            duration_ms = (time.perf_counter() - began) * 1000
            self._logger.info("%s %s %d %.3f ms", scope["method"], scope["path"], status, duration_ms)


def main(kind: str, url: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    app = FastAPI()
    Instrumentator().instrument(app).expose(app)
    app.add_middleware(RequestLog)
    (add_sync if kind == "sync" else add_async)(app, url)
    listening = socket.create_server(("127.0.0.1", 0))
    host, port = listening.getsockname()
    print(f"{host}:{port} http://{host}:{port}/metrics", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[listening])


if __name__ == "__main__":
    main(*sys.argv[1:])
