"""Which of a payee's channels are meant, said as the indexes say it."""


def kind(sessions: bool) -> str:
    """MPP's sessions alone, or x402's channels alone."""
    return "escrow IS NOT NULL" if sessions else "escrow IS NULL"


def owed_query(sessions: bool) -> str:
    """What may be claimed, on how many of those with the most, and since when."""
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
