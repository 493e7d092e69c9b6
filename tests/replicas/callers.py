"""What callers are told, call by call, after all that their client makes again by itself; and callers whom nothing but
a fault keeps waiting.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from handfast.accounts.v1.accounts_pb2 import GetAccountRequest, UpdateUserAndPreferencesRequest
from handfast.client import ServiceError, Suite
from handfast.client.errors import service_error
from handfast.preferences.v1.preferences_pb2 import GetPreferencesRequest, Preferences
from handfast.users.v1.users_pb2 import GetUserRequest, UpdateUserRequest, User
from tests.crashes.worker import Worker
from tests.crashes.world import text
from tests.people import create_user

ANSWERS = {
    grpc.StatusCode.OK,
    *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS),
    *(grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED),
}
"""Codes by which a server that works says what is so."""
SLOW_S = 1.0
"""A call that takes longer has met the fault."""
PAUSE_S = 0.02
"""Between two calls of one caller."""
THEME = {"theme": text("dark")}
LITTLE_S = 5.0
"""What is left of a transaction's time may be too little for a call that meets a fault."""
LITTLE = f", with less than {LITTLE_S:.0f} s for it"


@dataclass(frozen=True, slots=True)
class Call:
    """Times are of `time.monotonic`; `timeout` is in seconds; `reason` is why it failed, in the words of gRPC where no
    server has said so.
    """

    method: str
    began: float
    ended: float
    timeout: float
    code: grpc.StatusCode
    reason: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def failed(self) -> bool:
        return self.code not in ANSWERS

    def __str__(self) -> str:
        """The same for all that are alike."""
        little = LITTLE if self.timeout < LITTLE_S else ""
        return f"{self.method} {self.code.name} {self.reason}{little}".rstrip()


class Calls(grpc.UnaryUnaryClientInterceptor):
    """Notes each call of the clients that it is given to, when it ends."""

    def __init__(self) -> None:
        self._noting = threading.Lock()
        self._all: list[Call] = []

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        began = time.monotonic()

        def note(ended: Any) -> None:
            code, reason = ended.code(), ""
            if code is not grpc.StatusCode.OK:
                error = service_error(ended, "")
                reason = error.reason or error.message
            call = Call(details.method.rpartition("/")[2], began, time.monotonic(), details.timeout, code, reason)
            with self._noting:
                self._all.append(call)

        call = continuation(details, request)
        call.add_done_callback(note)
        return call

    def since(self, moment: float) -> list[Call]:
        """Those that ended after it."""
        with self._noting:
            return [call for call in self._all if call.ended >= moment]


class Alone(Worker):
    """Reads and writes one user, whom nobody else knows, by all servers, until `stopping` is set."""

    def __init__(self, name: str, suite: Suite, stopping: threading.Event) -> None:
        super().__init__(name)
        self._suite, self._stopping = suite, stopping
        self._user_id = create_user(suite).user_id

    def work(self) -> None:
        suite, user_id = self._suite, self._user_id
        labels = {"count": "0"}
        calls: list[Callable[[], object]] = [
            lambda: suite.users.GetUser(GetUserRequest(user_id=user_id)),
            lambda: suite.preferences.GetPreferences(GetPreferencesRequest(user_id=user_id)),
            lambda: suite.accounts.GetAccount(GetAccountRequest(user_id=user_id)),
            lambda: suite.users.UpdateUser(UpdateUserRequest(user=User(user_id=user_id, labels=labels))),
            lambda: suite.accounts.UpdateUserAndPreferences(
                UpdateUserAndPreferencesRequest(
                    user=User(user_id=user_id, labels=labels), preferences=Preferences(values=THEME)
                )
            ),
        ]
        for number, call in enumerate(itertools.cycle(calls)):
            if self._stopping.wait(PAUSE_S):
                return
            labels["count"] = str(number)
            with contextlib.suppress(ServiceError):  # it has been noted
                call()


@dataclass(frozen=True)
class Felt:
    """What callers felt since a moment who have no others in their way: which calls failed, conflicts included, or were
    slow, how long after that moment the last of these began, and how long the longest took.
    """

    since: float
    calls: Sequence[Call]

    @property
    def harmed(self) -> list[Call]:
        return [call for call in self.calls if call.code is not grpc.StatusCode.OK or call.seconds > SLOW_S]

    @property
    def seconds(self) -> float:
        return max([0.0, *(call.began - self.since for call in self.harmed)])

    @property
    def longest(self) -> float:
        return max([0.0, *(call.seconds for call in self.calls)])

    def __str__(self) -> str:
        return (
            f"{len(self.harmed)} of {len(self.calls)} calls met it, the last began after {self.seconds:.1f} s, the "
            f"longest took {self.longest:.1f} s"
        )
