"""Each field of each contract is marked as personal data, or was looked at and found to be none."""

from __future__ import annotations

from handfast.server.chassis.logs.redaction import is_marked
from tests.redaction.contracts import MESSAGES, leaves

NOT_PERSONAL = {
    "accounts.v1.CreateAccountRequest": "request_id",
    "accounts.v1.CreateAccountResponse": "transaction_id",
    "accounts.v1.GetAccountRequest": "user_id include_defaults",
    "accounts.v1.UpdateUserAndPreferencesRequest": "preferences_update_mask request_id",
    "accounts.v1.UpdateUserAndPreferencesResponse": "transaction_id",
    "accounts.v1.DeleteAccountRequest": "user_id user_etag preferences_etag request_id",
    "accounts.v1.DeleteAccountResponse": "transaction_id",
    "chassis.v1.Permission": "scopes self resource",
    "chassis.v1.FieldPermission": "field scopes",
    "preferences.v1.Preferences": "user_id update_time etag defaults",
    "preferences.v1.PreferenceDefinition": "key type default_value allowed_values description create_time",
    "preferences.v1.GetPreferencesRequest": "user_id include_defaults",
    "preferences.v1.GetPreferencesResponse": "last_transaction_id",
    "preferences.v1.BatchGetPreferencesRequest": "user_ids include_defaults",
    "preferences.v1.UpdatePreferencesRequest": "update_mask request_id",
    "preferences.v1.CreatePreferenceDefinitionRequest": "request_id",
    "preferences.v1.ListPreferenceDefinitionsRequest": "page_size page_token",
    "preferences.v1.ListPreferenceDefinitionsResponse": "next_page_token",
    "transactions.v1.TransactionBranch": "participant operation_count",
    "transactions.v1.Transaction": "transaction_id state deadline decide_time finish_time abort_reason loss_accepted"
    " unconfigured_participants",
    "transactions.v1.Read": "resource revision held",
    "transactions.v1.LockResourcesRequest": "to_read to_change",
    "transactions.v1.CompareReadsResponse": "changed",
    "transactions.v1.BeginTransactionRequest": "timeout further",
    "transactions.v1.CommitTransactionRequest": "transaction_id",
    "transactions.v1.RollbackTransactionRequest": "transaction_id abort_reason participants",
    "transactions.v1.AcceptLossRequest": "transaction_id participants",
    "transactions.v1.GetTransactionRequest": "transaction_id request_id method",
    "transactions.v1.BatchGetTransactionsRequest": "transaction_ids",
    "transactions.v1.ListTransactionsRequest": "page_size page_token state unfinished",
    "transactions.v1.ListTransactionsResponse": "next_page_token",
    "transactions.v1.Branch": "transaction_id state deadline operation_count outcome owner",
    "transactions.v1.Decision": "transaction_id state operation_count loss_accepted",
    "transactions.v1.FinishedTransaction": "transaction_id result",
    "transactions.v1.FinishTransactionsRequest": "participant",
    "transactions.v1.QueryBranchRequest": "transaction_id participant",
    "transactions.v1.ListBranchesRequest": "page_size page_token participant",
    "transactions.v1.ListBranchesResponse": "next_page_token",
    "transactions.v1.CloseBranchRequest": "transaction_id participant",
    "users.v1.User": "user_id create_time update_time etag",
    "users.v1.CreateUserRequest": "request_id",
    "users.v1.GetUserRequest": "user_id",
    "users.v1.GetUserResponse": "last_transaction_id",
    "users.v1.BatchGetUsersRequest": "user_ids",
    "users.v1.BatchGetUsersResponse": "missing_user_ids",
    "users.v1.ListUsersRequest": "page_size page_token",
    "users.v1.ListUsersResponse": "next_page_token",
    "users.v1.UpdateUserRequest": "request_id",
    "users.v1.DeleteUserRequest": "user_id etag request_id",
}
"""Fields of any type: a number or a time can be personal data, too. Ids and etags are random where nobody chooses them.
A mask of preferences names definitions, which belong to nobody; one of users names labels, so it is marked. Tokens of
pages hold the last id of the page. Whoever adds a field decides: it goes in here, or is marked in the contract.
"""


def test_a_field_is_marked_or_on_the_list_of_those_without_personal_data() -> None:
    listed = {f"handfast.{message}.{name}" for message, names in NOT_PERSONAL.items() for name in names.split()}
    fields = [field for message in MESSAGES for field in leaves(message)]
    assert {field.full_name for field in fields if not is_marked(field)} == listed
