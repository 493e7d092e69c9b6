"""A server of any name as a command: its own settings have flags and variables, and mistakes are told in one line."""

from __future__ import annotations

from dataclasses import dataclass, field

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
        "--insured insure each letter [env var: HANDFAST_INSURED; default: false]",
    ):
        assert line in text


def test_a_flag_that_there_is_not_is_told_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(never, PostageSettings, name="postage", listen="127.0.0.1:50061", argv=["--pacience", "1"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Usage: ")
    assert told.endswith("Error: No such option '--pacience'. Did you mean '--patience'?\n")


def test_the_log_is_configured_before_the_server_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[object] = []

    def build(settings: PostageSettings) -> Server:
        assert configured == [("postage", "info")]
        raise StartError("that is enough")

    monkeypatch.setattr("handfast.server.process.flags.when_asked_to_stop", lambda stop: None)
    monkeypatch.setattr("handfast.server.chassis.logs.log.configure", lambda *values: configured.append(values))
    assert serve(build, PostageSettings, name="postage", listen="127.0.0.1:50061", argv=["--carrier", "us"]) == 2
    assert configured
