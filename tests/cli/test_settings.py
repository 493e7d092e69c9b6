"""Flags and environment become validated settings, and what breaks a rule is told with both its names."""

from __future__ import annotations

from typing import Any

import pytest

from handfast.server.cli.settings import on_this_machine
from handfast.server.process import processors
from handfast.server.process.addresses import join_address, split_address
from handfast.server.process.command import run
from handfast.server.process.flags import read_settings, server_command
from handfast.server.process.settings import HIDDEN, SettingsError, without_password
from handfast.server.suite import SuiteSettings

GIVEN: dict[str, Any] = {"name": "users", "listen": "127.0.0.1:50051", "database_url": "sqlite:////tmp/users.sqlite3"}


def read_server_settings(server: str, flags: dict[str, Any], environment: dict[str, str]) -> SuiteSettings:
    return read_settings(SuiteSettings, server, on_this_machine()[server], flags, environment)


def test_what_is_not_given_has_a_default() -> None:
    settings = read_server_settings("accounts", {}, {"HANDFAST_TRANSACTIONS_DATABASE_URL": "sqlite:////tmp/t.sqlite3"})
    assert settings == SuiteSettings(
        name="accounts",
        listen="127.0.0.1:50053",
        metrics_listen="127.0.0.1:50153",
        database_url="sqlite:////tmp/t.sqlite3",
        users_address="127.0.0.1:50051",
        preferences_address="127.0.0.1:50052",
        accounts_address="127.0.0.1:50053",
        threads=16,
        grace=10.0,
        log_level="info",
        allow_plaintext_beyond_loopback=False,
    )


def test_a_flag_wins_over_its_variable_and_an_empty_variable_is_none() -> None:
    environment = {
        "HANDFAST_USERS_DATABASE_URL": "postgresql://h/users",
        "HANDFAST_USERS_LISTEN": "127.0.0.1:1",
        "HANDFAST_THREADS": "2",
        "HANDFAST_GRACE": "",
    }
    settings = read_server_settings("users", {"threads": "3", "listen": None}, environment)
    assert (settings.listen, settings.threads, settings.grace) == ("127.0.0.1:1", 3, 10.0)


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_secret_in_a_variable_that_was_made_of_a_file_is_the_line_without_its_end(end: str) -> None:
    url = "postgresql://users:hunter2@db/users?sslmode=require"
    settings = read_server_settings("users", {}, {"HANDFAST_USERS_DATABASE_URL": url + end})
    assert settings.database_url == url
    for wrong in (f"{url}{end}{end}", f"{url}{end}{url}", end):
        with pytest.raises(
            SettingsError, match=r"--database-url \(or HANDFAST_USERS_DATABASE_URL\) must hold one line$"
        ):
            read_server_settings("users", {}, {"HANDFAST_USERS_DATABASE_URL": wrong})


