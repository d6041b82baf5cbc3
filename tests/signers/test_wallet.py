"""A wallet signs canonically, for the right chains, and never shows its key."""

import copy
import json
import logging
import os
import pickle
from pathlib import Path

import pytest
from coincurve import PrivateKey
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from agentpay import Wallet
from agentpay.errors import ConfigurationError, UnsafeKey
from agentpay.evm.signature import ORDER, recover
from agentpay.types import ChainId

LOCAL, BASE = ChainId(31337), ChainId(8453)
PUBLIC = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
"""The first key of Anvil, known to everybody."""
keys = st.integers(1, ORDER - 1).map(lambda n: n.to_bytes(32, "big"))


@given(keys, st.binary(min_size=32, max_size=32))
async def test_k3_a_signature_is_low_and_recovers_to_its_wallet(
    key: bytes, digest: bytes
) -> None:
    wallet = Wallet(key)
    signature = await wallet.sign_digest(digest, chain=BASE)

    assert len(signature) == 65
    assert signature[64] in (27, 28)
    assert int.from_bytes(signature[32:64], "big") <= ORDER // 2
    assert recover(digest, signature) == wallet.address
    assert await wallet.sign_digest(digest, chain=BASE) == signature


@given(keys)
def test_the_address_is_that_of_the_key(key: bytes) -> None:
    assert Wallet(key).address == Account.from_key(key).address.lower()
    assert (
        Wallet.from_key("0x" + key.hex()).address == Wallet.from_key(key.hex()).address
    )


@pytest.mark.parametrize(
    "text", ["", "0x", "0x1", "x" * 64, "00" * 32, "ff" * 32, "11" * 31, "11" * 33]
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Wallet.from_key(text)

    assert not text or len(text) < 4 or text not in str(refused.value)


async def test_c18_a_public_key_signs_for_local_chains_only() -> None:
    wallet = Wallet.from_key(PUBLIC)
    await wallet.sign_digest(bytes(32), chain=LOCAL)

    with pytest.raises(UnsafeKey):
        await wallet.sign_digest(bytes(32), chain=BASE)


async def test_c18_a_secret_depends_on_key_and_purpose_and_is_not_the_key() -> None:
    one, other = Wallet(b"\1" * 32), Wallet(b"\2" * 32)
    secrets = [
        await one.derive_secret(b"a"),
        await one.derive_secret(b"b"),
        await other.derive_secret(b"a"),
        b"\1" * 32,
    ]

    assert len(set(secrets)) == 4
    assert await one.derive_secret(b"a") == secrets[0]


def test_c18_a_key_is_not_shown_logged_or_pickled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = b"\x5a" * 32
    wallet = Wallet(key)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("t").warning("%s %r %s", wallet, wallet, {"w": wallet})

    assert key.hex() not in caplog.text
    assert repr(key)[2:-1] not in caplog.text
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(wallet)
    with pytest.raises(TypeError, match="pickled"):
        copy.copy(wallet)


def test_a_keystore_is_private_and_opens_with_its_password(tmp_path: Path) -> None:
    wallet, path = Wallet.create(), tmp_path / "key.json"
    wallet.save_keystore(path, password="correct horse")

    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["version"] == 3
    assert (
        Wallet.from_keystore(path, password="correct horse").address == wallet.address
    )
    with pytest.raises(ConfigurationError, match="password is wrong"):
        Wallet.from_keystore(path, password="wrong")


def test_a_keystore_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("mine")
    with pytest.raises(ConfigurationError):
        Wallet.create().save_keystore(path, password="x")

    assert path.read_text() == "mine"


def test_a_keystore_needs_a_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Wallet.create().save_keystore(tmp_path / "key.json", password="")

    assert not os.listdir(tmp_path)  # noqa: PTH208 - names are enough


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"version": 3}', "\x00"])
def test_a_file_that_is_no_keystore_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError):
        Wallet.from_keystore(path, password="x")


def test_a_keystore_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Wallet.from_keystore(tmp_path / "none.json", password="x")


def test_two_new_wallets_differ() -> None:
    assert Wallet.create().address != Wallet.create().address
    assert PrivateKey(Wallet(b"\1" * 32).gas_key()).secret == b"\1" * 32
