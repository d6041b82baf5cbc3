"""
Requests and payloads of `evm/charge` and `evm/session`, written.

Source: draft-evm-charge-00; draft-evm-session-00, "Encoding Conventions": requests have
addresses in EIP-55's mixed case, payloads have everything in lower case.
"""

from collections.abc import Sequence
from functools import lru_cache

from agentpay.evm.addresses import PERMIT2
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.hashing import checksummed
from agentpay.types import ZERO_ADDRESS, Address, ChainId, Hash32
from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.parallel import KEY as PARALLEL

_mixed_case = lru_cache(maxsize=4096)(checksummed)


def charge_request(
    *,
    chain: ChainId,
    currency: Address,
    recipient: Address,
    amount: int,
    credential_types: Sequence[str],
    decimals: int,
    external_id: str | None = None,
    spender: Address | None = None,
    splits: Sequence[tuple[Address, int, str]] = (),
) -> JsonObject:
    """
    What a server asks for, once; with a `spender`, by Permit2 too. Of each of the
    `splits`: who gets it, how much, and what for.
    """
    types: list[JsonValue] = [*credential_types]
    details: JsonObject = {
        "chainId": chain,
        "credentialTypes": types,
        "decimals": decimals,
    }
    request: JsonObject = {
        "amount": str(amount),
        "currency": _mixed_case(currency),
        "recipient": _mixed_case(recipient),
        "methodDetails": details,
    }
    if spender is not None:
        details["permit2Address"] = _mixed_case(PERMIT2)
        details["spender"] = _mixed_case(spender)
    if splits:
        details["splits"] = [
            {
                "recipient": _mixed_case(to),
                "amount": str(share),
                **({"memo": memo} if memo else {}),
            }
            for to, share, memo in splits
        ]
    if external_id is not None:
        request["externalId"] = external_id
    return request


def session_request(
    *,
    chain: ChainId,
    currency: Address,
    recipient: Address,
    escrow: Address,
    unit_price: int,
    unit_type: str,
    suggested_deposit: int,
    min_voucher_delta: int,
    fee_payer: bool,
    credential_types: Sequence[str],
    channel: Hash32 | None = None,
    parallel: JsonObject | None = None,
) -> JsonObject:
    """
    What a server asks for each unit.

    `parallel` says that it serves many at once: our extension (`wire.parallel`).
    """
    types: list[JsonValue] = [*credential_types]
    details: JsonObject = {
        "chainId": chain,
        "escrowContract": _mixed_case(escrow),
        "minVoucherDelta": str(min_voucher_delta),
        "feePayer": fee_payer,
        "credentialTypes": types,
    }
    if channel is not None:
        details["channelId"] = str(channel)
    if parallel is not None:
        details[PARALLEL] = parallel
    return {
        "amount": str(unit_price),
        "unitType": unit_type,
        "suggestedDeposit": str(suggested_deposit),
        "currency": _mixed_case(currency),
        "recipient": _mixed_case(recipient),
        "methodDetails": details,
    }


def authorization_fields(authorization: Authorization) -> JsonObject:
    """An EIP-3009 authorization."""
    return {
        "from": str(authorization.payer),
        "to": str(authorization.to),
        "value": str(authorization.value),
        "validAfter": str(authorization.valid_after),
        "validBefore": str(authorization.valid_before),
        "nonce": str(authorization.nonce),
    }


def authorization_payload(authorization: Authorization, signature: bytes) -> JsonObject:
    """`evm/charge` by EIP-3009."""
    return {
        "type": "authorization",
        **authorization_fields(authorization),
        "signature": _hex(signature),
    }


def hash_payload(transaction: Hash32) -> JsonObject:
    """`evm/charge` by a transfer that was sent."""
    return {"type": "hash", "hash": str(transaction)}


def transaction_payload(raw: bytes) -> JsonObject:
    """`evm/charge` by a transaction for the server to broadcast."""
    return {"type": "transaction", "signature": _hex(raw)}


def permit2_payload(
    *,
    token: Address,
    transfers: Sequence[tuple[Address, int]],
    nonce: int,
    deadline: int,
    challenge_hash: Hash32,
    external_id: str,
    signature: bytes,
) -> JsonObject:
    """`evm/charge` by Permit2: the primary transfer, then the splits in their order."""
    permitted: list[JsonValue] = [
        {"token": str(token), "amount": str(amount)} for _, amount in transfers
    ]
    details: list[JsonValue] = [
        {"to": str(to), "requestedAmount": str(amount)} for to, amount in transfers
    ]
    permit: JsonObject = {
        "permitted": permitted,
        "nonce": str(nonce),
        "deadline": str(deadline),
    }
    witness: JsonObject = {"challengeHash": str(challenge_hash)}
    if external_id:
        witness["externalId"] = external_id
    return {
        "type": "permit2",
        "permit": permit,
        "transferDetails": details,
        "witness": witness,
        "signature": _hex(signature),
    }


def open_permit(
    *,
    payer: Address,
    token: Address,
    amount: int,
    nonce: int,
    deadline: int,
    payee: Address,
    salt: Hash32,
    authorized_signer: Address = ZERO_ADDRESS,
) -> JsonObject:
    """A Permit2 authorization to open a channel."""
    witness: JsonObject = {
        "payee": str(payee),
        "salt": str(salt),
        "authorizedSigner": str(authorized_signer),
    }
    permit = _permit(payer, token, amount, nonce, deadline)
    permit["witness"] = witness
    return permit


