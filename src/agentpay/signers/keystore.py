"""
A key in an encrypted file: Web3 Secret Storage, version 3, as other wallets read it.

Source: ethereum.org, "Web3 Secret Storage Definition". AES-128-CTR under a key that
scrypt makes from the password; keccak-256 over half of that key and the ciphertext
tells a wrong password. PBKDF2 is read, and never written.
"""

import hmac
import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import Final, cast

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from agentpay.evm.hashing import keccak

_SCRYPT_N: Final = 2**17
"""With r = 8: 128 MiB and some tenths of a second for each password that is tried."""
_SCRYPT_MEMORY_MAX: Final = 2**30
_SCRYPT_P_MAX: Final = 16
_PBKDF2_ROUNDS_MAX: Final = 10_000_000


class WrongPassword(ValueError):
    """The file is a keystore, and this password does not open it."""


def encrypt(secret: bytes, *, password: str, address: str) -> dict[str, object]:
    """A keystore of a key, ready to be written as JSON."""
    salt, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    parameters = {"dklen": 32, "n": _SCRYPT_N, "r": 8, "p": 1, "salt": salt.hex()}
    made = _scrypt(parameters, password)
    ciphertext = _aes_ctr(made[:16], iv, secret)
    return {
        "version": 3,
        "id": str(uuid.uuid4()),
        "address": address.removeprefix("0x"),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": iv.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": parameters,
            "mac": keccak(made[16:32] + ciphertext).hex(),
        },
    }


def decrypt(keystore: object, *, password: str) -> bytes:
    """
    The key in a keystore.

    Raises:
        WrongPassword: The password does not open it.
        ValueError: It is no keystore that we read; the message says why.
    """
    file = _object(keystore, "it")
    if file.get("version") != 3:
        raise ValueError("it is not a keystore of version 3")
    crypto = _object(file.get("crypto", file.get("Crypto")), "crypto")
    if crypto.get("cipher") != "aes-128-ctr":
        raise ValueError("its cipher is not aes-128-ctr")
    iv = _bytes(_object(crypto.get("cipherparams"), "cipherparams"), "iv")
    ciphertext, mac = _bytes(crypto, "ciphertext"), _bytes(crypto, "mac")
    if len(iv) != 16:
        raise ValueError("its iv is not 16 bytes")
    made = _derive(crypto, password)
    if not hmac.compare_digest(keccak(made[16:32] + ciphertext), mac):
        raise WrongPassword("the password is wrong")
    return _aes_ctr(made[:16], iv, ciphertext)


def _derive(crypto: Mapping[str, object], password: str) -> bytes:
    parameters = _object(crypto.get("kdfparams"), "kdfparams")
    if parameters.get("dklen") != 32:
        raise ValueError("its derived key is not 32 bytes")
    match crypto.get("kdf"):
        case "scrypt":
            return _scrypt(parameters, password)
        case "pbkdf2":
            return _pbkdf2(parameters, password)
        case other:
            raise ValueError(f"its key is derived by {str(other)[:40]}")


def _scrypt(parameters: Mapping[str, object], password: str) -> bytes:
    n, r, p = (_count(parameters, name) for name in ("n", "r", "p"))
    if 128 * n * r > _SCRYPT_MEMORY_MAX or p > _SCRYPT_P_MAX:
        raise ValueError(f"its scrypt (n {n}, r {r}, p {p}) costs more than we spend")
    if n < 2 or n & (n - 1):
        raise ValueError(f"its scrypt has an n of {n}, which is no power of two")
    salt = _bytes(parameters, "salt")
    if n >= 2 ** (16 * r):
        # Old wallets wrote n 262144 with r 1, which RFC 7914 rules out and OpenSSL
        # refuses to do.
        return _lenient_scrypt(password, salt, n=n, r=r, p=p)
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(password.encode())


def _lenient_scrypt(password: str, salt: bytes, *, n: int, r: int, p: int) -> bytes:
    from Crypto.Protocol.KDF import scrypt

    make = cast("Callable[..., bytes]", scrypt)  # it takes bytes, and says str
    return make(password.encode(), salt, key_len=32, N=n, r=r, p=p)


def _pbkdf2(parameters: Mapping[str, object], password: str) -> bytes:
    rounds = _count(parameters, "c")
    if parameters.get("prf") != "hmac-sha256" or rounds > _PBKDF2_ROUNDS_MAX:
        raise ValueError(f"its pbkdf2 ({rounds} rounds) is not one that we do")
    salt = _bytes(parameters, "salt")
    made = PBKDF2HMAC(algorithm=SHA256(), length=32, salt=salt, iterations=rounds)
    return made.derive(password.encode())


def _aes_ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    stream = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return stream.update(data) + stream.finalize()


def _object(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")  # noqa: TRY004 - a bad value
    return cast("Mapping[str, object]", value)


def _bytes(where: Mapping[str, object], name: str) -> bytes:
    value = where.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is not hex")  # noqa: TRY004 - a bad value
    return bytes.fromhex(value.removeprefix("0x"))


def _count(where: Mapping[str, object], name: str) -> int:
    value = where.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is not a positive number")
    return value
