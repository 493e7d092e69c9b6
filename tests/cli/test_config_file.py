"""Settings in a TOML file: what wins, what each mistake in it is told as, and what is printed of it."""

from __future__ import annotations

import os
import re
import threading
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from handfast.server.chassis import Server, ServerSettings, serve
from handfast.server.chassis.logs.values import loggable
from handfast.server.cli.settings import SERVERS, on_this_machine, read_addresses, read_participants
from handfast.server.cli.temporary import environment_of_its_own
from handfast.server.process.command import Failure
from handfast.server.process.flags import print_settings, read_settings
from handfast.server.process.processors import usable_processors
from handfast.server.process.settings import sqlite_url
from handfast.server.suite import SuiteSettings
from tests.cli.processes import Result
from tests.project.commands import ROOT

Write = Callable[..., str]
DATABASE = 'database_url = "sqlite:////tmp/users.sqlite3"\n'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the file; gives its path."""

    def write(content: str | bytes, mode: int = 0o644) -> str:
        file = tmp_path / "handfast.toml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)
        return str(file)

    return write


def settings_by(path: str, server: str = "users", flags: Any = None, **more: str) -> SuiteSettings:
    environment = {"HANDFAST_USERS_DATABASE_URL": "sqlite:////tmp/users.sqlite3", "HANDFAST_CONFIG": path} | more
    return read_settings(SuiteSettings, server, on_this_machine()[server], flags or {}, environment)


def refusal(path: str, server: str = "users", **environment: str) -> str:
    with pytest.raises(Failure) as caught:
        settings_by(path, server, **environment)
    line = str(caught.value)
    assert "\n" not in line
    assert "hunter2" not in line
    return line


def test_a_flag_wins_over_a_variable_that_over_the_servers_table_and_that_over_the_top(write: Write) -> None:
    path = write("threads = 1\nqueue = 1\ngrace = 1\n[users]\nthreads = 2\nqueue = 2\n[accounts]\nthreads = 3\n")
    settings = settings_by(path, flags={"threads": "5"}, HANDFAST_QUEUE="4")
    assert (settings.threads, settings.queue, settings.grace, settings.log_level) == (5, 4, 1.0, "info")
    assert settings_by(path, HANDFAST_QUEUE="").queue == 2
    assert settings_by(path, flags={"config": (path,)}, HANDFAST_CONFIG="/nowhere").threads == 2


def test_each_type_of_a_setting_has_one_in_toml(write: Write) -> None:
    path = write(
        "threads = 0x20\ngrace = 2\ntoken_leeway = 1.5\nmigrate = true\nlog_level = 'debug'\n"
        'participants = ["credits=h:1,i:1", "x=unix:/run/x"]\n'
        f"processor = {usable_processors()[0]}\n"
    )
    settings = settings_by(path)
    assert (settings.threads, settings.grace, settings.token_leeway, settings.migrate) == (32, 2.0, 1.5, True)
    assert isinstance(settings.grace, float)
    assert (settings.log_level, settings.processor) == ("debug", str(usable_processors()[0]))
    suite = {"users": "127.0.0.1:50051", "preferences": "127.0.0.1:50052"}
    assert settings.participants == suite | {"credits": "h:1,i:1", "x": "unix:/run/x"}


def test_participants_may_be_a_table(write: Write) -> None:
    path = write('[participants]\ncredits = "h:1,i:1"\n[accounts.participants]\nx = "h:2"\n')
    assert settings_by(path).participant == ("credits=h:1,i:1",)
    url = {"HANDFAST_TRANSACTIONS_DATABASE_URL": "postgresql://h/transactions"}
    assert settings_by(path, "accounts", **url).participant == ("x=h:2",)


def test_an_empty_text_takes_back_what_stands_at_the_top(write: Write) -> None:
    path = write('token_issuer = "https://issuer.example"\n[users]\ntoken_issuer = ""\n')
    assert settings_by(path).token_issuer == ""
    assert "token_issuer in" in refusal(path, "accounts", HANDFAST_TRANSACTIONS_DATABASE_URL="postgresql://h/t")


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n", b"\xef\xbb\xbfthreads = 16\r\n[users]\r\n"])
def test_a_file_may_be_empty_and_have_a_byte_order_mark(content: bytes, write: Write) -> None:
    assert settings_by(write(content)) == settings_by("")


REFUSED = {
    "threads = 'many'": "threads in FILE must be a whole number, not 'many'",
    "threads = '16'": "threads in FILE must be a whole number, not text in quotes",
    "threads = true": "threads in FILE must be a whole number, not 'true'",
    "threads = 16.0": "threads in FILE must be a whole number, not a number",
    "threads = [16]": "threads in FILE must be a whole number, not '[16]'",
    "threads = 1979-05-27": "threads in FILE must be a whole number, not '1979-05-27'",
    "[threads]": "threads in FILE must be a whole number, not '{}'",
    "[users]\nthreads = 0": "threads in [users] of FILE must be from 1 to 1000, not 0",
    "grace = true": "grace in FILE must be a number of seconds, not 'true'",
    "grace = nan": "grace in FILE must be from 0 to 3600 seconds, not nan",
    "grace = inf": "grace in FILE must be from 0 to 3600 seconds, not inf",
    "migrate = 1": "migrate in FILE must be true or false, not a whole number",
    "migrate = 'true'": "migrate in FILE must be true or false, not text in quotes",
    "log_level = 1": "log_level in FILE must be text in quotes, not a whole number",
    "log_level = 1979-05-27": "log_level in FILE must be text in quotes, not a date or a time",
    "log_level = 'loud'": "log_level in FILE must be one of debug, info, warning, error, not 'loud'",
    "participants = 'credits=h:1'": "participants in FILE must be an array of texts, or a table of them, not text in",
    "participants = [1]": "participants in FILE must be an array of texts, or a table of them, not an array",
    "participants.credits = 1": "participants in FILE must be an array of texts, or a table of them, not a table",
    "participants.Credits = 'h:1'": "participants in FILE must be NAME=ADDRESS, the name in lower-case letters",
    "[participant]\ncredits = 'h:1'": "participant in FILE is no setting of users; did you mean participants?",
    "treads = 16": "treads in FILE is no setting of users; did you mean threads?",
    "log-level = 'info'": "log-level in FILE is no setting of users; did you mean log_level?",
    "[users]\nlog-level = 'info'": "log-level in [users] of FILE is no setting of users; did you mean log_level?",
    "[users.tls]\ncertificate = ''": "tls in [users] of FILE is no setting of users; did you mean tls_key?",
    "surcharge = 3": "surcharge in FILE is no setting of users; what only another server has stands in the table of",
    "users = 3": "users in FILE is no setting of users",
    "[[users]]\nthreads = 3": "users in FILE is no setting of users",
    "name = 'users'": "name in FILE is no setting of users",
    "'' = 'x'": "'' in FILE is no setting of users; what only another server has",
    '"a\\nb" = 1': "'a\\nb' in FILE is no setting of users; what only another server has",
    '["users\\n"]': "['users\\n'] of FILE is not for users; did you mean [users]?",
    'token_issuer = "a\\u0000"': "token_issuer in FILE must have no NUL",
    'participants.a = "h:1\\u0000"': "participants in FILE must have no NUL",
    "config = 'other.toml'": "config in FILE is no setting of users",
    "[user]\nthreads = 3": "[user] of FILE is not for users; did you mean [users]?",
    "token_keys = 'keys.json'": "--token-issuer (or HANDFAST_TOKEN_ISSUER) is required with --token-keys",
    "tls_key = 'x'": "tls_key in FILE needs --tls-certificate, too",
    "listen = '0.0.0.0:1'": "listen in FILE is 0.0.0.0:1, which other machines may reach in plain text",
    "threads = 16\nthreads = 17\n": "FILE is not TOML: Cannot overwrite a value (at line 2, column 13)",
    "log_level = 'info'\nthreads 16": "FILE is not TOML: Expected '=' after a key in a key/value pair (at line 2,",
    "a = " + "[" * 100_000: "FILE is not TOML: ",
    "threads_file = 'x'": "threads_file in FILE is no setting of users; did you mean threads?",
}


@pytest.mark.parametrize("content", REFUSED, ids=lambda content: content[:40])
def test_a_mistake_is_told_in_one_line_with_file_key_and_rule(content: str, write: Write) -> None:
    path = write(content)
    assert REFUSED[content].replace("FILE", path) in refusal(path)


def test_a_mistake_that_is_found_later_is_told_like_this_too(write: Write) -> None:
    path = write("[users]\nthreads = 3\n")
    with pytest.raises(Failure, match=rf"^threads in \[users\] of {re.escape(path)} must be even$"):
        settings_by(path).require("threads", False, "must be even")


def test_a_text_that_is_not_utf_8_is_refused(write: Write) -> None:
    path = write(b"log_level = '\xff'")
    assert refusal(path) == f"{path} is not text in UTF-8"


def test_a_file_that_cannot_be_read_is_told_with_flag_and_variable(tmp_path: Path) -> None:
    line = refusal(str(tmp_path))
    assert line == f"--config (or HANDFAST_CONFIG) names {tmp_path}, which cannot be read: Is a directory"
    assert refusal(f"{tmp_path}/none").endswith("which cannot be read: No such file or directory")
    (tmp_path / "large").write_bytes(b"#" * (1 << 20) + b"\n")
    assert refusal(str(tmp_path / "large")).endswith("large, which is larger than 1048576 bytes")


def test_a_file_that_everybody_can_write_is_refused(write: Write) -> None:
    path = write("threads = 3\n", 0o646)
    cause = "everybody can write it (mode 0646); say chmod o-w"
    assert refusal(path) == f"--config (or HANDFAST_CONFIG) names {path}, which cannot be read: {cause}"
    assert settings_by(write("threads = 3\n", 0o664)).threads == 3


def test_a_second_file_is_refused(handfast: Callable[..., Result], write: Write) -> None:
    path = write("")
    result = handfast("serve", "users", "--config", path, "--config", path)
    complaint = "--config (or HANDFAST_CONFIG) is given more than once; all settings are in one file"
    assert result == Result(2, "", f"handfast: users: {complaint}\n")


def test_what_is_for_another_server_is_that_servers_to_check(write: Write) -> None:
    path = write("[postage]\nsurcharge = 3\n[accounts]\ntreads = 3\n[up]\nfirst_port = 6000\n[users]\n")
    assert settings_by(path).threads == 16
    url = {"HANDFAST_TRANSACTIONS_DATABASE_URL": "postgresql://h/transactions"}
    assert "treads in [accounts] of" in refusal(path, "accounts", **url)


class TestPaths:
    def test_those_in_the_file_are_relative_to_its_folder(self, write: Write, tmp_path: Path) -> None:
        path = write(
            'token_keys = "keys.json"\ntoken_issuer = "i"\ntoken_audience = "a"\nauthentication = "enforce"\n'
            'revoked_tokens = "/etc/revoked"\n[users]\ndatabase_url = "sqlite:///data/users.sqlite3"\n'
        )
        settings = settings_by(os.path.relpath(path), HANDFAST_USERS_DATABASE_URL="")
        assert settings.token_keys == str(tmp_path / "keys.json")
        assert settings.revoked_tokens == "/etc/revoked"
        assert settings.tls_key == ""
        assert settings.database_url == sqlite_url(tmp_path / "data" / "users.sqlite3")

    def test_so_is_that_of_a_url_in_a_file_of_its_own(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "url").touch(0o600)
        (tmp_path / "url").write_text("sqlite:///users.sqlite3\n")
        path = write('[users]\ndatabase_url_file = "url"\n')
        settings = settings_by(path, HANDFAST_USERS_DATABASE_URL="")
        assert settings.database_url == sqlite_url(tmp_path / "users.sqlite3")

    def test_a_url_stays_one(self, write: Write) -> None:
        path = write(
            'token_keys = "https://issuer.example/keys"\ntoken_issuer = "i"\ntoken_audience = "a"\n'
            'authentication = "enforce"\n[users]\ndatabase_url = "sqlite:////var/users.sqlite3"\n'
        )
        settings = settings_by(path, HANDFAST_USERS_DATABASE_URL="")
        assert settings.token_keys == "https://issuer.example/keys"
        assert settings.database_url == "sqlite:////var/users.sqlite3"

    def test_those_of_flags_and_variables_are_not(self, write: Write) -> None:
        tokens = 'token_keys = "keys.json"\ntoken_issuer = "i"\ntoken_audience = "a"\nauthentication = "enforce"\n'
        assert settings_by(write(tokens), HANDFAST_TOKEN_KEYS="other.json").token_keys == "other.json"

    @pytest.mark.parametrize("url", ["sqlite:///:memory:", "sqlite:///?cache=shared"])
    def test_what_is_no_file_is_refused_as_ever(self, url: str, write: Write) -> None:
        path = write(f'[users]\ndatabase_url = "{url}"\n')
        assert f"database_url in [users] of {path} " in refusal(path, HANDFAST_USERS_DATABASE_URL="")


class TestSecrets:
    URL = "postgresql://ada:hunter2@db/users?sslmode=verify-full"
    NONE: ClassVar[dict[str, str]] = {"HANDFAST_USERS_DATABASE_URL": ""}

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
    def test_a_file_with_one_that_others_can_read_is_refused(self, mode: int, write: Write) -> None:
        path = write(f'[users]\ndatabase_url = "{self.URL}"\n', mode)
        assert refusal(path, **self.NONE) == (
            f"database_url in [users] of {path} is secret, in a file that others than its owner can reach "
            f"(mode {mode:04o}); say chmod 600 {path}"
        )

    def test_a_file_that_nobody_else_can_read_may_have_some(self, write: Write) -> None:
        assert (
            settings_by(write(f'[users]\ndatabase_url = "{self.URL}"\n', 0o600), **self.NONE).database_url == self.URL
        )

    def test_a_url_without_a_password_is_none(self, write: Write) -> None:
        url = self.URL.replace(":hunter2", "")
        assert settings_by(write(f'[users]\ndatabase_url = "{url}"\n'), **self.NONE).database_url == url

    def test_one_may_be_in_a_file_of_its_own_beside_it(self, write: Write, tmp_path: Path) -> None:
        path = write('[users]\ndatabase_url_file = "url"\n')
        (tmp_path / "url").touch(0o600)
        (tmp_path / "url").write_text(f"{self.URL}\n")
        assert settings_by(path, **self.NONE).database_url == self.URL
        (tmp_path / "url").chmod(0o644)
        line = refusal(path, **self.NONE)
        assert line.startswith(
            f"database_url_file in [users] of {path} names {tmp_path / 'url'}, which others than its"
        )

    def test_one_in_both_is_refused(self, write: Write) -> None:
        path = write(f'[users]\ndatabase_url_file = "url"\ndatabase_url = "{self.URL}"\n', 0o600)
        line = refusal(path, **self.NONE)
        assert line == f"database_url_file in [users] of {path} is given by database_url, too; say one of them"

    @pytest.mark.parametrize("value", [f'["{URL}"]', "5"])
    def test_one_of_another_type_is_not_shown(self, value: str, write: Write) -> None:
        path = write(f"[users]\ndatabase_url = {value}\n", 0o600)
        assert f"database_url in [users] of {path} must be text in quotes, not a" in refusal(path, **self.NONE)


@dataclass(frozen=True, kw_only=True)
class PostageSettings(ServerSettings):
    surcharge: int = field(default=0, metadata={"help": "cents on top of each letter"})
    prices: str = field(default="", metadata={"help": "file of prices", "metavar": "FILE"})
    seal: str = field(default="", metadata={"help": "what signs letters", "secret": True})
    code: int = field(default=0, metadata={"help": "what opens the letter box", "secret": True, "bounds": (0, 999_999)})
    zones: tuple[str, ...] = field(default=(), metadata={"help": "where it delivers"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("surcharge", self.surcharge >= 0, f"must not be negative, and is {self.surcharge}")


def never(settings: PostageSettings) -> Server:
    raise AssertionError(f"built with {settings}")


class TestServersOfOnesOwn:
    def read(self, path: str) -> PostageSettings:
        return read_settings(PostageSettings, "postage", "127.0.0.1:50061", {}, {"HANDFAST_CONFIG": path})

    def test_one_has_its_settings_in_a_file_of_its_own_or_in_its_table(self, write: Write, tmp_path: Path) -> None:
        own = self.read(write('surcharge = 3\nprices = "prices.csv"\nzones = ["a", "b"]\n'))
        assert (own.surcharge, own.prices, own.zones) == (3, str(tmp_path / "prices.csv"), ("a", "b"))
        assert self.read(write('threads = 5\n[postage]\nsurcharge = 3\n[users]\nmigrate = "?"\n')).surcharge == 3

    def test_its_mistakes_are_told_in_one_line(self, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
        path = write("[postage]\nsurcharge = -1\n")
        argv = ["--config", path]
        assert serve(never, PostageSettings, name="postage", listen="127.0.0.1:50061", argv=argv) == 2
        complaint = f"surcharge in [postage] of {path} must not be negative, and is -1"
        assert capsys.readouterr().err == f"postage: {complaint}\n"

    def test_its_secrets_are_wholly_so(self, write: Write) -> None:
        with pytest.raises(Failure, match=r"seal in .* is secret, in a file that others"):
            self.read(write('seal = "hunter2"\n'))
        settings = self.read(write('seal = "hunter2"\ncode = 1234\nsurcharge = 3\n', 0o600))
        for told in (repr(settings), str(loggable(settings))):
            assert "surcharge" in told
            assert "hunter2" not in told
            assert "1234" not in told
        path = write("code = 1234567\n", 0o600)
        with pytest.raises(Failure, match=rf"^code in {re.escape(path)} must be from 0 to 999999$"):
            self.read(path)

    def test_a_secret_that_is_no_text_may_be_in_a_file_of_its_own(self, write: Write, tmp_path: Path) -> None:
        path = write('code_file = "code"\n')
        (tmp_path / "code").touch(0o600)
        (tmp_path / "code").write_text("1234\n")
        assert self.read(path).code == 1234
        (tmp_path / "code").write_text("hunter2\n")
        with pytest.raises(Failure, match=rf"^code_file in {re.escape(path)} must be a whole number$"):
            self.read(path)
        with pytest.raises(Failure, match=r"^code_file in \S+ must be text in quotes, not a whole number$"):
            self.read(write("code_file = 1\n"))

    @pytest.mark.parametrize("name", ["config", "help", "print_config"])
    def test_one_that_would_take_a_flag_of_every_server_is_refused(self, name: str) -> None:
        with pytest.raises(TypeError, match=rf"Taken\.{name}: each server has a flag --{name.replace('_', '-')} that"):
            type("Taken", (ServerSettings,), {name: field(default="", metadata={"help": "what it is"})})

    def test_it_prints_what_it_would_run_with(self, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
        path = write('seal = "hunter2"\nthreads = 5\n[postage]\nzones = ["a", "b"]\n', 0o600)
        argv = ["--print-config", "--config", path, "--queue=7"]
        assert serve(never, PostageSettings, name="postage", listen="127.0.0.1:50061", argv=argv) == 0
        printed = capsys.readouterr().out
        assert "hunter2" not in printed
        for line in (
            "[postage]",
            '#listen = "127.0.0.1:50061" # default',
            '#metrics_listen = "127.0.0.1:50161" # default: as --listen, port + 100',
            f"threads = 5 # {path}",
            "queue = 7 # --queue",
            f'zones = ["a", "b"] # [postage] of {path}',
            f'#seal = "" # {path}, secrets hidden',
            "#surcharge = 0 # default",
        ):
            assert line in lines_of(printed)


def lines_of(printed: str) -> list[str]:
    return [re.sub(" +", " ", line) for line in printed.splitlines()]


class TestPrinting:
    ODD = 'a"b\\c\x7f\x1bü\n😀'

    def printed(self, capsys: pytest.CaptureFixture[str], **environment: str) -> str:
        print_settings(SuiteSettings, "users", "127.0.0.1:50051", {}, environment)
        return capsys.readouterr().out

    def test_what_is_printed_is_a_file_that_gives_the_same(
        self, write: Write, capsys: pytest.CaptureFixture[str]
    ) -> None:
        environment = {
            "HANDFAST_USERS_DATABASE_URL": "postgresql://ada@db/users?sslmode=verify-full",
            "HANDFAST_THREADS": "3",
            "HANDFAST_GRACE": "2.5",
            "HANDFAST_MIGRATE": "yes",
            "HANDFAST_PARTICIPANTS": "credits=h:1,i:1,x=h:2",
            "HANDFAST_TOKEN_KEYS": "/etc/keys",
            "HANDFAST_TOKEN_ISSUER": self.ODD,
            "HANDFAST_TOKEN_AUDIENCE": "a",
            "HANDFAST_AUTHENTICATION": "observe",
        }
        printed = self.printed(capsys, **environment)
        expected = read_settings(SuiteSettings, "users", "127.0.0.1:50051", {}, environment)
        assert settings_by(write(printed), HANDFAST_USERS_DATABASE_URL="") == expected
        with_defaults = printed.replace("\n#", "\n")
        assert settings_by(write(with_defaults), HANDFAST_USERS_DATABASE_URL="") == expected

    def test_a_password_is_hidden_and_the_line_commented_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        variable = "HANDFAST_USERS_DATABASE_URL"
        printed = self.printed(capsys, **{variable: "postgresql://ada:hunter2@db/users"})
        assert "hunter2" not in printed
        assert f'#database_url = "postgresql://ada@db/users" # {variable}, secrets hidden' in lines_of(printed)
        assert tomllib.loads(printed) == {"users": {}}

    def test_the_query_of_a_url_is_hidden_as_it_may_have_a_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        environment = {
            "HANDFAST_USERS_DATABASE_URL": "sqlite:////tmp/users.sqlite3",
            "HANDFAST_TOKEN_KEYS": "https://h/keys?apikey=hunter2",
            "HANDFAST_TOKEN_ISSUER": "https://h",
            "HANDFAST_TOKEN_AUDIENCE": "a",
        }
        printed = self.printed(capsys, **environment)
        assert "hunter2" not in printed
        assert '#token_keys = "https://h/keys" # HANDFAST_TOKEN_KEYS, secrets hidden' in lines_of(printed)
        assert 'token_issuer = "https://h" # HANDFAST_TOKEN_ISSUER' in lines_of(printed)

    def test_what_is_no_text_is_printed_all_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        url = "postgresql://ada@db/" + os.fsdecode(b"a\xffb")
        assert '"postgresql://ada@db/a\ufffdb"' in self.printed(capsys, HANDFAST_USERS_DATABASE_URL=url)

    def test_a_rule_that_is_broken_is_told_after_all_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(Failure, match=r"--threads \(or HANDFAST_THREADS\) must be from 1 to 1000, not 0"):
            self.printed(capsys, HANDFAST_THREADS="0", HANDFAST_USERS_DATABASE_URL="postgresql://h/d")
        assert "threads = 0 # HANDFAST_THREADS" in lines_of(capsys.readouterr().out)


def test_the_command_prints_all_servers_and_what_up_has(handfast: Callable[..., Result], write: Write) -> None:
    servers = ("users", "preferences", "accounts")
    tables = "".join(f'[{server}]\ndatabase_url = "sqlite:////tmp/{server}"\n' for server in servers)
    path = write(f"threads = 3\n[participants]\n{tables}[up]\nfirst_port = 6000\n[prefs]\n[library]\n")
    result = handfast("config", "--config", path)
    assert (result.status, result.stderr) == (0, "")
    printed = tomllib.loads(result.stdout)
    assert list(printed) == [*servers, "up"]
    assert printed["up"] == {"first_port": 6000}
    for server in servers:
        assert printed[server] == {"threads": 3, "participants": [], "database_url": f"sqlite:////tmp/{server}"}
    of_up, _, others = result.stdout.partition("[up]\n")[2].partition("\n\n")
    assert others == f"# For no server of the suite: prefs, library of {path}\n"
    assert handfast("config", "up", HANDFAST_CONFIG=path).stdout == f"[up]\n{of_up}\n"
    assert "data_dir" in of_up
    printed_too = handfast("config", "up", HANDFAST_THREDS="5", HANDFAST_CREDITS_LISTEN="127.0.0.1:1")
    assert printed_too.stdout.endswith("\n# For no server of the suite: HANDFAST_CREDITS_LISTEN, HANDFAST_THREDS\n")


def test_the_command_fails_where_a_server_could_not_start(handfast: Callable[..., Result], write: Write) -> None:
    result = handfast("config", "users", "preferences")
    assert result.status == 2
    assert "#database_url = # required" in lines_of(result.stdout)
    told = result.stderr.splitlines()
    assert told[0].startswith("handfast: config: users: --database-url (or HANDFAST_USERS_DATABASE_URL) is required: ")
    assert told[1].startswith("preferences: --database-url (or HANDFAST_PREFERENCES_DATABASE_URL) is required: ")
    path = write("[up]\nfrist_port = 6000\n")
    complaint = f"frist_port in [up] of {path} is no setting of up; did you mean first_port?"
    assert handfast("config", "up", "--config", path) == Result(2, "", f"handfast: config: up: {complaint}\n")
    result = handfast("config", "up", "--config", write("[up]\nthreads = 8\n"))
    assert result.stderr.endswith("is no setting of up; what servers have stands at the top, or in the table of one\n")


def test_that_a_file_of_whom_to_trust_cannot_be_used_is_told_where_settings_are_printed(
    handfast: Callable[..., Result],
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = 'authentication = "observe"\ntoken_keys = "keys.json"\ntoken_issuer = "i"\ntoken_audience = "a"\n'
    path, keys = write(f'{tokens}[users]\ndatabase_url = "sqlite:////tmp/users"\n'), tmp_path / "keys.json"
    complaint = f"token_keys in {path} is {keys}, which cannot be read: No such file or directory\n"
    for arguments, who in ((["config", "users"], "config: users"), (["serve", "users", "--print-config"], "users")):
        result = handfast(*arguments, "--config", path)
        assert (result.status, result.stderr) == (2, f"handfast: {who}: {complaint}")
        assert f'token_keys = "{keys}" # {path}' in lines_of(result.stdout)
    keys.write_text("[]")
    path = write(tokens)
    monkeypatch.setattr("handfast.server.chassis.logs.log.configure", lambda *_: None)  # which is for the whole process
    argv = ["--print-config", "--config", path]
    assert serve(never, PostageSettings, name="postage", listen="127.0.0.1:50061", argv=argv) == 2
    told = capsys.readouterr()
    assert told.err.startswith(
        f"postage: token_keys in {path} is {keys}, which breaks a rule: it is no JSON Web Key Set"
    )
    assert f'token_keys = "{keys}" # {path}' in lines_of(told.out)


def test_a_pipe_is_read_once_and_is_none_for_a_suite_whose_servers_each_read_it(
    handfast: Callable[..., Result], tmp_path: Path
) -> None:
    def piped(*command: str) -> Result:
        path = tmp_path / f"{command[0]}.toml"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_text, args=["threads = 3\n"])
        writer.start()
        result = handfast(*command, "--config", str(path))
        writer.join()
        return result

    assert [line for line in lines_of(piped("config").stdout) if line.startswith("threads")] == [
        f"threads = 3 # {tmp_path / 'config.toml'}"
    ] * len(SERVERS)
    path = tmp_path / "up.toml"
    complaint = f"--config (or HANDFAST_CONFIG) names {path}, which is no file that each server can read by itself"
    assert piped("up", "--data-dir", str(tmp_path / "data")) == Result(2, "", f"handfast: up: {complaint}\n")


class TestWhereASuiteIs:
    FILE = '[accounts]\nusers_address = "u:1"\n[participants]\ncredits = "c:1"\n[up]\nfirst_port = 6000\n'

    def addresses(self, path: str, first_port: str | None = None) -> dict[str, str]:
        return read_addresses({"config": (path,), "first_port": first_port})

    def test_the_file_says_so_for_commands(self, write: Write) -> None:
        path = write(self.FILE)
        expected = {"users": "u:1", "preferences": "127.0.0.1:6001", "accounts": "127.0.0.1:6002"}
        assert self.addresses(path) == expected
        assert read_participants({"config": (path,)}) == {"credits": "c:1"}

    def test_a_first_port_that_is_given_otherwise_wins_over_all_of_it(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(self.FILE)
        assert self.addresses(path, "7000") == on_this_machine(7000)
        monkeypatch.setenv("HANDFAST_FIRST_PORT", "8000")
        monkeypatch.setenv("HANDFAST_ACCOUNTS_ADDRESS", "a:1")
        assert self.addresses(path) == on_this_machine(8000) | {"accounts": "a:1"}
        assert self.addresses(path, "7000") == on_this_machine(7000)

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            ('users_address = "h"', "users_address in FILE: "),
            ("users_adress = 'h:1'", "users_adress in FILE is no setting of accounts; did you mean users_address?"),
            ("[up]\nfirst_port = '6000'", "first_port in [up] of FILE must be a whole number, not text in quotes"),
            ("[up]\nfirst_port = 0", "first_port in [up] of FILE must be from 1 to"),
            ("[participants]\ncredits = 'h'", "participants in FILE has an address for credits that must be HOST:PORT"),
        ],
    )
    def test_mistakes_name_the_file(
        self, content: str, complaint: str, write: Write, handfast: Callable[..., Result]
    ) -> None:
        path = write(content)
        result = handfast("transactions", "list", "--config", path)
        assert (result.status, result.stdout) == (2, "")
        assert result.stderr.startswith(f"handfast: transactions: {complaint.replace('FILE', path)}")
        assert result.stderr.count("\n") == 1


def test_databases_are_migrated_that_the_file_names(
    handfast: Callable[..., Result], write: Write, tmp_path: Path
) -> None:
    path = write(
        '[users]\ndatabase_url = "sqlite:///users.sqlite3"\n[credits]\ndatabase_url = "sqlite:///c"\nodd = 1\n'
    )
    result = handfast("migrate", "users", "credits=credits:migrations", "--config", path, PYTHONPATH=CREDITS)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("users: set up at ")
    assert {"users.sqlite3", "c"} <= {file.name for file in tmp_path.iterdir()}
    refused = handfast("migrate", "users", HANDFAST_CONFIG=write("[users]\ndatabse_url = ''\n"))
    assert refused.stderr.endswith("is no setting of users; did you mean database_url?\n")


CREDITS = str(ROOT / "examples" / "credits")


def test_a_temporary_suite_has_nothing_of_the_users_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDFAST_CONFIG", "/nowhere")
    assert "HANDFAST_CONFIG" not in environment_of_its_own()
