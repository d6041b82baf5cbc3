// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEVMPaymentChannel} from "../src/interfaces/IEVMPaymentChannel.sol";
import {SessionFixture} from "./SessionFixture.sol";

/// @title How a payer leaves whose payee is silent: request, grace period, withdrawal
contract SessionExitTest is SessionFixture {
    uint256 private constant GRACE = 15 minutes;

    function test_the_grace_period_is_what_the_draft_refers_to() external view {
        equal(escrow.CLOSE_GRACE_PERIOD(), GRACE, "grace period");
    }

    function test_a_payer_leaves_after_the_grace_period() external {
        bytes32 id = opened(1000);
        settleAsPayee(id, 300);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.CloseRequested(id, payer, payee, vm.getBlockTimestamp() + GRACE);
        requestCloseAsPayer(id);
        pass(GRACE);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.ChannelClosed(id, payer, payee, 300, 700);
        withdrawAsPayer(id);

        has(id, 1000, 300, true);
        equal(token.balanceOf(payer), 700, "the payer's tokens");
    }

    function test_k5_nothing_is_withdrawn_before_the_grace_period_is_over() external {
        bytes32 id = opened(1000);
        bytes4 reason = IEVMPaymentChannel.CloseNotReady.selector;
        _withdrawFails(id, reason);
        requestCloseAsPayer(id);
        _withdrawFails(id, reason);
        pass(GRACE - 1);
        _withdrawFails(id, reason);
        pass(1);
        withdrawAsPayer(id);
    }

    function test_k5_the_payee_settles_until_the_withdrawal_happens() external {
        bytes32 id = opened(1000);
        requestCloseAsPayer(id);
        settleAsPayee(id, 300);
        pass(GRACE * 10);
        settleAsPayee(id, 400);
        withdrawAsPayer(id);
        has(id, 1000, 400, true);
        equal(token.balanceOf(payee), 400, "the payee's tokens");
        equal(token.balanceOf(payer), 600, "the payer's tokens");
    }

    function test_k5_the_payee_closes_until_the_withdrawal_happens() external {
        bytes32 id = opened(1000);
        requestCloseAsPayer(id);
        pass(GRACE);
        closeAsPayee(id, 300);
        _withdrawFails(id, IEVMPaymentChannel.ChannelFinalized.selector);
        equal(token.balanceOf(payer), 700, "the payer's tokens");
    }

    function test_asking_again_does_not_start_anew() external {
        bytes32 id = opened(1000);
        requestCloseAsPayer(id);
        uint64 since = escrow.getChannel(id).closeRequestedAt;
        pass(GRACE - 1);
        vm.recordLogs();
        requestCloseAsPayer(id);
        equal(vm.getRecordedLogs().length, 0, "events");
        equal(escrow.getChannel(id).closeRequestedAt, since, "close requested");
        pass(1);
        withdrawAsPayer(id);
    }

    function test_only_the_payer_leaves() external {
        bytes32 id = opened(1000);
        bytes4 reason = IEVMPaymentChannel.NotPayer.selector;
        address[3] memory others = [payee, voucherSigner, stranger];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(reason);
            escrow.requestClose(id);
        }
        requestCloseAsPayer(id);
        pass(GRACE);
        for (uint256 i = 0; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(reason);
            escrow.withdraw(id);
        }
    }

    function test_nobody_leaves_what_is_not_there() external {
        bytes4 reason = IEVMPaymentChannel.ChannelNotFound.selector;
        vm.expectRevert(reason);
        escrow.requestClose(bytes32(0));
        vm.expectRevert(reason);
        escrow.withdraw(bytes32(0));
    }

    function test_k6_nobody_leaves_twice() external {
        bytes32 id = opened(1000);
        opened(address(token), 2, 1000); // whose tokens could be taken
        requestCloseAsPayer(id);
        pass(GRACE);
        withdrawAsPayer(id);
        bytes4 reason = IEVMPaymentChannel.ChannelFinalized.selector;
        _withdrawFails(id, reason);
        vm.prank(payer);
        vm.expectRevert(reason);
        escrow.requestClose(id);
        bytes32 closed = opened(address(token), 3, 1000);
        closeAsPayee(closed, 10);
        vm.prank(payer);
        vm.expectRevert(reason);
        escrow.requestClose(closed);
        equal(token.balanceOf(address(escrow)), 1000, "escrow");
    }

    function test_k6_a_top_up_by_the_payer_voids_its_request() external {
        bytes32 id = _leaving();
        give(address(token), payer, 10);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.TopUp(id, payer, payee, 10, 1010);
        vm.expectEmit(address(escrow));
        emit IEVMPaymentChannel.CloseRequestCancelled(id, payer, payee);
        vm.prank(payer);
        escrow.topUp(id, 10);
        _stays(id);
        id = _leaving(2);
        token.mint(payer, 10);
        topUpByAuthorization(id, 10, PAYER_KEY, 1);
        _stays(id);
        id = _leaving(3);
        giveByPermit2(address(token), payer, 10);
        topUpByPermit2(id, 10, PAYER_KEY, 1);
        _stays(id);
    }

    function test_k6_a_top_up_that_is_withheld_voids_nothing() external {
        bytes32 id = _leaving();
        token.mint(payer, 10);
        bytes32 nonce = topUpNonce(id, 10, payer, 0);
        bytes memory signed = authorized(address(token), PAYER_KEY, 10, nonce);
        withdrawAsPayer(id);
        vm.expectRevert(IEVMPaymentChannel.ChannelFinalized.selector);
        escrow.topUpWithAuthorization(id, 10, payer, 0, 0, DEADLINE, nonce, signed);
        equal(token.balanceOf(payer), 1010, "the payer's tokens");
    }

    function test_k6_a_top_up_that_fails_voids_nothing() external {
        bytes32 id = _leaving();
        bytes32 nonce = topUpNonce(id, 10, payer, 0);
        bytes memory signed = authorized(address(token), PAYER_KEY, 10, nonce);
        (bool success,) = address(escrow)
            .call(
                abi.encodeCall(
                    escrow.topUpWithAuthorization, (id, 10, payer, 0, 0, DEADLINE, nonce, signed)
                )
            );
        ensure(!success, "topped up without tokens");
        withdrawAsPayer(id);
    }

    function test_k6_another_ones_top_up_does_not_keep_the_payer() external {
        bytes32 id = _leaving();
        token.mint(stranger, 1);
        topUpByAuthorization(id, 1, STRANGER_KEY, 1);
        giveByPermit2(address(token), payee, 1);
        topUpByPermit2(id, 1, PAYEE_KEY, 1);
        has(id, 1002, 0, false);
        withdrawAsPayer(id);
        equal(token.balanceOf(payer), 1002, "the payer's tokens");
    }

    function test_another_one_can_add_tokens_but_gets_none_back() external {
        bytes32 id = opened(1000);
        token.mint(stranger, 500);
        topUpByAuthorization(id, 500, STRANGER_KEY, 1);
        closeAsPayee(id, 200);
        equal(token.balanceOf(payer), 1300, "the payer's tokens");
        equal(token.balanceOf(stranger), 0, "the stranger's tokens");
    }

    function testFuzz_k5_a_withdrawal_waits_from_the_last_request(uint32 first, uint32 second)
        external
    {
        bytes32 id = opened(1000);
        requestCloseAsPayer(id);
        pass(within(first, 0, 2 * GRACE));
        give(address(token), payer, 1);
        vm.prank(payer);
        escrow.topUp(id, 1);
        requestCloseAsPayer(id);
        second = uint32(within(second, 0, 2 * GRACE));
        pass(second);
        if (second < GRACE) vm.expectRevert(IEVMPaymentChannel.CloseNotReady.selector);
        vm.prank(payer);
        escrow.withdraw(id);
    }

    function _leaving() private returns (bytes32) {
        return _leaving(1);
    }

    function _leaving(uint256 number) private returns (bytes32 id) {
        id = opened(address(token), number, 1000);
        requestCloseAsPayer(id);
        pass(GRACE);
    }

    function _stays(bytes32 id) private {
        equal(escrow.getChannel(id).closeRequestedAt, 0, "close requested");
        has(id, 1010, 0, false);
        _withdrawFails(id, IEVMPaymentChannel.CloseNotReady.selector);
    }

    function _withdrawFails(bytes32 id, bytes4 reason) private {
        vm.prank(payer);
        vm.expectRevert(reason);
        escrow.withdraw(id);
    }
}
