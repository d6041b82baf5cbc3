"""What PostgreSQL will not write fails the step that wants it, and nothing else."""

import asyncio
from dataclasses import replace

import pytest

from agentpay.errors import StoreUnavailable
from agentpay.stores import PostgresStore
from tests.stores.store_cases import channel, is_put, payee_record
from tests.stores.test_postgres_survives_faults import an_operator_does

BAD = "bad"
DEFERRED = "CONSTRAINT TRIGGER refuses AFTER INSERT OR UPDATE ON cursors DEFERRABLE"
AT_ONCE = "TRIGGER refuses BEFORE INSERT OR UPDATE ON cursors"


async def refuses(
    url: str, code: str, *, times: int = 10**6, trigger: str = AT_ONCE
) -> None:
    """From now on, so many writes of the cursor `bad` end in an error."""
    await an_operator_does(
        url,
        f"""CREATE SEQUENCE refused;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.name = '{BAD}' AND nextval('refused') <= {times} THEN
                RAISE 'refused' USING ERRCODE = '{code}';
            END IF;
            RETURN NEW;
        END $$;
        CREATE {trigger} {"INITIALLY DEFERRED" if trigger == DEFERRED else ""}
            FOR EACH ROW EXECUTE FUNCTION refuse()""",
    )


async def attempts(store: PostgresStore, names: list[str]) -> list[str]:
    """Write cursors at once; returns those of which it says that nothing was saved."""
    writes = (store.payee.write_cursor(name, 7) for name in names)
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    failed = [o for o in outcomes if o is not None]
    assert all(isinstance(error, StoreUnavailable) for error in failed), failed
    return [n for n, o in zip(names, outcomes, strict=True) if o is not None]


@pytest.mark.parametrize("trigger", [AT_ONCE, DEFERRED], ids=["at once", "at commit"])
@pytest.mark.parametrize("code", ["22003", "23514", "53100", "55P03", "57014", "P0001"])
async def test_a_statement_that_fails_fails_its_step_alone(
    postgres_url: str, code: str, trigger: str
) -> None:
    names = [str(number) for number in range(20)]
    async with await PostgresStore.open(postgres_url) as store:
        await refuses(postgres_url, code, trigger=trigger)
        leads = await store.payee.lead("keeper")
        session = store.payee._session._connection
        failed = await attempts(store, [*names, BAD])
        kept = [await store.payee.read_cursor(name) for name in [*names, BAD]]

        assert failed == [BAD]
        assert kept == [7] * len(names) + [0]
        assert leads
        assert store.payee._session._connection is session
        assert "keeper" in store.payee._session._leads


@pytest.mark.parametrize("trigger", [AT_ONCE, DEFERRED], ids=["at once", "at commit"])
@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_what_the_server_asks_for_again_is_asked_for_again(
    postgres_url: str, code: str, trigger: str
) -> None:
    async with await PostgresStore.open(postgres_url) as store:
        await refuses(postgres_url, code, times=3, trigger=trigger)
        session = store.payee._session._connection

        assert await attempts(store, [BAD, "good"]) == []
        assert await store.payee.read_cursor(BAD) == 7
        assert store.payee._session._connection is session


@pytest.mark.parametrize("code", ["25006", "XX000", "42P01"])
async def test_a_server_that_is_another_by_now_is_asked_in_a_new_session(
    postgres_url: str, code: str
) -> None:
    async with await PostgresStore.open(postgres_url) as store:
        await refuses(postgres_url, code, times=1)
        session = store.payee._session._connection

        assert await attempts(store, [BAD, "good"]) == []
        assert await store.payee.read_cursor(BAD) == 7
        assert store.payee._session._connection is not session


async def test_a_commit_that_the_server_cannot_tell_of_is_looked_up(
    postgres_url: str,
) -> None:
    """Only a new session knows whether it was saved; then it is decided again."""
    async with await PostgresStore.open(postgres_url) as store:
        await refuses(postgres_url, "40003", times=1, trigger=DEFERRED)
        session = store.payee._session._connection

        assert await attempts(store, [BAD, "good"]) == []
        assert await store.payee.read_cursor(BAD) == 7
        assert store.payee._session._connection is not session


async def test_an_amount_that_overflows_its_column_fails_its_channel_alone(
    postgres_url: str,
) -> None:
    small, large = payee_record(1, balance=99), payee_record(2, balance=10**6)
    async with await PostgresStore.open(postgres_url) as store:
        await an_operator_does(
            postgres_url,
            "ALTER TABLE payee_channels ALTER COLUMN balance TYPE NUMERIC(5,0)",
        )
        session = store.payee._session._connection
        saved, refused = await asyncio.gather(
            *(store.payee.update(r.channel, is_put(r)) for r in (small, large)),
            return_exceptions=True,
        )

        assert saved is None
        assert isinstance(refused, StoreUnavailable)
        assert "nothing was saved" in str(refused)
        assert await store.payee.read(small.channel) == small
        assert await store.payee.read(channel(2)) is None
        assert store.payee._session._connection is session


async def test_a_refused_step_may_be_decided_again_later(postgres_url: str) -> None:
    record = payee_record(balance=10**6)
    async with await PostgresStore.open(postgres_url) as store:
        widths = [
            f"ALTER TABLE payee_channels ALTER COLUMN balance TYPE NUMERIC({digits},0)"
            for digits in (5, 78)
        ]
        await an_operator_does(postgres_url, widths[0])
        with pytest.raises(StoreUnavailable):
            await store.payee.update(record.channel, is_put(record))
        await an_operator_does(postgres_url, widths[1])
        await store.payee.update(record.channel, is_put(replace(record)))

        assert await store.payee.read(record.channel) == record


async def test_a_query_that_fails_leaves_the_session_to_others(
    postgres_url: str,
) -> None:
    async with await PostgresStore.open(postgres_url) as store:
        session = store.payee._session._connection
        await an_operator_does(
            postgres_url,
            "CREATE RULE refused AS ON DELETE TO marks DO INSTEAD"
            " INSERT INTO cursors VALUES ('bad', 1 / 0, 0)",
        )
        with pytest.raises(StoreUnavailable):
            await store.payee.sweep_marks(now=1)

        await store.payee.write_cursor("good", 1)
        assert await store.payee.read_cursor("good") == 1
        assert store.payee._session._connection is session
