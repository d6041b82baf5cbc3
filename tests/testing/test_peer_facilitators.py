"""What our facilitator does not list is found, and the command itself lacks nothing."""

import copy
from dataclasses import replace

from peer_facilitators import OurFacilitator, our_facilitator
from peer_parties import SCHEMES

from agentpay.testing.local_chain import LocalChain


async def test_the_command_lists_all_that_it_does_and_what_is_left_out_is_found(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with our_facilitator(chain) as ours:
        assert ours.lacks(chain) == []

    for kind in range(len(SCHEMES)):
        assert _without(ours, kind).lacks(chain) == [SCHEMES[kind]]
    for changed in ({"network": "eip155:1"}, {"scheme": "other"}):
        supported = copy.deepcopy(ours.supported)
        supported["kinds"] = [{**kind, **changed} for kind in supported["kinds"]]
        assert replace(ours, supported=supported).lacks(chain) == [*SCHEMES]
    supported = {**ours.supported, "signers": {"eip155:*": []}}
    assert replace(ours, supported=supported).lacks(chain) == ["signer"]


def _without(ours: OurFacilitator, kind: int) -> OurFacilitator:
    supported = copy.deepcopy(ours.supported)
    del supported["kinds"][kind]
    return replace(ours, supported=supported)
