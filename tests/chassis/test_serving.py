"""A server of any name as a command: its own settings have flags and variables, and mistakes are told in one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from handfast.server.chassis import Server, ServerSettings, StartError, serve
from handfast.server.process.flags import read_settings


@dataclass(frozen=True, kw_only=True)
class PostageSettings(ServerSettings):
    surcharge: int = field(default=0, metadata={"help": "cents on top of each letter"})
    carrier: str = field(metadata={"help": "who carries the letters", "metavar": "NAME"})
    patience: float = field(default=2.5, metadata={"help": "seconds to wait for the carrier", "bounds": (0, 60)})
    insured: bool = field(default=False, metadata={"help": "insure each letter"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("surcharge", self.surcharge >= 0, f"must not be negative, and is {self.surcharge}")


def never(settings: PostageSettings) -> Server:
    raise AssertionError(f"built with {settings}")


def test_settings_of_its_own_come_from_flags_and_variables() -> None:
    settings = read_settings(
        PostageSettings,
        "postage",
        "127.0.0.1:50061",
        {"surcharge": "5", "threads": None},
        {"HANDFAST_CARRIER": "pigeon", "HANDFAST_INSURED": "yes", "HANDFAST_POSTAGE_METRICS_LISTEN": "127.0.0.1:9000"},
    )
    assert settings == PostageSettings(
        name="postage",
        listen="127.0.0.1:50061",
        metrics_listen="127.0.0.1:9000",
        surcharge=5,
        carrier="pigeon",
        insured=True,
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "--carrier (or HANDFAST_CARRIER) is required: who carries the letters"),
        (
            ("--carrier", "us", "--surcharge", "-1"),
            "--surcharge (or HANDFAST_SURCHARGE) must not be negative, and is -1",
        ),
        (
            ("--carrier", "us", "--patience", "long"),
            "--patience (or HANDFAST_PATIENCE) must be a number of seconds, not 'long'",
        ),
        (
            ("--carrier", "us", "--patience", "60.5"),
            "--patience (or HANDFAST_PATIENCE) must be from 0 to 60 seconds, not 60.5",
        ),
        (("--carrier", "us", "--listen", "here"), "--listen (or HANDFAST_POSTAGE_LISTEN) must be HOST:PORT, such as"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(never, PostageSettings, name="postage", listen="127.0.0.1:50061", argv=arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"postage: {complaint}")
    assert told.count("\n") == 1


def test_help_lists_each_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(never, PostageSettings, name="postage", listen="127.0.0.1:50061", argv=["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for line in (
        "--listen HOST:PORT address to serve on [env var: HANDFAST_POSTAGE_LISTEN; default: 127.0.0.1:50061]",
        "--carrier NAME who carries the letters [env var: HANDFAST_CARRIER; required]",
        "--patience SECONDS seconds to wait for the carrier [env var: HANDFAST_PATIENCE; default: 2.5]",
        "--surcharge NUMBER cents on top of each letter [env var: HANDFAST_SURCHARGE; default: 0]",
        "--insured / --no-insured insure each letter [env var: HANDFAST_INSURED; default: false]",
    ):
        assert line in text


def test_a_flag_that_there_is_not_is_told_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(never, PostageSettings, name="postage", listen="127.0.0.1:50061", argv=["--patiance", "1"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Usage: ")
    assert told.endswith("Error: No such option '--patiance'. Did you mean '--patience'?\n")


def test_the_log_is_configured_before_the_server_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[object] = []

    def build(settings: PostageSettings) -> Server:
        assert configured == [("postage", "info")]
        raise StartError("that is enough")

    monkeypatch.setattr("handfast.server.process.flags.when_asked_to_stop", lambda stop: None)
    monkeypatch.setattr("handfast.server.chassis.logs.log.configure", lambda *values: configured.append(values))
    assert serve(build, PostageSettings, name="postage", listen="127.0.0.1:50061", argv=["--carrier", "us"]) == 2
    assert configured


def test_what_is_declared_wrong_in_a_server_that_is_named_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "declared_wrong.py").write_text(
        """
import sqlalchemy as sa
from google.protobuf.wrappers_pb2 import StringValue
from handfast.server.transactions import ResourceType, resource_table

key = sa.Column("book_id", sa.Text, primary_key=True)
books = ResourceType(resource_table("book", sa.MetaData(), key), StringValue)
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("handfast.server.process.flags.when_asked_to_stop", lambda stop: None)
    monkeypatch.setattr("handfast.server.chassis.logs.log.configure", lambda *values: None)
    assert serve("declared_wrong:build", ServerSettings, name="library", listen="127.0.0.1:50061", argv=[]) == 2
    told = capsys.readouterr().err
    assert told.startswith("library: book: the primary key of a table of resources is one column of text of up to 128")
    assert told.count("\n") == 1


def test_a_server_is_built_where_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handfast.server.process.flags.when_asked_to_stop", lambda stop: None)
    monkeypatch.setattr("handfast.server.chassis.logs.log.configure", lambda *values: None)
    with pytest.raises(AssertionError, match="built with PostageSettings"):
        serve(f"{__name__}:never", PostageSettings, name="postage", listen="127.0.0.1:50061", argv=["--carrier", "us"])
