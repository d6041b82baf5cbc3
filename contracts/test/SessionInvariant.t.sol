// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEVMPaymentChannel} from "../src/interfaces/IEVMPaymentChannel.sol";
import {SessionFixture} from "./SessionFixture.sol";
import {SessionHandler} from "./SessionHandler.sol";

/// @title What must hold of sessions after any sequence of calls by anyone
/// @dev The handler makes the calls and keeps its own books; here they are compared.
contract SessionInvariantTest is SessionFixture {
    SessionHandler private handler;

    function setUp() public override {
        super.setUp();
        handler = new SessionHandler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_escrow_is_exactly_what_is_owed() external view {
        for (uint256 t = 0; t < handler.TOKENS(); ++t) {
            uint256 owed = 0;
            for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
                IEVMPaymentChannel.Channel memory channel = escrow.getChannel(handler.ids(c));
                bool counts = channel.token == handler.tokens(t) && !channel.finalized;
                if (counts) owed += channel.deposit - channel.settled;
            }
            equal(handler.held(handler.tokens(t), address(escrow)), owed, "escrow");
        }
    }

    function invariant_k2_settled_never_exceeds_the_deposit() external view {
        for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
            IEVMPaymentChannel.Channel memory channel = escrow.getChannel(handler.ids(c));
            atMost(channel.settled, channel.deposit, "settled above the deposit");
        }
    }

    function invariant_channels_are_what_was_done_to_them() external view {
        for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
            has(
                handler.ids(c),
                uint128(handler.deposited(c)),
                uint128(handler.settled(c)),
                handler.closed(c)
            );
        }
    }

    function invariant_terms_are_those_that_were_opened() external view {
        for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
            if (handler.deposited(c) == 0) continue;
            IEVMPaymentChannel.Channel memory channel = escrow.getChannel(handler.ids(c));
            equal(channel.payer, handler.payerOf(c), "payer");
            equal(channel.payee, handler.payeeOf(c), "payee");
            equal(channel.token, handler.tokenOf(c), "token");
            equal(channel.authorizedSigner, handler.signerOf(c), "signer");
        }
    }

    /// @dev Payees start with nothing, and nobody else sends them anything.
    function invariant_payees_get_exactly_what_vouchers_allowed() external view {
        for (uint256 t = 0; t < handler.TOKENS(); ++t) {
            for (uint256 p = 0; p < 2; ++p) {
                address to = handler.payeeOf(2 * p);
                uint256 allowed = 0;
                for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
                    bool counts =
                        handler.tokenOf(c) == handler.tokens(t) && handler.payeeOf(c) == to;
                    if (counts) allowed += handler.settled(c);
                }
                equal(handler.held(handler.tokens(t), to), allowed, "received");
            }
        }
    }

    function invariant_nobody_gets_back_more_than_was_put_in() external view {
        for (uint256 c = 0; c < handler.CHANNELS(); ++c) {
            uint256 out = handler.returned(c) + handler.settled(c);
            atMost(out, handler.deposited(c), "returned and settled above the deposit");
        }
    }

    function invariant_k6_nothing_went_backwards_and_closed_is_closed() external view {
        ensure(!handler.wentBackwards(), "a total decreased, or a closed channel changed");
    }

    function invariant_nobody_was_let_in_who_should_not() external view {
        equal(handler.wronglyAllowed(), 0, "calls allowed to the wrong party");
    }
}
