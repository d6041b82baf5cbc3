"""What was served before it was settled can be settled from what is kept of it."""

from dataclasses import replace

from hypothesis import given

from agentpay.evm.charge_permit import WITNESS_TYPE_ENCODED, ChargePermit
from agentpay.wire.x402_transfers import kept_transfer, read_kept
from tests.evm.test_charge_permit import permits


@given(permits())
def test_a_charge_is_read_as_it_was_kept(permit: ChargePermit) -> None:
    assert read_kept(kept_transfer(permit), permit.asset) == permit


@given(permits())
def test_which_type_was_signed_is_kept_too(permit: ChargePermit) -> None:
    encoded = replace(permit, witness_type=WITNESS_TYPE_ENCODED)

    assert read_kept(kept_transfer(encoded), permit.asset) == encoded
