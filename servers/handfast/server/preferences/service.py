"""PreferencesService: each method checks its request, reads or writes preferences or definitions, and replies."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.struct_pb2 import Value

from handfast.preferences.v1 import preferences_pb2 as pb
from handfast.preferences.v1.preferences_pb2_grpc import PreferencesServiceServicer
from handfast.server.chassis.call import current
from handfast.server.chassis.clock import Clock, now
from handfast.server.chassis.data.idempotency import Done
from handfast.server.chassis.requests import fields
from handfast.server.chassis.requests.paging import ReplyRoom, page_token, require_page
from handfast.server.preferences import changes, validation
from handfast.server.preferences.definitions import Definitions
from handfast.server.preferences.resources import never_set
from handfast.server.transactions.participant import Collection, Version

DEFINITIONS = "definitions"  # what page tokens are of


class PreferencesServicer(PreferencesServiceServicer):
    def __init__(self, preferences: Collection[pb.Preferences], definitions: Definitions, clock: Clock = now) -> None:
        self._preferences, self._definitions, self._clock = preferences, definitions, clock

    def GetPreferences(
        self, request: pb.GetPreferencesRequest, context: grpc.ServicerContext
    ) -> pb.GetPreferencesResponse:
        fields.require_id("user_id", request.user_id)
        validation.include_defaults(request)
        version = self._preferences.get(request.user_id) or Version(never_set(request.user_id), "")
        if request.include_defaults:
            _add_defaults(version.message, self._definitions.defaults())
        return pb.GetPreferencesResponse(preferences=version.message, last_transaction_id=version.last_transaction_id)

    def BatchGetPreferences(
        self, request: pb.BatchGetPreferencesRequest, context: grpc.ServicerContext
    ) -> pb.BatchGetPreferencesResponse:
        fields.require_ids("user_ids", request.user_ids)
        validation.include_defaults(request)
        found = self._preferences.batch(request.user_ids)
        preferences = [found[id_].message if id_ in found else never_set(id_) for id_ in request.user_ids]
        defaults = self._definitions.defaults() if request.include_defaults else {}
        room = ReplyRoom()
        for each in preferences:
            _add_defaults(each, defaults)
            room.require(each)
        return pb.BatchGetPreferencesResponse(preferences=preferences)

    def UpdatePreferences(
        self, request: pb.UpdatePreferencesRequest, context: grpc.ServicerContext
    ) -> pb.UpdatePreferencesResponse:
        request.DiscardUnknownFields()  # they are not stored, so they make no value another one
        paths = validation.update(request, self._definitions)
        return self._preferences.write(
            request,
            request.preferences.user_id,
            lambda before: changes.update(before, request.preferences, paths, self._clock),
            pb.UpdatePreferencesResponse,
        )

    def CreatePreferenceDefinition(
        self, request: pb.CreatePreferenceDefinitionRequest, context: grpc.ServicerContext
    ) -> pb.CreatePreferenceDefinitionResponse:
        request.DiscardUnknownFields()
        validation.create_definition(request)
        definition = pb.PreferenceDefinition()
        definition.CopyFrom(request.definition)
        definition.create_time.FromMicroseconds(self._clock())
        return self._preferences.participant.requests.once(
            current().method.path,
            request,
            pb.CreatePreferenceDefinitionResponse,
            lambda connection: Done(self._definitions.add(connection, definition)),
        )

    def ListPreferenceDefinitions(
        self, request: pb.ListPreferenceDefinitionsRequest, context: grpc.ServicerContext
    ) -> pb.ListPreferenceDefinitionsResponse:
        after, size = require_page(request, DEFINITIONS)
        definitions, next_after = self._definitions.page(after, size)
        token = page_token(DEFINITIONS, next_after)
        return pb.ListPreferenceDefinitionsResponse(definitions=definitions, next_page_token=token)


def _add_defaults(preferences: pb.Preferences, defaults: Mapping[str, Value]) -> None:
    for key in defaults.keys() - preferences.values.keys():
        preferences.defaults[key].CopyFrom(defaults[key])