@pytest.mark.parametrize(
    ("argv", "threads", "allowed"),
    [
        ([], 2, True),
        (["--threads", "3"], 3, True),
        (["--threads=3", "--no-allow-plaintext-beyond-loopback"], 3, False),
        (["--allow-plaintext-beyond-loopback"], 2, True),
    ],
)
def test_flags_of_a_command_line_reach_the_settings(
    argv: list[str], threads: int, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFAST_USERS_DATABASE_URL", "postgresql://h/users")
    monkeypatch.setenv("HANDFAST_THREADS", "2")
    monkeypatch.setenv("HANDFAST_ALLOW_PLAINTEXT_BEYOND_LOOPBACK", "true")
    monkeypatch.setattr("handfast.server.process.flags.when_asked_to_stop", lambda stop: None)
    served: list[SuiteSettings] = []
    command = server_command(
        SuiteSettings, "users", "127.0.0.1:50051", lambda settings, _: served.append(settings), who="users"
    )
    assert run(command, argv) == 0
    (settings,) = served
    assert (settings.threads, settings.allow_plaintext_beyond_loopback) == (threads, allowed)


@pytest.mark.parametrize(
    ("flags", "variable", "expected"),
    [
        ([], "", {}),
        ([], "credits=h:1,x=unix:/run/x", {"credits": "h:1", "x": "unix:/run/x"}),
        (["--participant", "credits=h:1", "--participant=x=h:2"], "", {"credits": "h:1", "x": "h:2"}),
        (["--participant", "credits=h:1,x=h:2"], "y=h:3", {"credits": "h:1", "x": "h:2"}),
        ([], "credits=h:1,i:1,x=[::1]:2", {"credits": "h:1,i:1", "x": "[::1]:2"}),
        (["--participant", "credits=h:1,i:1"], "", {"credits": "h:1,i:1"}),
    ],
)
def test_participants_are_those_of_the_suite_and_those_that_are_given(
    flags: list[str], variable: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFAST_TRANSACTIONS_DATABASE_URL", "postgresql://h/transactions")
    monkeypatch.setenv("HANDFAST_PARTICIPANTS", variable)
    monkeypatch.setattr("handfast.server.process.flags.when_asked_to_stop", lambda stop: None)
    served: list[SuiteSettings] = []
    listen = "127.0.0.1:50053"
    command = server_command(SuiteSettings, "accounts", listen, lambda each, _: served.append(each), who="accounts")
    assert run(command, flags) == 0
    suite = {"users": "127.0.0.1:50051", "preferences": "127.0.0.1:50052"}
    assert served[0].participants == suite | expected


@pytest.mark.parametrize(
    ("listen", "metrics_listen"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50151"),
        ("localhost:6000", "localhost:6100"),
        ("[::1]:50051", "[::1]:50151"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ],
)
def test_metrics_are_served_beside_the_calls(listen: str, metrics_listen: str) -> None:
    assert SuiteSettings(**GIVEN | {"listen": listen}).metrics_listen == metrics_listen


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        ("listen", "", "--listen (or HANDFAST_USERS_LISTEN) must be HOST:PORT"),
        ("listen", "127.0.0.1", "--listen (or HANDFAST_USERS_LISTEN) must be HOST:PORT"),
        ("listen", "127.0.0.1:http", "must be HOST:PORT"),
        ("listen", "127.0.0.1:65536", "must be HOST:PORT"),
        ("listen", ":50051", "must be HOST:PORT"),
        ("listen", "::1:50051", "must be HOST:PORT"),
        ("listen", "127.0.0.1:65500", "leaves no port for metrics 100 above; say --metrics-listen"),
        (
            "listen",
            "0.0.0.0:50051",
            "or --allow-plaintext-beyond-loopback, and --authentication enforce, --tls-client-ca or "
            "--allow-anonymous-beyond-loopback",
        ),
        (
            "listen",
            "[::]:50051",
            "or --allow-plaintext-beyond-loopback, and --authentication enforce, --tls-client-ca or "
            "--allow-anonymous-beyond-loopback",
        ),
        (
            "listen",
            "db.example.com:50051",
            "or --allow-plaintext-beyond-loopback, and --authentication enforce, --tls-client-ca or "
            "--allow-anonymous-beyond-loopback",
        ),
        ("metrics_listen", "10.0.0.1:9090", "--metrics-listen (or HANDFAST_USERS_METRICS_LISTEN) is 10.0.0.1:9090"),
        ("database_url", "", "--database-url (or HANDFAST_USERS_DATABASE_URL) must be"),
        ("database_url", "sqlite://", "must be sqlite:///FILE"),
        ("database_url", "sqlite:////tmp/users?cache=shared", "takes no parameters for SQLite; a question mark"),
        ("database_url", "sqlite:///:memory:", "must name a file"),
        ("database_url", f"sqlite:////{'long/' * 200}", "names a path of 1000 bytes, and SQLite takes up to 504"),
        ("database_must_replicate", True, "must not be set with SQLite, which does not replicate"),
        ("database_url", "mysql://u:hunter2@h/d", "must be sqlite:///FILE or postgresql://…"),
        (
            "database_url",
            "postgresql://u:a@hunter2@h/d",
            "must have each @ written as %40, but for the one before the host",
        ),
        ("database_url", "postgresql://us/er:hunter2@h/d", "must have each @ written as %40"),
        ("database_url", "postgresql://h/d#password=hunter2", "and each # as %23"),
        ("database_url", "postgresql://h/d?sslmode=require#password=hunter2", "and each # as %23"),
        ("users_address", "users", "--users-address (or HANDFAST_USERS_ADDRESS) must be HOST:PORT"),
        ("preferences_address", "127.0.0.1:0", "--preferences-address (or HANDFAST_PREFERENCES_ADDRESS) must name a"),
        ("accounts_address", "", "--accounts-address (or HANDFAST_ACCOUNTS_ADDRESS) must be HOST:PORT"),
        (
            "users_address",
            "http://127.0.0.1:1",
            "must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051, or several of these with commas and no spaces, "
            "not 'http:",
        ),
        ("participant", ("credits",), "--participant (or HANDFAST_PARTICIPANTS) must be NAME=ADDRESS, the name in"),
        ("participant", ("credits",), "single underscores, up to 32, not 'credits'"),
        ("participant", ("a=http://h:1",), "has an address for a that must be HOST:PORT, such as"),
        ("participant", ("a=h:1;b=h:2",), "must be NAME=ADDRESS with commas between several, not 'a=h:1;b=h:2'"),
        ("participant", ("a=h:1 b=h:2",), "must be NAME=ADDRESS with commas between several, not 'a=h:1 b=h:2'"),
        ("participant", ("a==h:1",), "must be NAME=ADDRESS with commas between several, not 'a==h:1'"),
        ("participant", ("a=127.0.0.1:50053",), "must not give a the address of accounts, 127.0.0.1:50053"),
        ("participant", ("a=127.0.0.1:50052",), "must not give a the address of preferences"),
        ("participant", ("a=h:1", "b=h:1"), "must not give b the address of a, h:1"),
        ("participant", ("a=h:1", "i:1", "b=j:1", "i:1"), "must not give b the address of a, i:1"),
        ("participant", ("a=h:1", "b"), "has an address for a that must be HOST:PORT"),
        ("users_address", "h:1,i", "or several of these with commas and no spaces, not 'h:1,i'"),
        ("users_address", "h:1, i:2", "or several of these with commas and no spaces, not 'h:1, i:2'"),
        ("users_address", "h:1,", "or several of these with commas and no spaces, not 'h:1,'"),
        ("users_address", "h:\u0661", "must be HOST:PORT"),
        ("peer_server_name", "users", "needs --peer-ca, too"),
        ("participant", ("credits=",), "has an address for credits that must be HOST:PORT"),
        ("participant", ("credits=127.0.0.1:0",), "has an address for credits that must name a port"),
        ("participant", ("=127.0.0.1:1",), "must be NAME=ADDRESS"),
        ("participant", ("",), "must be NAME=ADDRESS"),
        ("participant", ("Credits=127.0.0.1:1",), "the name in lower-case letters, digits and single underscores"),
        ("participant", (f"{'c' * 33}=127.0.0.1:1",), "up to 32"),
        ("participant", ("a=127.0.0.1:1", "a=127.0.0.1:2"), "must name each participant once, not a twice"),
        ("participant", ("users=127.0.0.1:1",), "must name no server of the suite, not users"),
        ("participant", ("accounts=127.0.0.1:1",), "must name no server of the suite, not accounts"),
        (
            "participant",
            ("transactions=127.0.0.1:1",),
            "must give no name that the suite has another use for, not transactions",
        ),
        (
            "participant",
            ("coordinator=127.0.0.1:1",),
            "must give no name that the suite has another use for, not coordinator",
        ),
        (
            "participant",
            ("branches=127.0.0.1:1",),
            "must give no name that the suite has another use for, not branches",
        ),
        ("threads", 0, "--threads (or HANDFAST_THREADS) must be from 1 to 1000, not 0"),
        ("threads", 1001, "must be from 1 to 1000"),
        ("grace", -1.0, "--grace (or HANDFAST_GRACE) must be from 0 to 3600 seconds, not -1"),
        ("grace", 3600.001, "must be from 0 to 3600 seconds, not 3600.001"),
        ("grace", float("nan"), "must be from 0 to 3600 seconds, not nan"),
        ("max_connection_age", -1.0, "--max-connection-age (or HANDFAST_MAX_CONNECTION_AGE) must be from 0 to 2000000"),
        ("max_connection_age", float("inf"), "must be from 0 to 2000000 seconds, not inf"),
        ("max_connection_age_grace", float("nan"), "--max-connection-age-grace (or HANDFAST_MAX_CONNECTION_AGE_GRACE)"),
        ("processor", "fastest", "--processor (or HANDFAST_USERS_PROCESSOR) must be any"),
        ("processor", "4096", "must be any"),
        ("log_level", "loud", "--log-level (or HANDFAST_LOG_LEVEL) must be one of debug, info, warning, error"),
        ("authentication", "on", "--authentication (or HANDFAST_AUTHENTICATION) must be one of off, observe, enforce"),
        ("authentication", "enforce", "is enforce, but callers can have no identity: say --token-keys"),
        ("authentication", "observe", "is observe, but callers can have no identity: say --token-keys"),
        ("reflection", "a b", "--reflection (or HANDFAST_REFLECTION) is the scope 'a b', which no token can have"),
        ("reflection", "contracts.read", "but callers have none: say --authentication"),
        ("token_keys", "keys.json", "--token-issuer (or HANDFAST_TOKEN_ISSUER) is required with --token-keys"),
        ("token_keys", "http://10.0.0.1/keys", "must be a file or a URL that begins with https://; http:// is for"),
        ("token_keys", "http://localhost.evil.example/keys", "http:// is for loopback"),
        ("token_keys", "http://127.0.0.1@evil.example/keys", "http:// is for loopback"),
        ("token_keys", "https://user:hunter2@issuer.example/keys", "must be a URL without a user name and a password"),
        ("token_keys", "\r\nhttps://issuer.example/keys", "must be a URL without spaces and line breaks"),
        ("token_keys", "https://[::1/keys", "must be a file or a URL"),
        ("token_keys", "https:///keys", "must be a file or a URL"),
        ("token_keys", "ftp://issuer.example/keys", "must be a file or a URL"),
        ("token_leeway", 301.0, "--token-leeway (or HANDFAST_TOKEN_LEEWAY) must be from 0 to 300 seconds, not 301"),
    ],
)
def test_a_setting_that_breaks_its_rule_is_refused_in_one_line(setting: str, value: object, complaint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        SuiteSettings(**GIVEN | {setting: value})
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "place", ["keys.json", "https://issuer.example/keys", "http://127.0.0.1:8080/keys", "http://[::1]:8080/keys"]
)
def test_keys_of_tokens_come_from_a_file_or_a_url_that_nobody_in_between_can_answer(place: str) -> None:
    tokens = {"token_keys": place, "token_issuer": "https://issuer.example", "token_audience": "handfast"}
    settings = SuiteSettings(**GIVEN | tokens | {"authentication": "enforce"})
    assert settings.token_keys == place
    with pytest.raises(SettingsError, match=r"--token-audience .* is required with --token-keys"):
        SuiteSettings(**GIVEN | tokens | {"token_audience": ""})


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("HANDFAST_THREADS", "many", "--threads (or HANDFAST_THREADS) must be a whole number, not 'many'"),
        ("HANDFAST_GRACE", "soon", "--grace (or HANDFAST_GRACE) must be a number of seconds, not 'soon'"),
        ("HANDFAST_ALLOW_PLAINTEXT_BEYOND_LOOPBACK", "maybe", "must be true or false, not 'maybe'"),
        ("HANDFAST_USERS_DATABASE_URL", "", "--database-url (or HANDFAST_USERS_DATABASE_URL) is required"),
    ],
)
def test_a_variable_that_does_not_parse_is_refused(variable: str, value: str, complaint: str) -> None:
    environment = {"HANDFAST_USERS_DATABASE_URL": "sqlite:////tmp/users.sqlite3"} | {variable: value}
    with pytest.raises(SettingsError) as caught:
        read_server_settings("users", {}, environment)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("usable", "told", "spread"),
    [
        ([], ["", "", ""], ["any", "any", "any"]),  # where the system does not tell
        ([0], ["", "", ""], ["any", "any", "any"]),
        ([2, 5], ["", "", ""], ["2", "5", "any"]),
        ([0, 1, 2, 3], ["", "", ""], ["0", "1", "2"]),
        ([0, 1], ["1", "", ""], ["1", "0", "any"]),
        ([0, 1], ["", "", "0"], ["1", "any", "0"]),
        ([0, 1], ["any", "", ""], ["any", "0", "1"]),
    ],
)
def test_servers_get_a_processor_each_as_far_as_they_go(
    usable: list[int], told: list[str], spread: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "usable_processors", lambda: usable)
    assert processors.spread(told) == spread


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "db.example.com:50051"])
def test_who_says_so_may_listen_beyond_loopback(listen: str) -> None:
    allowed = {"allow_plaintext_beyond_loopback": True, "allow_anonymous_beyond_loopback": True}
    assert SuiteSettings(**GIVEN | {"listen": listen} | allowed).listen == listen


