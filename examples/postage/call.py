"""Calls the postage service as a consumer does: a letter that has a price, and two that have none."""

from __future__ import annotations

import sys

from postage.v1.postage_pb2 import QuotePostageRequest
from postage.v1.postage_pb2_grpc import PostageServiceStub

from handfast.client import InvalidArgument, NotFound, channel


def main(address: str = "127.0.0.1:50061") -> None:
    with channel(address) as to_postage:
        postage = PostageServiceStub(to_postage)
        reply = postage.QuotePostage(QuotePostageRequest(country="PT", weight_grams=250))
        print(reply.price_cents, "cents")
        try:
            postage.QuotePostage(QuotePostageRequest(country="AQ", weight_grams=250))
        except NotFound as error:
            print(error.service, error.reason, error.metadata)
        try:
            postage.QuotePostage(QuotePostageRequest(country="Portugal"))
        except InvalidArgument as error:
            for violation in error.violations:
                print(violation.field, violation.description)


if __name__ == "__main__":
    main(*sys.argv[1:])
