// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ISignatureTransfer} from "../src/interfaces/ISignatureTransfer.sol";
import {PermitAttempt} from "../src/PermitAttempt.sol";
import {PermitToken} from "../src/tokens/PermitToken.sol";
import {ReentrantToken} from "../src/tokens/ReentrantToken.sol";
import {x402ExactPermit2Proxy} from "../src/x402ExactPermit2Proxy.sol";
import {x402Permit2Proxy} from "../src/x402Permit2Proxy.sol";
import {x402UptoPermit2Proxy} from "../src/x402UptoPermit2Proxy.sol";
import {Permit2Fixture} from "./Permit2Fixture.sol";
import {Vm} from "./Vm.sol";

/// @title A token whose permit fails in the three ways there are
contract BadPermitToken is PermitToken {
    uint256 public way;

    function setWay(uint256 way_) external {
        way = way_;
    }

    function permit(address o, address s, uint256 value, uint256 d, uint8 v, bytes32 r, bytes32 t)
        public
        override
    {
        require(way != 1, "not today");
        if (way == 2) value = 1 / (way - 2);
        super.permit(o, s, value, d, v, r, t);
    }
}

/// @title Payments by Permit2: who may send them, where they go, and how much
contract Permit2ProxiesTest is Permit2Fixture {
    uint256 private constant NONCE = 7;

    function test_they_are_what_clients_expect() external view {
        equal(address(exactProxy.PERMIT2()), address(permit2), "exact");
        equal(address(uptoProxy.PERMIT2()), address(permit2), "upto");
        equal(
            exactProxy.WITNESS_TYPEHASH(),
            keccak256("Witness(address to,uint256 validAfter)"),
            "exact"
        );
        equal(
            uptoProxy.WITNESS_TYPEHASH(),
            keccak256("Witness(address to,address facilitator,uint256 validAfter)"),
            "upto"
        );
    }

    function test_without_permit2_there_is_no_proxy() external {
        vm.expectRevert(x402Permit2Proxy.InvalidPermit2Address.selector);
        new x402ExactPermit2Proxy(address(0));
        vm.expectRevert(x402Permit2Proxy.InvalidPermit2Address.selector);
        new x402UptoPermit2Proxy(address(0));
    }

    function testFuzz_anyone_sends_an_exact_payment_where_it_was_signed_to(
        address sender,
        uint256 amount
    ) external {
        amount = within(amount, 1, 1000);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), amount, NONCE);
        bytes memory signed = signExact(permit, exactWitness(), PAYER_KEY);
        vm.expectEmit(address(exactProxy));
        emit x402Permit2Proxy.Settled();
        vm.prank(sender);
        exactProxy.settle(permit, payer, exactWitness(), signed);
        equal(coin.balanceOf(receiver), amount, "received");
        equal(coin.balanceOf(address(exactProxy)), 0, "nothing stays");
    }

    function test_p1_exact_payment_is_settled_once() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = signExact(permit, exactWitness(), PAYER_KEY);
        exactProxy.settle(permit, payer, exactWitness(), signed);
        vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        exactProxy.settle(permit, payer, exactWitness(), signed);
    }

    function testFuzz_exact_witness_can_not_be_changed(address to, uint256 validAfter) external {
        vm.assume(to != address(0));
        validAfter = within(validAfter, 0, vm.getBlockTimestamp());
        vm.assume(to != receiver || validAfter != 0);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = signExact(permit, exactWitness(), PAYER_KEY);
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        exactProxy.settle(permit, payer, x402ExactPermit2Proxy.Witness(to, validAfter), signed);
    }

    function test_refusals_of_an_exact_payment() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        x402ExactPermit2Proxy.Witness memory witness = exactWitness();
        vm.expectRevert(x402Permit2Proxy.InvalidOwner.selector);
        exactProxy.settle(permit, address(0), witness, "");
        witness.to = address(0);
        vm.expectRevert(x402Permit2Proxy.InvalidDestination.selector);
        exactProxy.settle(permit, payer, witness, "");
        witness = x402ExactPermit2Proxy.Witness(receiver, vm.getBlockTimestamp() + 10);
        bytes memory signed = signExact(permit, witness, PAYER_KEY);
        vm.expectRevert(x402Permit2Proxy.PaymentTooEarly.selector);
        exactProxy.settle(permit, payer, witness, signed);
        pass(10);
        exactProxy.settle(permit, payer, witness, signed);
        permit = permitOf(address(coin), 0, NONCE + 1);
        vm.expectRevert(x402Permit2Proxy.InvalidAmount.selector);
        exactProxy.settle(permit, payer, witness, "");
        permit = permitOf(address(coin), 10, NONCE + 1);
        signed = signExact(permit, witness, PAYER_KEY);
        pass(301);
        vm.expectRevert(
            abi.encodeWithSelector(ISignatureTransfer.SignatureExpired.selector, permit.deadline)
        );
        exactProxy.settle(permit, payer, witness, signed);
    }

    function test_payment_for_one_proxy_is_none_for_the_other() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory exact = signExact(permit, exactWitness(), PAYER_KEY);
        bytes memory upto = signUpto(permit, uptoWitness());
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        vm.prank(facilitator);
        uptoProxy.settle(permit, 10, payer, uptoWitness(), exact);
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        exactProxy.settle(permit, payer, exactWitness(), upto);
    }

    function testFuzz_named_facilitator_settles_up_to_what_was_signed(uint256 most, uint256 amount)
        external
    {
        most = within(most, 1, 1000);
        amount = within(amount, 1, most);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), most, NONCE);
        bytes memory signed = signUpto(permit, uptoWitness());
        vm.expectEmit(address(uptoProxy));
        emit x402Permit2Proxy.Settled();
        vm.prank(facilitator);
        uptoProxy.settle(permit, amount, payer, uptoWitness(), signed);
        equal(coin.balanceOf(receiver), amount, "received");
        vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        vm.prank(facilitator);
        uptoProxy.settle(permit, amount, payer, uptoWitness(), signed);
    }

    function testFuzz_nobody_else_settles_upto(address sender) external {
        vm.assume(sender != facilitator);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = signUpto(permit, uptoWitness());
        vm.expectRevert(x402UptoPermit2Proxy.UnauthorizedFacilitator.selector);
        vm.prank(sender);
        uptoProxy.settle(permit, 10, payer, uptoWitness(), signed);
        x402UptoPermit2Proxy.Witness memory witness = uptoWitness();
        witness.facilitator = sender;
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        vm.prank(sender);
        uptoProxy.settle(permit, 10, payer, witness, signed);
    }

    function testFuzz_more_than_signed_is_not_settled(uint256 amount) external {
        amount = within(amount, 11, type(uint256).max);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = signUpto(permit, uptoWitness());
        PermitAttempt.EIP2612Permit memory attempt = permit2612(coin, 10, PAYER_KEY);
        vm.expectRevert(x402UptoPermit2Proxy.AmountExceedsPermitted.selector);
        vm.prank(facilitator);
        uptoProxy.settle(permit, amount, payer, uptoWitness(), signed);
        vm.expectRevert(x402UptoPermit2Proxy.AmountExceedsPermitted.selector);
        vm.prank(facilitator);
        uptoProxy.settleWithPermit(attempt, permit, amount, payer, uptoWitness(), signed);
    }

    function test_refusals_of_an_upto_payment() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        x402UptoPermit2Proxy.Witness memory witness = uptoWitness();
        vm.expectRevert(x402Permit2Proxy.InvalidAmount.selector);
        vm.prank(facilitator);
        uptoProxy.settle(permit, 0, payer, witness, "");
        vm.expectRevert(x402Permit2Proxy.InvalidOwner.selector);
        vm.prank(facilitator);
        uptoProxy.settle(permit, 1, address(0), witness, "");
        witness.to = address(0);
        vm.expectRevert(x402Permit2Proxy.InvalidDestination.selector);
        vm.prank(facilitator);
        uptoProxy.settle(permit, 1, payer, witness, "");
        witness = uptoWitness();
        witness.validAfter = vm.getBlockTimestamp() + 1;
        vm.expectRevert(x402Permit2Proxy.PaymentTooEarly.selector);
        vm.prank(facilitator);
        uptoProxy.settle(permit, 1, payer, witness, "");
    }

    function test_permit_grants_what_is_then_moved() external {
        _approve(0);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = signExact(permit, exactWitness(), PAYER_KEY);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "TRANSFER_FROM_FAILED"));
        exactProxy.settle(permit, payer, exactWitness(), signed);
        PermitAttempt.EIP2612Permit memory attempt = permit2612(coin, 10, PAYER_KEY);
        vm.expectEmit(address(exactProxy));
        emit x402Permit2Proxy.SettledWithPermit();
        exactProxy.settleWithPermit(attempt, permit, payer, exactWitness(), signed);
        equal(coin.balanceOf(receiver), 10, "received");
        equal(coin.allowance(payer, address(permit2)), 0, "exactly what was needed");

        permit = permitOf(address(coin), 10, NONCE + 1);
        signed = signUpto(permit, uptoWitness());
        attempt = permit2612(coin, 10, PAYER_KEY);
        vm.expectEmit(address(uptoProxy));
        emit x402Permit2Proxy.SettledWithPermit();
        vm.prank(facilitator);
        uptoProxy.settleWithPermit(attempt, permit, 4, payer, uptoWitness(), signed);
        equal(coin.balanceOf(receiver), 14, "received");
        equal(coin.allowance(payer, address(permit2)), 6, "the rest stays granted");
    }

    function test_permit_is_for_the_amount_that_was_signed() external {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        PermitAttempt.EIP2612Permit memory attempt = permit2612(coin, 11, PAYER_KEY);
        vm.expectRevert(PermitAttempt.Permit2612AmountMismatch.selector);
        exactProxy.settleWithPermit(attempt, permit, payer, exactWitness(), "");
        vm.expectRevert(PermitAttempt.Permit2612AmountMismatch.selector);
        vm.prank(facilitator);
        uptoProxy.settleWithPermit(attempt, permit, 5, payer, uptoWitness(), "");
        vm.expectRevert(x402UptoPermit2Proxy.UnauthorizedFacilitator.selector);
        uptoProxy.settleWithPermit(attempt, permit, 5, payer, uptoWitness(), "");
    }

    function test_t8_permit_that_a_stranger_sent_first_stops_nothing() external {
        _approve(0);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), 10, NONCE);
        bytes memory signed = signExact(permit, exactWitness(), PAYER_KEY);
        PermitAttempt.EIP2612Permit memory a = permit2612(coin, 10, PAYER_KEY);
        vm.prank(stranger);
        coin.permit(payer, address(permit2), a.value, a.deadline, a.v, a.r, a.s);
        vm.recordLogs();
        exactProxy.settleWithPermit(a, permit, payer, exactWitness(), signed);
        equal(coin.balanceOf(receiver), 10, "received");
        equal(
            vm.getRecordedLogs()[0].topics[0],
            PermitAttempt.EIP2612PermitFailedWithData.selector,
            "told"
        );
    }

    function test_t8_every_failure_of_a_permit_is_told_and_stops_nothing() external {
        BadPermitToken bad = new BadPermitToken();
        bad.mint(payer, 100);
        vm.prank(payer);
        bad.approve(address(permit2), 100);
        bytes[3] memory expected = [bytes(""), abi.encode("not today"), abi.encode(0x12)];
        bytes32[3] memory kinds = [
            PermitAttempt.EIP2612PermitFailedWithData.selector,
            PermitAttempt.EIP2612PermitFailedWithReason.selector,
            PermitAttempt.EIP2612PermitFailedWithPanic.selector
        ];
        for (uint256 way = 0; way < 3; ++way) {
            bad.setWay(way);
            ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(bad), 10, way);
            bytes memory signed = signExact(permit, exactWitness(), PAYER_KEY);
            PermitAttempt.EIP2612Permit memory attempt = permit2612(bad, 10, STRANGER_KEY);
            vm.recordLogs();
            exactProxy.settleWithPermit(attempt, permit, payer, exactWitness(), signed);
            (bytes32 kind, bytes memory data) = _firstLog();
            equal(kind, kinds[way], "kind");
            if (way != 0) equal(keccak256(data), keccak256(expected[way]), "data");
        }
        equal(bad.balanceOf(receiver), 30, "received");
    }

    function test_k8_token_that_calls_back_is_not_let_in() external {
        ReentrantToken attacker = ReentrantToken(deploy("ReentrantToken"));
        attacker.mint(payer, 100);
        vm.prank(payer);
        attacker.approve(address(permit2), 100);
        ISignatureTransfer.PermitTransferFrom memory first = permitOf(address(attacker), 10, 1);
        ISignatureTransfer.PermitTransferFrom memory next = permitOf(address(attacker), 10, 2);
        bytes memory signed = signExact(first, exactWitness(), PAYER_KEY);
        bytes memory other = signExact(next, exactWitness(), PAYER_KEY);
        PermitAttempt.EIP2612Permit memory attempt;
        attempt.value = 10;
        x402ExactPermit2Proxy.Witness memory witness = exactWitness();
        bytes[2] memory calls = [
            abi.encodeCall(exactProxy.settle, (next, payer, witness, other)),
            abi.encodeCall(exactProxy.settleWithPermit, (attempt, next, payer, witness, other))
        ];
        for (uint256 i = 0; i < 2; ++i) {
            attacker.arm(address(exactProxy), calls[i], i == 0, false);
            exactProxy.settle(first, payer, witness, signed);
            equal(attacker.calls(), i + 1, "called back");
            equal(
                bytes32(attacker.answer()),
                bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector),
                "reason"
            );
            first = permitOf(address(attacker), 10, 3);
            signed = signExact(first, witness, PAYER_KEY);
        }
    }

    function _firstLog() private returns (bytes32, bytes memory) {
        Vm.Log memory log = vm.getRecordedLogs()[0];
        return (log.topics[0], log.data);
    }
}
