"""What seeds draw their worlds from: one profile has some of everything, each of the others is aimed at some rules.

A schedule that a rule guards against may take several rare things at once. An aimed profile makes these frequent, and
takes away what stands in their way. Which rule needs which is said in `without.py`; with all rules in place nothing may
go wrong in any profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FAULTS: Mapping[str, tuple[float, ...]] = {
    "lost": (0, 0.02, 0.1),
    "reply_lost": (0, 0.03, 0.1),
    "repeated": (0, 0.1, 0.3),
    "slow": (0, 0.05, 0.2),
    "crash": (0, 0.002, 0.01),
    "connection_lost_before_commit": (0, 0, 0.01),
    "connection_lost_after_commit": (0, 0, 0.01),
    "clock_ahead": (0, 0, 0.2),
}
"""How often each strikes: a message that is sent, an answer, a process wherever it may stop, a commit, a prune (by a
clock that is an hour ahead). A seed has one of the rates of each, so that some seeds have much of one and none of
another."""

ACTIONS: Mapping[str, int] = {
    "update_user": 3,
    "update_preferences": 2,
    "create_user": 1,
    "delete_user": 1,
    "update_account": 4,
    "create_account": 1,
    "delete_account": 1,
    "transaction": 6,
    "transact": 6,
    "get_user": 3,
    "get_preferences": 2,
    "look_up": 3,
    "list": 2,
    "batch_get": 1,
    "get_account": 4,
    "move": 3,
    "get_statement": 1,
}
"""What clients do, with weights."""


@dataclass(frozen=True)
class Profile:
    """What is drawn from, and how much of it; the defaults are the general profile's. Times are in seconds.

    faults       their rates, where other than in `FAULTS`
    actions      what clients do, with weights
    length       how many actions a client does
    clients      how many there are: one of these
    accounts     how many they care about
    emails       how many there are for their users
    overcounting how often a transaction by hand is committed with more than was staged
    only_reading how often a whole transaction only reads
    banking      how much of what transactions call is the bank, where it is among the actions
    looks        whether each write of a resource looks at another one as well
    moving       how often an update of a user takes another email
    thinking     how long a client waits between two actions, at the most
    operations   how many calls a transaction has: one of these
    timeouts     how long transactions may take: one of these
    transit      how long a message takes at the most, if it is not slow
    pause        how long a process stops at the most, where it may
    skew         how wrong the clocks are at the most: one of these
    finishing, sweeping, pruning
                 how long at the most between two passes of a notifier, a sweeper, a pruner
    retention    how old at the most what is pruned must be
    """

    faults: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    actions: Mapping[str, int] = field(default_factory=lambda: ACTIONS)
    length: int = 7
    clients: tuple[int, ...] = (3, 4, 5)
    accounts: int = 3
    emails: int = 4
    moving: float = 0.4
    overcounting: float = 0.0
    looks: bool = False
    banking: float = 0.3
    only_reading: float = 0.3
    thinking: float = 1.0
    operations: tuple[int, ...] = (1, 2, 3, 4)
    timeouts: tuple[int, ...] = (1, 2, 5)
    transit: float = 0.003
    pause: float = 0.001
    skew: tuple[float, ...] = (0, 0.1, 3, 20)
    finishing: float = 1.0
    sweeping: float = 2.5
    pruning: float = 4.0
    retention: float = 4.0


GENERAL = "general"
_WRITES = {"update_user": 1, "update_preferences": 1, "update_account": 1, "transaction": 2}

PROFILES: Mapping[str, Profile] = {
    GENERAL: Profile(),
    # What comes so late that all is over, and soon forgotten.
    "late": Profile(
        faults={"slow": (0.2, 0.4), "repeated": (0.3, 0.6), "crash": (0,)},
        actions={"update_preferences": 2, "update_account": 1, "transaction": 3},
        accounts=1,
        timeouts=(1, 5),
        skew=(0, 0.1),
        finishing=0.4,
        pruning=0.4,
        retention=0.5,
    ),
    # Transactions that clients, sweepers and whoever is in the way want to end differently at the same time.
    "rivals": Profile(
        faults={"slow": (0.2, 0.4), "reply_lost": (0.1, 0.3)},
        actions=_WRITES,
        accounts=1,
        timeouts=(1,),
        skew=(0, 0.1, 1),
    ),
    # Many writers of the same row.
    "crowd": Profile(
        faults={"repeated": (0.5,), "slow": (0,)},
        actions=_WRITES,
        accounts=1,
        thinking=0.02,
        pause=0.005,
    ),
    # Emails that change hands, within transactions too.
    "swaps": Profile(
        actions={"update_user": 3, "create_user": 1, "delete_user": 1, "transaction": 4, "look_up": 3, "list": 1},
        moving=0.8,
        thinking=0.1,
        pause=0.01,
        operations=(2, 3, 4),
        skew=(0, 0.1),
    ),
    # Reads that take their time, while changes of the row are staged, decided and finished.
    "readers": Profile(
        faults={"slow": (0.1, 0.3), "lost": (0,), "reply_lost": (0,), "crash": (0,)},
        actions={"transaction": 2, "get_user": 6, "get_preferences": 6, "get_account": 1, "batch_get": 1, "list": 1},
        length=8,
        clients=(5,),
        accounts=1,
        operations=(3,),
        timeouts=(5,),
        thinking=0.05,
        pause=0.05,
        skew=(0, 0.1),
    ),
    # Callers that get no answer, and go on as if they had.
    "careless": Profile(
        faults={"lost": (0.1, 0.3), "reply_lost": (0.1, 0.3), "slow": (0.1,)},
        actions={"transaction": 1},
        timeouts=(5,),
        skew=(0, 0.1),
    ),
    # Callers that commit what they never staged, while participants are out of reach; operators accept the loss.
    "overcounting": Profile(
        faults={"lost": (0.2, 0.4), "slow": (0.2, 0.4)},
        actions={"transaction": 4, "update_account": 1, "update_user": 1, "get_user": 1, "accept_losses": 1},
        timeouts=(1, 5),
        skew=(0, 0.1),
        overcounting=0.5,
        finishing=0.4,
        pruning=1.0,
    ),
    # Whole transactions over few rows, beside plain calls.
    "transactions": Profile(
        faults={"lost": (0, 0.01), "reply_lost": (0, 0.01), "slow": (0, 0.03)},
        actions={
            "transact": 6,
            "update_user": 2,
            "update_preferences": 2,
            "update_account": 1,
            "get_user": 1,
            "get_preferences": 1,
        },
        accounts=2,
        moving=0.1,
        thinking=0.05,
        pause=0.003,
        operations=(2, 3, 4, 5),
        timeouts=(5,),
        skew=(0, 0.1),
    ),
    # Transactions that read what others write, and write what others read.
    "skew": Profile(
        faults=dict.fromkeys(FAULTS, (0,)),
        actions={"transact": 4, "update_user": 1, "update_preferences": 1, "get_user": 1, "get_preferences": 1},
        clients=(4, 5),
        accounts=1,
        moving=0.0,
        thinking=0.01,
        pause=0.003,
        operations=(2, 3),
        timeouts=(5,),
        skew=(0,),
    ),
    # Writes that look at more than they change, some of it not there.
    "lookers": Profile(
        faults={"slow": (0, 0.03)},
        actions={"transact": 3, "transaction": 3, "update_user": 1, "update_preferences": 1, "update_account": 1},
        moving=0.1,
        looks=True,
        thinking=0.02,
        pause=0.003,
        operations=(1, 2, 3),
        timeouts=(5,),
        skew=(0, 0.1),
    ),
    # Writes that change several resources at once, of two kinds.
    "moves": Profile(
        faults={"lost": (0, 0.01), "reply_lost": (0, 0.01), "slow": (0, 0.03)},
        actions={"transact": 5, "transaction": 2, "move": 6, "get_statement": 2},
        clients=(4, 5),
        accounts=1,
        banking=0.8,
        thinking=0.02,
        pause=0.003,
        operations=(1, 2, 3),
        timeouts=(5,),
        skew=(0, 0.1),
    ),
    # Transactions that only read, while what they read comes, changes and goes.
    "glimpses": Profile(
        faults=dict.fromkeys(FAULTS, (0,)),
        actions={"transact": 3, "create_user": 2, "delete_user": 2, "update_preferences": 2, "update_account": 1},
        length=20,
        clients=(5,),
        accounts=1,
        moving=0.0,
        only_reading=1.0,
        thinking=0.002,
        transit=0.02,
        operations=(2,),
        timeouts=(5,),
        skew=(0,),
    ),
}


def profile_of(seed: int) -> str:
    """Which profile a seed has where none is asked for: half of the seeds the general one."""
    aimed = [name for name in PROFILES if name != GENERAL]
    turn = seed % (2 * len(aimed))
    return aimed[turn] if turn < len(aimed) else GENERAL
