// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IEVMPaymentChannel} from "../src/interfaces/IEVMPaymentChannel.sol";
import {FalseToken} from "../src/tokens/FalseToken.sol";
import {NoReturnToken} from "../src/tokens/NoReturnToken.sol";
import {TestUSDC} from "../src/tokens/TestUSDC.sol";
import {SessionFixture} from "./SessionFixture.sol";

/// @title A token that says yes to every call and does nothing
contract PoliteToken {
    fallback() external {}

    function balanceOf(address) external pure returns (uint256) {
        return 1000;
    }
}

/// @title Sessions in tokens that do not do what a token should (T*)
contract SessionTokensTest is SessionFixture {
    function test_t1_a_token_that_takes_a_fee_is_refused() external {
        address fee = deploy("FeeToken");
        bytes4 reason = IEVMPaymentChannel.DepositCollectionFailed.selector;
        give(fee, payer, 1000);
        vm.prank(payer);
        vm.expectRevert(reason);
        escrow.open(payee, fee, 1000, bytes32(0), voucherSigner);
        bytes32 nonce = openNonce(fee, 0);
        bytes memory signed = authorized(fee, PAYER_KEY, 1000, nonce);
        vm.expectRevert(reason);
        escrow.openWithAuthorization(
            payee, fee, 1000, 0, voucherSigner, payer, 0, DEADLINE, nonce, signed
        );
        giveByPermit2(fee, payer, 1000);
        signed = openPermit(fee, 0, 1000, 1);
        vm.expectRevert(reason);
        escrow.openWithPermit2(payee, fee, 1000, 0, voucherSigner, payer, 1, DEADLINE, signed);
    }

    function test_t4_a_token_that_answers_and_moves_nothing_is_refused() external {
        address polite = address(new PoliteToken());
        bytes4 reason = IEVMPaymentChannel.DepositCollectionFailed.selector;
        vm.prank(payer);
        vm.expectRevert(reason);
        escrow.open(payee, polite, 1000, bytes32(0), voucherSigner);
        bytes32 nonce = openNonce(polite, 0);
        vm.expectRevert(reason);
        escrow.openWithAuthorization(
            payee, polite, 1000, 0, voucherSigner, payer, 0, DEADLINE, nonce, ""
        );
        bytes memory signed = openPermit(polite, 0, 1000, 1);
        vm.expectRevert(reason);
        escrow.openWithPermit2(payee, polite, 1000, 0, voucherSigner, payer, 1, DEADLINE, signed);
    }

    function test_t4_false_from_a_transfer_keeps_the_books_as_they_were() external {
        FalseToken failing = FalseToken(deploy("FalseToken"));
        bytes32 id = opened(address(failing), 1, 1000);
        failing.setFailing(true);
        bytes memory reason =
            abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(failing));
        bytes memory signed = voucher(id, 300);
        vm.expectRevert(reason);
        vm.prank(payee);
        escrow.settle(id, 300, signed);
        vm.expectRevert(reason);
        vm.prank(payee);
        escrow.close(id, 300, signed);
        has(id, 1000, 0, false);
        failing.setFailing(false);
        closeAsPayee(id, 300);
        equal(failing.balanceOf(payee), 300, "the payee's tokens");
        equal(failing.balanceOf(payer), 700, "the payer's tokens");
    }

    function test_t4_a_token_that_returns_nothing_goes_through() external {
        NoReturnToken silent = NoReturnToken(deploy("NoReturnToken"));
        silent.mint(payer, 1000);
        vm.prank(payer);
        silent.approve(address(escrow), 1000);
        vm.prank(payer);
        bytes32 id = escrow.open(payee, address(silent), 1000, bytes32(0), voucherSigner);
        closeAsPayee(id, 300);
        equal(silent.balanceOf(payee), 300, "the payee's tokens");
        equal(silent.balanceOf(payer), 700, "the payer's tokens");
    }

    function test_t5_tokens_sent_by_mistake_are_nobodys() external {
        bytes32 id = opened(1000);
        token.mint(address(escrow), 77);
        closeAsPayee(id, 300);
        equal(token.balanceOf(address(escrow)), 77, "escrow");
        id = opened(address(token), 2, 1000);
        equal(token.balanceOf(address(escrow)), 1077, "escrow");
    }

    function test_t2_a_frozen_payer_does_not_lock_the_payee() external {
        (TestUSDC usdc, bytes32 id) = _usdcChannel();
        usdc.blacklist(payer);
        bytes memory signed = voucher(id, 300);
        vm.expectRevert(abi.encodeWithSelector(TestUSDC.AccountBlacklisted.selector, payer));
        vm.prank(payee);
        escrow.close(id, 300, signed);
        settleAsPayee(id, 300);
        equal(usdc.balanceOf(payee), 300, "the payee's tokens");
        // Nothing is left for the payer: then it is not asked to take anything.
        settleAsPayee(id, 900);
        closeAsPayee(id, 1000);
        has(id, 1000, 1000, true);
    }

    function test_t2_a_frozen_payee_does_not_lock_the_payer() external {
        (TestUSDC usdc, bytes32 id) = _usdcChannel();
        settleAsPayee(id, 300);
        usdc.blacklist(payee);
        requestCloseAsPayer(id);
        pass(900);
        withdrawAsPayer(id);
        equal(usdc.balanceOf(payer), 700, "the payer's tokens");
        (usdc, id) = _usdcChannel();
        usdc.blacklist(payee);
        // It can still give up, which returns everything.
        vm.prank(payee);
        escrow.close(id, 0, "");
        equal(usdc.balanceOf(payer), 1000, "the payer's tokens");
    }

    function test_t2_a_frozen_party_does_not_lock_other_channels() external {
        (TestUSDC usdc, bytes32 id) = _usdcChannel();
        usdc.mint(stranger, 500);
        vm.prank(stranger);
        usdc.approve(address(escrow), 500);
        vm.prank(stranger);
        bytes32 other = escrow.open(payee, address(usdc), 500, bytes32(0), voucherSigner);
        usdc.blacklist(payer);
        closeAsPayee(other, 100);
        equal(usdc.balanceOf(stranger), 400, "the stranger's tokens");
        has(id, 1000, 0, false);
    }

    function test_t3_a_pause_loses_no_state() external {
        (TestUSDC usdc, bytes32 id) = _usdcChannel();
        requestCloseAsPayer(id);
        pass(900);
        usdc.pause();
        bytes memory signed = voucher(id, 300);
        vm.expectRevert(TestUSDC.Paused.selector);
        vm.prank(payee);
        escrow.settle(id, 300, signed);
        vm.expectRevert(TestUSDC.Paused.selector);
        vm.prank(payer);
        escrow.withdraw(id);
        has(id, 1000, 0, false);
        usdc.unpause();
        settleAsPayee(id, 300);
        withdrawAsPayer(id);
        equal(usdc.balanceOf(payer), 700, "the payer's tokens");
    }

    function _usdcChannel() private returns (TestUSDC usdc, bytes32 id) {
        usdc = TestUSDC(deploy("TestUSDC"));
        id = opened(address(usdc), 1, 1000);
    }
}
