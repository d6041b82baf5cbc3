// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IEVMPaymentChannel} from "../src/interfaces/IEVMPaymentChannel.sol";
import {ReentrantToken} from "../src/tokens/ReentrantToken.sol";
import {SessionFixture} from "./SessionFixture.sol";

/// @title A token that calls back into the escrow while it moves (K8)
contract SessionReentrancyTest is SessionFixture {
    ReentrantToken private attacker;
    uint256 private number = 100;

    function setUp() public override {
        super.setUp();
        attacker = ReentrantToken(deploy("ReentrantToken"));
    }

    function test_k8_no_entry_point_is_open_while_a_channel_opens() external {
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            give(address(attacker), payer, 1000);
            attacker.arm(address(escrow), calls[i], i % 2 == 0, false);
            vm.prank(payer);
            escrow.open(payee, address(attacker), 1000, bytes32(++number), voucherSigner);
            _wasRefused(i + 1);
        }
    }

    function test_k8_no_entry_point_is_open_while_a_relayed_opening_runs() external {
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            if (i % 2 == 0) attacker.mint(payer, 1000);
            else giveByPermit2(address(attacker), payer, 1000);
            attacker.arm(address(escrow), calls[i], i % 3 == 0, false);
            if (i % 2 == 0) openByAuthorization(address(attacker), ++number, 1000);
            else openByPermit2(address(attacker), ++number, 1000, i);
            _wasRefused(i + 1);
        }
    }

    function test_k8_no_entry_point_is_open_during_a_top_up() external {
        bytes32 id = opened(address(attacker), ++number, 1000);
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            give(address(attacker), payer, 10);
            if (i % 3 == 2) giveByPermit2(address(attacker), payer, 10);
            attacker.arm(address(escrow), calls[i], i % 2 == 0, false);
            if (i % 3 == 0) {
                vm.prank(payer);
                escrow.topUp(id, 10);
            }
            if (i % 3 == 1) topUpByAuthorization(id, 10, PAYER_KEY, i);
            if (i % 3 == 2) topUpByPermit2(id, 10, PAYER_KEY, 1000 + i);
            _wasRefused(i + 1);
        }
        has(id, uint128(1000 + 10 * calls.length), 0, false);
    }

    function test_k8_no_entry_point_is_open_during_a_settlement() external {
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            bytes32 id = opened(address(attacker), ++number, 1000);
            bytes memory order = settleOrder(id, 10, i);
            bytes memory signed = voucher(id, 10);
            attacker.arm(address(escrow), calls[i], i % 2 == 0, false);
            if (i % 3 == 0) settleAsPayee(id, 10);
            else escrow.settleWithAuthorization(id, 10, i, DEADLINE, order, signed);
            _wasRefused(i + 1);
            equal(attacker.balanceOf(payee), 10 * (i + 1), "paid once");
        }
    }

    function test_k8_no_entry_point_is_open_while_a_channel_closes() external {
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            bytes32 id = opened(address(attacker), ++number, 1000);
            bytes memory order = closeOrder(id, 10, i);
            bytes memory signed = voucher(id, 10);
            attacker.arm(address(escrow), calls[i], i % 2 == 0, false);
            if (i % 3 == 0) closeAsPayee(id, 10);
            else escrow.closeWithAuthorization(id, 10, i, DEADLINE, order, signed);
            _wasRefused(i + 1);
            equal(attacker.balanceOf(payee), 10 * (i + 1), "paid once");
        }
    }

    function test_k8_no_entry_point_is_open_during_a_withdrawal() external {
        bytes[] memory calls = _entryPoints();
        for (uint256 i = 0; i < calls.length; ++i) {
            bytes32 id = opened(address(attacker), ++number, 1000);
            requestCloseAsPayer(id);
            pass(900);
            uint256 before = attacker.balanceOf(payer);
            attacker.arm(address(escrow), calls[i], i % 2 == 0, false);
            withdrawAsPayer(id);
            _wasRefused(i + 1);
            equal(attacker.balanceOf(payer), before + 1000, "paid once");
        }
    }

    function test_k8_books_are_closed_before_tokens_leave() external {
        bytes32 id = opened(address(attacker), 1, 1000);
        bytes memory look = abi.encodeCall(escrow.getChannel, (id));
        attacker.arm(address(escrow), look, true, true);
        settleAsPayee(id, 300);
        equal(_seen().settled, 300, "settled");
        attacker.arm(address(escrow), look, true, true);
        closeAsPayee(id, 400);
        equal(_seen().settled, 400, "settled");
        ensure(_seen().finalized, "finalized");
    }

    function _seen() private view returns (IEVMPaymentChannel.Channel memory) {
        return abi.decode(attacker.answer(), (IEVMPaymentChannel.Channel));
    }

    /// @dev Each would succeed, or fail for another reason, if it were let in.
    function _entryPoints() private returns (bytes[] memory calls) {
        address t = address(attacker);
        bytes32 id = opened(t, 7, 1000);
        (bytes memory settling, bytes memory closing) =
            (settleOrder(id, 500, 1), closeOrder(id, 500, 2));
        bytes memory signed = voucher(id, 500);
        bytes32 nonce = topUpNonce(id, 5, payer, 0);
        calls = new bytes[](12);
        calls[0] = abi.encodeCall(escrow.open, (payee, t, 5, bytes32(0), voucherSigner));
        calls[1] = _relayedOpening(t);
        calls[2] = abi.encodeCall(
            escrow.openWithPermit2, (payee, t, 5, 0, voucherSigner, payer, 0, DEADLINE, "")
        );
        calls[3] = abi.encodeCall(escrow.topUp, (id, 5));
        calls[4] = abi.encodeCall(
            escrow.topUpWithAuthorization, (id, 5, payer, 0, 0, DEADLINE, nonce, "")
        );
        calls[5] = abi.encodeCall(escrow.topUpWithPermit2, (id, 5, payer, 0, DEADLINE, ""));
        calls[6] = abi.encodeCall(escrow.settle, (id, 500, signed));
        calls[7] = abi.encodeCall(
            escrow.settleWithAuthorization, (id, 500, 1, DEADLINE, settling, signed)
        );
        calls[8] = abi.encodeCall(escrow.close, (id, 500, signed));
        calls[9] =
            abi.encodeCall(escrow.closeWithAuthorization, (id, 500, 2, DEADLINE, closing, signed));
        calls[10] = abi.encodeCall(escrow.requestClose, (id));
        calls[11] = abi.encodeCall(escrow.withdraw, (id));
    }

    function _relayedOpening(address t) private view returns (bytes memory) {
        bytes32 nonce = openNonce(t, 0);
        return abi.encodeCall(
            escrow.openWithAuthorization,
            (payee, t, 5, 0, voucherSigner, payer, 0, DEADLINE, nonce, "")
        );
    }

    function _wasRefused(uint256 calls) private view {
        equal(attacker.calls(), calls, "called back");
        ensure(!attacker.succeeded(), "let in");
        equal(
            bytes32(attacker.answer()),
            bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector),
            "reason"
        );
    }
}
