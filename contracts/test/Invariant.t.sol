// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Handler} from "./Handler.sol";
import {Fixture} from "./Fixture.sol";

/// @title What must hold after any sequence of calls by anyone
/// @dev The handler makes the calls and keeps its own books; here they are compared.
contract InvariantTest is Fixture {
    Handler private handler;

    function setUp() public override {
        super.setUp();
        handler = new Handler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_escrow_is_exactly_what_is_owed() external view {
        for (uint256 t = 0; t < handler.TOKENS(); ++t) {
            uint256 owed = 0;
            for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
                IX402BatchSettlement.ChannelConfig memory channel = handler.channelOf(c);
                if (channel.token != handler.tokens(t)) continue;
                (uint128 balance, uint128 claimed) = settlement.channels(handler.ids(c));
                owed += balance - claimed;
            }
            for (uint256 r = 0; r < handler.RECEIVERS(); ++r) {
                (uint128 total, uint128 settled) =
                    settlement.receivers(handler.receiverOf(r), handler.tokens(t));
                owed += total - settled;
            }
            equal(handler.escrowed(handler.tokens(t)), owed, "escrow");
        }
    }

    function invariant_k2_claimed_never_exceeds_balance() external view {
        for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
            (uint128 balance, uint128 claimed) = settlement.channels(handler.ids(c));
            atMost(claimed, balance, "claimed above balance");
        }
    }

    function invariant_channels_are_what_was_done_to_them() external view {
        for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
            bytes32 id = handler.ids(c);
            (uint128 balance, uint128 claimed) = settlement.channels(id);
            equal(claimed, handler.claimed(c), "claimed is the highest voucher claimed");
            equal(balance, handler.deposited(c) - handler.returned(c), "balance");
            equal(settlement.refundNonce(id), handler.refunds(c), "one nonce per refund");
        }
    }

    function invariant_receivers_get_no_more_than_vouchers_allow() external view {
        for (uint256 r = 0; r < handler.RECEIVERS(); ++r) {
            for (uint256 t = 0; t < handler.TOKENS(); ++t) {
                address asset = handler.tokens(t);
                address to = handler.receiverOf(r);
                uint256 allowed = 0;
                for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
                    IX402BatchSettlement.ChannelConfig memory channel = handler.channelOf(c);
                    if (channel.token == asset && channel.receiver == to) {
                        allowed += handler.claimed(c);
                    }
                }
                (uint128 total, uint128 settled) = settlement.receivers(to, asset);
                equal(total, allowed, "credited what was claimed");
                atMost(settled, total, "settled above claimed");
                equal(handler.held(asset, to), settled, "received what was settled");
            }
        }
    }

    function invariant_payers_get_back_no_more_than_they_put_in() external view {
        for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
            atMost(
                handler.returned(c) + handler.claimed(c),
                handler.deposited(c),
                "returned and claimed above deposited"
            );
        }
    }

    function invariant_nothing_went_backwards() external view {
        ensure(!handler.wentBackwards(), "a total or a nonce decreased");
    }

    function invariant_nobody_was_let_in_who_should_not() external view {
        equal(handler.wronglyAllowed(), 0, "calls allowed to the wrong party");
    }

    function invariant_collector_keeps_nothing() external view {
        for (uint256 t = 0; t < handler.TOKENS(); ++t) {
            equal(handler.held(handler.tokens(t), collector), 0, "kept by the collector");
        }
    }
}
