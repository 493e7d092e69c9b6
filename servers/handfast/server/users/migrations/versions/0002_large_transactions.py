"""What makes staging and finishing linear in the size of a transaction; and for transactions that are under way, what
they make of emails.
"""

from __future__ import annotations

import unicodedata

import sqlalchemy as sa
from alembic import op

from handfast.server.transactions.participant import migrations as participant
from handfast.users.v1.users_pb2 import User

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    participant.add_claim_changes()
    connection = op.get_bind()
    staged = connection.execute(
        sa.text(
            "SELECT transaction_id, number, resource, image, email, present"
            " FROM operations JOIN users ON user_id = resource ORDER BY transaction_id, number"
        )
    ).all()
    claims: dict[tuple[str, str], str | None] = {}
    insert = sa.text(
        "INSERT INTO claim_changes (transaction_id, number, value, holder)"
        " VALUES (:transaction_id, :number, :value, :holder)"
    )
    for row in staged:
        change = {"transaction_id": row.transaction_id, "number": row.number}
        of_user = (row.transaction_id, row.resource)
        before = claims.get(of_user, _claim(row.email) if row.present else None)
        after = claims[of_user] = None if row.image is None else _claim(User.FromString(row.image).email)
        for value, holder in ((before, None), (after, row.resource)) if before != after else ():
            if value is not None:
                connection.execute(insert, {**change, "value": value, "holder": holder})


def downgrade() -> None:
    participant.drop_claim_changes()


def _claim(email: str) -> str:
    return "email:" + unicodedata.normalize("NFC", email.casefold())