def top_up_permit(
    *,
    payer: Address,
    token: Address,
    amount: int,
    nonce: int,
    deadline: int,
    channel: Hash32,
) -> JsonObject:
    """A Permit2 authorization to fill up a channel."""
    witness: JsonObject = {"channelId": str(channel)}
    permit = _permit(payer, token, amount, nonce, deadline)
    permit["witness"] = witness
    return permit


def _permit(
    payer: Address, token: Address, amount: int, nonce: int, deadline: int
) -> JsonObject:
    permitted: JsonObject = {"token": str(token), "amount": str(amount)}
    return {
        "from": str(payer),
        "permitted": permitted,
        "nonce": str(nonce),
        "deadline": str(deadline),
    }


def open_by_hash(
    *,
    channel: Hash32,
    transaction: Hash32,
    cumulative: int,
    voucher_signature: bytes,
    salt: Hash32,
    authorized_signer: Address = ZERO_ADDRESS,
) -> JsonObject:
    """`open`: a channel that the client has opened."""
    return {
        "action": "open",
        "type": "hash",
        "channelId": str(channel),
        "hash": str(transaction),
        "cumulativeAmount": str(cumulative),
        "signature": _hex(voucher_signature),
        **_terms(salt, authorized_signer),
    }


def open_by_server(
    kind: str,
    *,
    channel: Hash32,
    authorization: JsonObject,
    signature: bytes,
    cumulative: int,
    voucher_signature: bytes,
    salt: Hash32,
    authorized_signer: Address = ZERO_ADDRESS,
) -> JsonObject:
    """`open` of kind `authorization` or `permit2`: the server sends it."""
    return {
        "action": "open",
        "type": kind,
        "channelId": str(channel),
        "authorization": authorization,
        "signature": _hex(signature),
        "cumulativeAmount": str(cumulative),
        "voucherSignature": _hex(voucher_signature),
        **_terms(salt, authorized_signer),
    }


def top_up_by_hash(channel: Hash32, transaction: Hash32, amount: int) -> JsonObject:
    """`topUp`: a deposit that the client has made."""
    return {
        "action": "topUp",
        "type": "hash",
        "channelId": str(channel),
        "hash": str(transaction),
        "additionalDeposit": str(amount),
    }


def top_up_by_server(
    kind: str,
    *,
    channel: Hash32,
    amount: int,
    authorization: JsonObject,
    signature: bytes,
    salt: Hash32 | None,
) -> JsonObject:
    """`topUp` of kind `authorization` (with a salt) or `permit2` (without)."""
    payload: JsonObject = {
        "action": "topUp",
        "type": kind,
        "channelId": str(channel),
        "authorization": authorization,
        "signature": _hex(signature),
        "additionalDeposit": str(amount),
    }
    if salt is not None:
        payload["salt"] = str(salt)
    return payload


def voucher_payload(
    channel: Hash32,
    cumulative: int,
    signature: bytes,
    deposit: JsonObject | None = None,
    *,
    raises: tuple[int, int] | None = None,
) -> JsonObject:
    """
    `voucher`: a cumulative amount, and perhaps the deposit that covers it.

    With `raises`, it is for a running request, named by the amount that this came with,
    which may cost so much from now on.
    """
    payload: JsonObject = {
        "action": "voucher",
        "channelId": str(channel),
        "cumulativeAmount": str(cumulative),
        "signature": _hex(signature),
    }
    if deposit is not None:
        payload["deposit"] = deposit
    if raises is not None:
        request, maximum = raises
        payload["raises"] = {"cumulative": str(request), "maximum": str(maximum)}
    return payload


def open_deposit(
    kind: str,
    *,
    authorization: JsonObject,
    signature: bytes,
    salt: Hash32,
    authorized_signer: Address = ZERO_ADDRESS,
) -> JsonObject:
    """The deposit of a voucher that opens its channel."""
    return {
        "action": "open",
        "type": kind,
        "authorization": authorization,
        "signature": _hex(signature),
        **_terms(salt, authorized_signer),
    }


def top_up_deposit(
    kind: str, *, authorization: JsonObject, signature: bytes, salt: Hash32 | None
) -> JsonObject:
    """The deposit of a voucher that fills up its channel."""
    deposit: JsonObject = {
        "action": "topUp",
        "type": kind,
        "authorization": authorization,
        "signature": _hex(signature),
    }
    if salt is not None:
        deposit["salt"] = str(salt)
    return deposit


def close_payload(channel: Hash32, cumulative: int, signature: bytes) -> JsonObject:
    """`close`: the last cumulative amount."""
    return {
        "action": "close",
        "channelId": str(channel),
        "cumulativeAmount": str(cumulative),
        "signature": _hex(signature),
    }


def need_voucher(
    channel: Hash32, *, required: int, accepted: int, deposit: int
) -> JsonObject:
    """The data of `payment-need-voucher`."""
    return {
        "channelId": str(channel),
        "requiredCumulative": str(required),
        "acceptedCumulative": str(accepted),
        "deposit": str(deposit),
    }


def _terms(salt: Hash32, authorized_signer: Address) -> JsonObject:
    terms: JsonObject = {"salt": str(salt)}
    if authorized_signer != ZERO_ADDRESS:
        terms["authorizedSigner"] = str(authorized_signer)
    return terms


def _hex(raw: bytes) -> str:
    return "0x" + raw.hex()