@pytest.mark.parametrize("address", ["dns:///users.example.com:50051", "unix:/run/users.sock", "xds:///users"])
def test_a_peer_may_be_named_in_any_way_that_grpc_resolves(address: str) -> None:
    assert SuiteSettings(**GIVEN | {"users_address": address}).users_address == address


def test_settings_do_not_show_a_database_password() -> None:
    assert "hunter2" not in repr(SuiteSettings(**GIVEN | {"database_url": "postgresql://u:hunter2@h/d"}))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/a:b@c/users.sqlite3", "sqlite:////var/a:b@c/users.sqlite3"),
        ("postgresql://db/users", "postgresql://db/users"),
        ("postgresql://ada@db:5433/users", "postgresql://ada@db:5433/users"),
        ("postgresql+psycopg://ada:hunter2@db/users", "postgresql+psycopg://ada@db/users"),
        ("postgresql://ada:hunter2/is?odd:@db/users", "postgresql://ada@db/users"),
        ("postgresql://:hunter2@[::1]:5433/users", "postgresql://@[::1]:5433/users"),
        ("postgresql:///users?host=/run/postgresql&password=hunter2", "postgresql:///users?host=/run/postgresql"),
        ("postgresql://db/users?sslpassword=hunter2", "postgresql://db/users"),
        (
            "postgresql://ada:hunter2@db/all?sslmode=require&options=-csearch_path%3Dusers",
            "postgresql://ada@db/all?sslmode=require&options=-csearch_path%3Dusers",
        ),
        ("postgresql://db/users?%70assword=hunter2&new_secret=hunter2", "postgresql://db/users"),
    ],
)
def test_a_database_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "'postgresql://ada:hunter2@db/users'",
        '"postgresql://ada:hunter2@db/users"',
        " postgresql://ada:hunter2@db/users",
        "postgresql://ada:b@hunter2@db/users",
        "postgresql://a/da:hunter2@db/users",
        "postgresql://ada%3ahunter2@db/users",
        "postgresql:/ada:hunter2@db/users",
        "postgre-sql://ada:hunter2@db/users",
        "ada:hunter2@db/users",
        "host=db user=ada password=hunter2",
        "postgresql://db/users#password=hunter2",
        "postgresql://db/users&password=hunter2",
    ],
)
def test_nothing_is_shown_of_a_url_that_is_mistyped(url: str) -> None:
    assert without_password(url) == HIDDEN


@pytest.mark.parametrize(
    "parameters", ["user=ada;password=hunter2", "sslmode=require#password=hunter2", "dbname=postgresql://a:hunter2@db"]
)
def test_a_parameter_with_another_in_its_value_is_not_shown(parameters: str) -> None:
    assert without_password(f"postgresql://db/users?{parameters}") == "postgresql://db/users"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:50051", "users.example.com:443"])
def test_splitting_an_address_loses_nothing(address: str) -> None:
    assert join_address(*split_address(address)) == address
