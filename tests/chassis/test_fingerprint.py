"""A request has the same fingerprint in every process, and no other request has it."""

from __future__ import annotations

import os
import subprocess
import sys

from handfast.server.chassis.data.idempotency import fingerprint
from handfast.users.v1.users_pb2 import CreateUserRequest, User

KEYS = [f"key{number}" for number in range(40)]
PROGRAM = """
import sys
from handfast.server.chassis.data.idempotency import fingerprint
from handfast.users.v1.users_pb2 import CreateUserRequest
print(fingerprint("/s/m", CreateUserRequest.FromString(bytes.fromhex(sys.argv[1]))).hex())
"""
PROCESSES = 4


def with_labels(keys: list[str]) -> CreateUserRequest:
    return CreateUserRequest(user=User(labels={key: key.upper() for key in keys}))


def test_maps_count_whatever_order_their_entries_have() -> None:
    entries = [with_labels([key]).user.SerializeToString() for key in KEYS]
    first, second = b"".join(entries), b"".join(reversed(entries))
    assert first != second
    found = {fingerprint("/s/m", CreateUserRequest(user=User.FromString(user))) for user in (first, second)}
    assert len(found) == 1


def test_it_is_the_same_after_a_restart() -> None:
    request = with_labels(KEYS)

    def elsewhere(seed: int) -> str:
        arguments = [sys.executable, "-c", PROGRAM, request.SerializeToString().hex()]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    found = {elsewhere(seed) for seed in range(PROCESSES)}
    assert found == {fingerprint("/s/m", request).hex()}


def test_another_method_or_another_request_has_another_one() -> None:
    requests = [with_labels([]), with_labels(KEYS), with_labels(KEYS[1:])]
    found = {fingerprint(method, request) for method in ("/s/m", "/s/n") for request in requests}
    assert len(found) == 6
    assert {len(each) for each in found} == {32}
