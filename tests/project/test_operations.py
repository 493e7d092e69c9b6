"""docs/operations.md says what the code does, and its table of sizes is what `make growth` prints."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from benchmarks import growth
from benchmarks.growth import Costs, Load, Plan, needs
from handfast.server.accounts import tables as accounts
from handfast.server.chassis.data.distribution import Reason, distribution_key
from handfast.server.chassis.data.migrations import BESIDE_CALLS
from handfast.server.chassis.data.schema import MARK
from handfast.server.preferences import tables as preferences
from handfast.server.process.settings import ServerSettings
from handfast.server.users import tables as users
from tests.project.commands import ROOT
from tests.project.readme import dangling_links, quoted, table

OPERATIONS = ROOT / "docs" / "operations.md"
COSTS = Costs(
    server_us={"read": 100, "write": 200, "atomic": 1000},
    database_us={"read": 50, "write": 100, "atomic": 500},
    log_bytes={"read": 0, "write": 1000, "atomic": 5000},
    user_bytes=500,
    decision_bytes=300,
    branch_bytes=400,
    answer_bytes=600,
)


def test_links_lead_somewhere() -> None:
    assert dangling_links(OPERATIONS) == []
    text = OPERATIONS.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)
    }
    anchors = set(re.findall(r'<a id="(\w+)">', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings | anchors


def test_the_table_of_sizes_is_what_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    growth.main([])
    assert capsys.readouterr().out in OPERATIONS.read_text()
    assert f"{ServerSettings.threads + BESIDE_CALLS + 1} each with the default `--threads`" in OPERATIONS.read_text()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--users 0", "argument --users: must be at least 1, and is 0"),
        ("--users -5", "argument --users: must be at least 1, and is -5"),
        ("--users many", "argument --users: must be a number, and is many"),
        ("--calls-per-day -1", "argument --calls-per-day: must be at least 0, and is -1"),
        ("--calls-per-day inf", "argument --calls-per-day: must be a number, and is inf"),
        ("--writes 1.1", "argument --writes: must be from 0 to 1, and is 1.1"),
        ("--writes 0.9 --atomic 0.5", "--writes and --atomic are shares of all calls, and come to 1.4"),
        ("--peak 0.5", "argument --peak: must be at least 1, and is 0.5"),
        ("--utilization 0", "argument --utilization: must be from 0.01 to 1, and is 0"),
        ("--machine-processors 0", "argument --machine-processors: must be at least 1, and is 0"),
    ],
)
def test_a_load_that_cannot_be_is_refused_in_one_line(
    arguments: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        growth.main(arguments.split())
    assert capsys.readouterr().err.endswith(f"error: {why}\n")


def test_a_load_of_no_calls_is_not_taken_for_one_that_is_not_given(capsys: pytest.CaptureFixture[str]) -> None:
    growth.main(["--users", "1000", "--calls-per-day", "0"])
    assert "| 1,000 | 0 | 0 |" in capsys.readouterr().out


def test_the_assumptions_of_the_table_are_those_of_the_program() -> None:
    load, plan = Load(1, 1), Plan()
    shown = (
        f"makes {growth.CALLS_OF_A_USER:g} calls a day: {1 - load.writes - load.atomic:.0%} read, "
        f"{load.writes:.0%} write in one service, {load.atomic:.0%} write in both. The busiest second has "
        f"{plan.peak:g} times the calls of the mean, and then processors are used to {plan.utilization:.0%}. "
        f"Machines have {plan.machine_processors} processors"
    )
    assert shown.replace("%", " %") in " ".join(OPERATIONS.read_text().split())


def test_distribution_keys_are_those_of_the_tables() -> None:
    def found() -> Iterator[tuple[str, str | None]]:
        every = (users.metadata, preferences.metadata, accounts.metadata)
        for each in [*(each for metadata in every for each in metadata.tables.values()), MARK]:
            yield each.name, distribution_key(each)

    shown = {
        name: (quoted(key) or (None,))[0]
        for names, key in table(OPERATIONS, "table", "distribution key")
        for name in quoted(names)
    }
    assert shown == {**dict(found()), "alembic_version_…": None}


def test_reasons_to_go_beyond_one_key_are_those_of_the_code() -> None:
    rows = table(OPERATIONS, "reason", "statements", "what it means for a spread database")
    assert [row[0] for row in rows] == list(Reason)


def test_a_table_is_spread_by_the_first_column_of_its_key_unless_it_says_otherwise() -> None:
    key = sa.Column("a", sa.String, primary_key=True), sa.Column("b", sa.String, primary_key=True)
    assert distribution_key(sa.Table("parts", sa.MetaData(), *key)) == "a"


class TestGrowth:
    def test_a_small_load_takes_two_of_each_server(self) -> None:
        found = needs(Load(1000, 10_000), COSTS, Plan())
        assert (found.servers, found.machines, found.database_processors) == (6, 2, 1)

    def test_a_large_load_takes_what_its_calls_take_and_a_machine_more(self) -> None:
        """A mean of 10,000 calls a second, which is 50,000 at the peak: 40,000 reads, 7,500 and 2,500 writes."""
        found = needs(Load(10**6, 864e6), COSTS, Plan())
        assert found.calls_per_second == pytest.approx(50_000)
        # 4 + 1.5 + 2.5 processors are busy, which is 60 % of 14; on two machines of 8, and a third one.
        assert (found.machines, found.servers) == (3, 21)
        assert found.connections == 21 * (ServerSettings.threads + BESIDE_CALLS + 1)
        assert found.database_processors == 7
        assert found.log_bytes_per_second == pytest.approx(7_500 * 1000 + 2_500 * 5000)
        a_day = 43.2e6 * (300 + 600) + 129.6e6 * 600
        an_hour = 2_500 * 3600 * 2 * 400
        assert found.stored_bytes == pytest.approx(10**6 * 500 + a_day + an_hour)

    @pytest.mark.parametrize("processors", range(1, 200, 7))
    def test_when_a_machine_is_lost_the_others_are_enough(self, processors: int) -> None:
        plan, costs = (
            Plan(peak=1, utilization=1),
            dataclasses.replace(COSTS, server_us=dict.fromkeys(COSTS.server_us, 1)),
        )
        found = needs(Load(1, processors * 86_400e6 - 1), costs, plan)
        left = found.servers - -(-found.servers // found.machines)
        assert left >= processors
        assert (found.machines - 1) * plan.machine_processors >= processors

    def test_costs_come_from_the_page_of_the_benchmarks(self) -> None:
        page = "\n".join(
            f"| {title} | an echo | {engine} | {us} µs CPU | 100 µs CPU | **2** |"
            for title, engine, us in (
                ("GetUser", "sqlite", "1"),
                ("GetUser", "postgresql", "196"),
                ("UpdateUser", "postgresql", "336"),
                (growth.TITLES["atomic"], "postgresql", "2,866"),
            )
        )
        assert growth.server_us(page) == {"read": 196, "write": 336, "atomic": 2866}
        with pytest.raises(KeyError):
            growth.server_us(page.replace("UpdateUser |", "UpdateUsers |"))
