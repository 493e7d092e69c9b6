"""Quotes postage: a whole service on the chassis."""

from __future__ import annotations

import re
import sys

import grpc
from postage.v1 import postage_pb2 as pb
from postage.v1 import postage_pb2_grpc

from handfast.server.chassis import NotFound, Server, ServerSettings, Service, Violations, reason_name, serve

DOMAIN = "postage"  # names the service in its errors
HEAVIEST = 2000
CENTS_PER_100_GRAMS = {"DE": 95, "FR": 120, "PT": 110}


class NoTariff(NotFound):
    reason = reason_name(pb.Reason, pb.REASON_NO_TARIFF)


class PostageServicer(postage_pb2_grpc.PostageServiceServicer):
    def QuotePostage(self, request: pb.QuotePostageRequest, context: grpc.ServicerContext) -> pb.QuotePostageResponse:
        with Violations.collect() as violations:
            if not re.fullmatch("[A-Z]{2}", request.country):
                violations.add("country", "must be two capital letters such as PT")
            if not 1 <= request.weight_grams <= HEAVIEST:
                violations.add("weight_grams", f"must be from 1 to {HEAVIEST}, not {request.weight_grams}")
        if request.country not in CENTS_PER_100_GRAMS:
            raise NoTariff(f"There is no tariff for {request.country}.", country=request.country)
        started_100_grams = -(-request.weight_grams // 100)
        return pb.QuotePostageResponse(price_cents=started_100_grams * CENTS_PER_100_GRAMS[request.country])


def build(settings: ServerSettings) -> Server:
    add_to_server = postage_pb2_grpc.add_PostageServiceServicer_to_server
    service = Service(pb.DESCRIPTOR.services_by_name["PostageService"], add_to_server, PostageServicer(), DOMAIN)
    return Server(settings, domain=DOMAIN, services=[service])


if __name__ == "__main__":
    sys.exit(serve(build, ServerSettings, name="postage", listen="127.0.0.1:50061"))
