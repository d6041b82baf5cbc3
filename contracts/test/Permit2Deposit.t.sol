// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "../src/interfaces/ISignatureTransfer.sol";
import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {DepositCollector} from "../src/DepositCollector.sol";
import {Permit2DepositCollector} from "../src/Permit2DepositCollector.sol";
import {PermitAttempt} from "../src/PermitAttempt.sol";
import {Permit2Fixture} from "./Permit2Fixture.sol";

/// @title Deposits into channels by Permit2
contract Permit2DepositTest is Permit2Fixture {
    function test_it_is_what_clients_expect() external view {
        Permit2DepositCollector it = Permit2DepositCollector(permit2Collector);
        equal(address(it.PERMIT2()), address(permit2), "Permit2");
        equal(it.x402BatchSettlement(), address(settlement), "settlement");
        equal(it.DEPOSIT_WITNESS_TYPEHASH(), keccak256("DepositWitness(bytes32 channelId)"), "type");
    }

    function test_without_its_contracts_there_is_no_collector() external {
        vm.expectRevert(DepositCollector.InvalidX402BatchSettlementAddress.selector);
        new Permit2DepositCollector(address(0), address(permit2));
        vm.expectRevert(Permit2DepositCollector.InvalidPermit2Address.selector);
        new Permit2DepositCollector(address(settlement), address(0));
    }

    function testFuzz_deposit_arrives_in_the_channel(uint128 amount, uint256 nonce) external {
        amount = uint128(within(amount, 1, 1000));
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(coin), 1);
        settlement.deposit(channel, amount, permit2Collector, _data(channel, amount, nonce, ""));
        (uint128 balance,) = settlement.channels(settlement.getChannelId(channel));
        equal(balance, amount, "balance");
        equal(coin.balanceOf(address(settlement)), amount, "held");
        equal(coin.balanceOf(permit2Collector), 0, "nothing stays");
    }

    function testFuzz_nobody_but_the_settlement_contract_collects(address caller) external {
        vm.assume(caller != address(settlement));
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(coin), 1);
        bytes32 id = settlement.getChannelId(channel);
        bytes memory data = _data(channel, 10, 1, "");
        vm.expectRevert(DepositCollector.OnlyX402BatchSettlement.selector);
        vm.prank(caller);
        Permit2DepositCollector(permit2Collector).collect(payer, address(coin), 10, id, data);
    }

    function testFuzz_k9_deposit_goes_into_no_other_channel(uint256 other) external {
        vm.assume(other != 1);
        bytes memory data = _data(configOf(address(coin), 1), 10, 1, "");
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        settlement.deposit(configOf(address(coin), other), 10, permit2Collector, data);
    }

    function testFuzz_deposit_is_of_the_amount_that_was_signed(uint128 amount) external {
        amount = uint128(within(amount, 1, 1000));
        vm.assume(amount != 10);
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(coin), 1);
        bytes memory data = _data(channel, 10, 1, "");
        vm.expectRevert(ISignatureTransfer.InvalidSigner.selector);
        settlement.deposit(channel, amount, permit2Collector, data);
    }

    function test_p1_deposit_is_taken_once_and_in_time() external {
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(coin), 1);
        bytes memory data = _data(channel, 10, 1, "");
        settlement.deposit(channel, 10, permit2Collector, data);
        vm.expectRevert(ISignatureTransfer.InvalidNonce.selector);
        settlement.deposit(channel, 10, permit2Collector, data);
        data = _data(channel, 10, 2, "");
        uint256 deadline = vm.getBlockTimestamp() + 300;
        pass(301);
        vm.expectRevert(
            abi.encodeWithSelector(ISignatureTransfer.SignatureExpired.selector, deadline)
        );
        settlement.deposit(channel, 10, permit2Collector, data);
    }

    function test_permit_grants_what_is_then_deposited() external {
        _approve(0);
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(coin), 1);
        bytes memory granted = _permitData(10);
        bytes memory data = _data(channel, 10, 1, granted);
        settlement.deposit(channel, 10, permit2Collector, data);
        equal(coin.balanceOf(address(settlement)), 10, "held");
        equal(coin.allowance(payer, address(permit2)), 0, "exactly what was needed");
    }

    function test_permit_is_for_the_amount_of_the_deposit() external {
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(coin), 1);
        bytes memory data = _data(channel, 10, 1, _permitData(11));
        vm.expectRevert(PermitAttempt.Permit2612AmountMismatch.selector);
        settlement.deposit(channel, 10, permit2Collector, data);
    }

    function test_t8_permit_that_a_stranger_sent_first_stops_nothing() external {
        _approve(0);
        IX402BatchSettlement.ChannelConfig memory channel = configOf(address(coin), 1);
        PermitAttempt.EIP2612Permit memory a = permit2612(coin, 10, PAYER_KEY);
        bytes memory data = _data(channel, 10, 1, _permitData(10));
        vm.prank(stranger);
        coin.permit(payer, address(permit2), a.value, a.deadline, a.v, a.r, a.s);
        settlement.deposit(channel, 10, permit2Collector, data);
        equal(coin.balanceOf(address(settlement)), 10, "held");
    }

    function test_t1_token_that_takes_a_fee_can_not_be_deposited() external {
        IX402BatchSettlement.ChannelConfig memory channel = configOf(deploy("FeeToken"), 1);
        (bool minted,) =
            channel.token.call(abi.encodeWithSignature("mint(address,uint256)", payer, 1000));
        ensure(minted, "minted");
        vm.prank(payer);
        (bool approved,) = channel.token
            .call(abi.encodeWithSignature("approve(address,uint256)", address(permit2), 1000));
        ensure(approved, "approved");
        bytes memory data = _data(channel, 1000, 1, "");
        vm.expectRevert(IX402BatchSettlement.DepositCollectionFailed.selector);
        settlement.deposit(channel, 1000, permit2Collector, data);
    }

    function _permitData(uint256 value) private view returns (bytes memory) {
        PermitAttempt.EIP2612Permit memory a = permit2612(coin, value, PAYER_KEY);
        return abi.encode(a.value, a.deadline, a.v, a.r, a.s);
    }

    function _data(
        IX402BatchSettlement.ChannelConfig memory channel,
        uint256 amount,
        uint256 nonce,
        bytes memory permitData
    ) private view returns (bytes memory) {
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(channel.token, amount, nonce);
        bytes memory signed = signDeposit(permit, settlement.getChannelId(channel));
        return abi.encode(nonce, permit.deadline, signed, permitData);
    }
}
