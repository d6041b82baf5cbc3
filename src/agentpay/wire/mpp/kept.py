"""
Charges that were served before they were settled, as text, to be settled from it.
"""

from typing import Any

from agentpay.evm.charge_permit import ChargePermit, Part
from agentpay.types import Address, Asset, Hash32
from agentpay.wire.headers import JsonObject


def kept_charge(permit: ChargePermit) -> JsonObject:
    """A charge as its payer signed it, to be read by `read_kept_charge`."""
    return {
        "payer": str(permit.payer),
        "spender": str(permit.spender),
        "parts": [
            {"to": str(part.to), "amount": part.amount, "permitted": part.permitted}
            for part in permit.parts
        ],
        "nonce": permit.nonce,
        "deadline": permit.deadline,
        "challengeHash": str(permit.challenge_hash),
        "externalId": permit.external_id,
        "signature": permit.signature.hex(),
        "witnessType": permit.witness_type,
    }


def read_kept_charge(words: dict[str, Any], asset: Asset) -> ChargePermit:
    """A charge of `kept_charge`; it is our own writing, so it is not doubted."""
    return ChargePermit(
        asset=asset,
        payer=Address(words["payer"]),
        spender=Address(words["spender"]),
        parts=tuple(
            Part(
                to=Address(part["to"]),
                amount=part["amount"],
                permitted=part["permitted"],
            )
            for part in words["parts"]
        ),
        nonce=words["nonce"],
        deadline=words["deadline"],
        challenge_hash=Hash32(words["challengeHash"]),
        external_id=words["externalId"],
        signature=bytes.fromhex(words["signature"]),
        witness_type=words["witnessType"],
    )
