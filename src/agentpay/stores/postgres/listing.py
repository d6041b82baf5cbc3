"""How a payee's channels are listed and added up, as PostgreSQL's statements."""

from typing import Final


def claimable(*, sessions: bool) -> str:
    """Those with at least `$1` unclaimed, `$2` of them, the most first."""
    return (
        f"SELECT channel FROM payee_channels WHERE {_kind(sessions)}"  # noqa: S608
        " AND unclaimed > 0 AND unclaimed >= $1"
        " ORDER BY unclaimed DESC, channel LIMIT $2"
    )


def closing(*, sessions: bool) -> str:
    """`$1` of those whose payers want them closed, the oldest first."""
    return (
        f"SELECT channel FROM payee_channels WHERE {_kind(sessions)}"  # noqa: S608
        f" AND {_ending(sessions)} ORDER BY last_voucher_at, channel LIMIT $1"
    )


def _kind(sessions: bool) -> str:
    """Said as the indexes say it, or they are not used."""
    return "escrow IS NOT NULL" if sessions else "escrow IS NULL"


def _ending(sessions: bool) -> str:
    """See `PayeeChannel.is_ending`."""
    if not sessions:
        return "status = 'closing'"
    return (
        "(status = 'closing' OR status = 'open'"
        " AND pending_withdrawal > 0 AND charged > claimed)"
    )


def _most(sessions: bool) -> str:
    return (
        "(SELECT unclaimed, owing_since FROM payee_channels"  # noqa: S608
        f" WHERE {_kind(sessions)} AND unclaimed > 0"
        " ORDER BY unclaimed DESC, channel LIMIT $1)"
    )


OWED: Final = (
    "SELECT coalesce(sum(unclaimed), 0), count(*),"  # noqa: S608
    " coalesce(min(owing_since), 0)"
    f" FROM ({_most(sessions=False)} UNION ALL {_most(sessions=True)}) AS owing"
)
"""How much, how many and since when, of `$1` of each kind: those that owe the most."""
