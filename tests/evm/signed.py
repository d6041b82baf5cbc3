"""What several test modules draw, sign and compare: values, keys, eth-account, ABIs."""

from functools import lru_cache
from typing import Any

from eth_abi.abi import decode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import strategies as st

from agentpay.evm.artifacts import load_artifact
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.calls import Call
from agentpay.evm.eip2612 import Permit, SignedPermit
from agentpay.evm.permit2 import PermitDeposit, PermitTransfer
from agentpay.types import UINT40_MAX, UINT256_MAX, Address, Hash32

# JSON is what it is: `Any` stays in here.
Json = Any

WORDS = st.integers(0, UINT256_MAX)
ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
HASHES = st.binary(min_size=32, max_size=32).map(Hash32.of)
SIGNATURES = st.binary(max_size=200)
KEY = b"\x07" * 32

PERMITTED: Json = {
    "payer": ADDRESSES,
    "token": ADDRESSES,
    "amount": st.integers(1, 2**128 - 1),
    "nonce": WORDS,
    "deadline": WORDS,
}
PAYMENT: Json = {**PERMITTED, "to": ADDRESSES, "valid_after": WORDS}
EXACT = st.builds(PermitTransfer, **PAYMENT)
UPTO = st.builds(PermitTransfer, **PAYMENT, facilitator=ADDRESSES)
DEPOSITS = st.builds(PermitDeposit, **PERMITTED, channel=HASHES)


CONFIGS = st.builds(
    ChannelConfig,
    payer=ADDRESSES,
    payer_authorizer=ADDRESSES,
    receiver=ADDRESSES,
    receiver_authorizer=ADDRESSES,
    token=ADDRESSES,
    withdraw_delay=st.integers(0, UINT40_MAX),
    salt=HASHES,
)


def deposit_of(config: ChannelConfig, channel: Hash32) -> PermitDeposit:
    return PermitDeposit(
        payer=config.payer,
        token=config.token,
        amount=5,
        nonce=6,
        deadline=7,
        channel=channel,
    )


def sign(digest: bytes, key: bytes = KEY) -> bytes:
    return bytes(Account.unsafe_sign_hash(digest, key).signature)


def signed_permit(
    owner: Address, spender: Address, value: int, deadline: int
) -> SignedPermit:
    """Of the right form; whose it is does not matter here."""
    permit = Permit(
        owner=owner, spender=spender, value=value, nonce=3, deadline=deadline
    )
    return SignedPermit(permit=permit, signature=sign(b"\x11" * 32))


def their_digest(domain: Json, types: Json, message: Json) -> bytes:
    """The digest that eth-account signs."""
    signable = encode_typed_data(domain, types, message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


@lru_cache
def _functions(contract: str) -> dict[bytes, Json]:
    abi = load_artifact(contract).abi
    return {
        keccak(text=signature(entry))[:4]: entry
        for entry in abi
        if entry["type"] == "function"
    }


def signature(entry: Json) -> str:
    """How a function or an error of an ABI is hashed."""
    return f"{entry['name']}({','.join(map(_type, entry['inputs']))})"


def _type(field: Json) -> str:
    kind = str(field["type"])
    if not kind.startswith("tuple"):
        return kind
    inner = ",".join(map(_type, field["components"]))
    return f"({inner}){kind.removeprefix('tuple')}"


def understood(contract: str, call: Call) -> tuple[str, dict[str, Json]]:
    """What the compiled contract makes of a call: its function and the arguments."""
    entry = _functions(contract)[call.data[:4]]
    values = decode(list(map(_type, entry["inputs"])), call.data[4:])
    names = [field["name"] for field in entry["inputs"]]
    return entry["name"], dict(zip(names, values, strict=True))
