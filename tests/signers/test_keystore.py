"""Keystores are those of other wallets, both ways, and cost no more than we say."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from agentpay import Wallet
from agentpay.errors import ConfigurationError
from agentpay.evm.signature import recover
from agentpay.signers.keystore import WrongPassword, decrypt, encrypt
from agentpay.types import ChainId

# The two test vectors of the Web3 Secret Storage Definition.
SECRET = bytes.fromhex(
    "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
)
BY_PBKDF2: dict[str, Any] = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": (
            "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46"
        ),
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}
BY_SCRYPT: dict[str, Any] = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext": (
            "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c"
        ),
        "kdf": "scrypt",
        "kdfparams": {
            "dklen": 32,
            "n": 262144,
            "r": 1,
            "p": 8,
            "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
        },
        "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}


@pytest.mark.parametrize("keystore", [BY_PBKDF2, BY_SCRYPT])
def test_a_keystore_of_the_definition_opens(keystore: dict[str, Any]) -> None:
    assert decrypt(keystore, password="testpassword") == SECRET
    with pytest.raises(WrongPassword):
        decrypt(keystore, password="testpassworD")


@pytest.mark.parametrize("password", ["correct horse", "", "pässwörd \U0001f511"])
def test_eth_account_opens_ours_and_we_open_theirs(
    tmp_path: Path, password: str
) -> None:
    wallet, path = Wallet.create(), tmp_path / "theirs.json"
    secret = wallet.gas_key()
    ours = encrypt(secret, password=password, address=wallet.address)
    theirs = Account.encrypt(secret, password)
    path.write_text(json.dumps(theirs))

    assert bytes(Account.decrypt(ours, password)) == secret
    assert Wallet.from_keystore(path, password=password).address == wallet.address
    assert ours["address"] == theirs["address"].lower()


def test_two_keystores_of_one_key_have_nothing_in_common() -> None:
    one, two = (encrypt(SECRET, password="x", address="0x") for _ in range(2))

    assert one["id"] != two["id"]
    first, second = str(one["crypto"]), str(two["crypto"])
    assert SECRET.hex() not in first + second
    for field in ("ciphertext", "mac"):
        assert one["crypto"][field] != two["crypto"][field]  # type: ignore[index]


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "another version": lambda k: k.update(version=4),
    "no crypto": lambda k: k.pop("crypto"),
    "a list": lambda k: k.update(crypto=[]),
    "another cipher": lambda k: k["crypto"].update(cipher="aes-256-cbc"),
    "no iv": lambda k: k["crypto"].update(cipherparams={}),
    "a short iv": lambda k: k["crypto"]["cipherparams"].update(iv="00"),
    "text in hex": lambda k: k["crypto"].update(ciphertext="zz"),
    "another derivation": lambda k: k["crypto"].update(kdf="argon2"),
    "no parameters": lambda k: k["crypto"].update(kdfparams=None),
    "a short key": lambda k: k["crypto"]["kdfparams"].update(dklen=16),
    "a memory bomb": lambda k: k["crypto"]["kdfparams"].update(n=2**40),
    "a wide bomb": lambda k: k["crypto"]["kdfparams"].update(r=2**20),
    "a time bomb": lambda k: k["crypto"]["kdfparams"].update(p=10**9),
    "not a power of two": lambda k: k["crypto"]["kdfparams"].update(n=1000),
    "no rounds": lambda k: k["crypto"]["kdfparams"].update(n=0),
    "true rounds": lambda k: k["crypto"]["kdfparams"].update(n=True),
    "a text of rounds": lambda k: k["crypto"]["kdfparams"].update(n="2"),
    "another mac": lambda k: k["crypto"].update(mac="00" * 32),
    "an empty mac": lambda k: k["crypto"].update(mac=""),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_no_keystore_is_refused_and_named(tmp_path: Path, name: str) -> None:
    keystore, path = copy.deepcopy(BY_SCRYPT), tmp_path / "key.json"
    SPOILT[name](keystore)
    path.write_text(json.dumps(keystore))

    with pytest.raises(ConfigurationError, match=r"key\.json"):
        Wallet.from_keystore(path, password="testpassword")


def test_pbkdf2_without_end_is_refused() -> None:
    keystore = copy.deepcopy(BY_PBKDF2)
    keystore["crypto"]["kdfparams"]["c"] = 10**12

    with pytest.raises(ValueError, match="rounds"):
        decrypt(keystore, password="testpassword")


def test_a_keystore_that_names_another_account_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    keystore = encrypt(SECRET, password="x", address=Wallet.create().address)
    path.write_text(json.dumps(keystore))

    with pytest.raises(ConfigurationError, match="it says"):
        Wallet.from_keystore(path, password="x")


def test_a_keystore_loads_no_eth_account(tmp_path: Path) -> None:
    program = f"""
import sys
from agentpay import Wallet
wallet, path = Wallet.create(), {str(tmp_path / "key.json")!r}
wallet.save_keystore(path, password="x")
assert Wallet.from_keystore(path, password="x").address == wallet.address
print("eth_account" in sys.modules)
"""
    told = subprocess.run(  # noqa: S603 - our own interpreter, our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert told == "False\n"


async def test_c18_a_voucher_key_is_made_again_and_does_not_lead_back() -> None:
    wallet, other = Wallet(b"\1" * 32), Wallet(b"\2" * 32)
    made = [wallet.voucher_key(n) for n in range(4)] + [other.voucher_key()]
    key = wallet.voucher_key()

    assert len({wallet.address, *(k.address for k in made)}) == 6
    assert key.address == made[0].address
    signature = await key.sign_digest(bytes(32), chain=ChainId(1))
    assert recover(bytes(32), signature) == key.address
    assert await key.derive_secret(b"a") != await wallet.derive_secret(b"a")
