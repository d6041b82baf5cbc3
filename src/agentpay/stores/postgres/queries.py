"""
What is looked for among the channels of a payee, as SQL.

Each is said as the indexes say it, or they are not used.
"""


def kind(sessions: bool) -> str:
    """Of MPP's sessions alone, or of x402's channels alone."""
    return "escrow IS NOT NULL" if sessions else "escrow IS NULL"


def owed_by(sessions: bool) -> str:
    """See `Owed`: how much, by how many, since when."""
    return (
        "SELECT coalesce(sum(unclaimed), 0), count(*), min(last_voucher_at) FROM"  # noqa: S608
        " (SELECT unclaimed, last_voucher_at FROM payee_channels"
        f" WHERE {kind(sessions)} AND unclaimed > 0"
        " ORDER BY unclaimed DESC, channel LIMIT $1) AS most"
    )


def ending(sessions: bool) -> str:
    """See `PayeeChannel.is_ending`."""
    if not sessions:
        return "status = 'closing'"
    return (
        "(status = 'closing' OR status = 'open'"
        " AND pending_withdrawal > 0 AND charged > claimed)"
    )
