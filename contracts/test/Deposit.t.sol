// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DepositCollector} from "../src/DepositCollector.sol";
import {ERC3009DepositCollector} from "../src/ERC3009DepositCollector.sol";
import {IDepositCollector} from "../src/interfaces/IDepositCollector.sol";
import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {Token3009} from "../src/tokens/Token3009.sol";
import {Fixture} from "./Fixture.sol";

/// @title Delivers another amount than it was asked for
contract WrongCollector is IDepositCollector {
    int256 public immutable difference;

    constructor(int256 difference_) {
        difference = difference_;
    }

    function collect(address, address token, uint256 amount, bytes32, bytes calldata) external {
        Plain3009(token).mint(msg.sender, uint256(int256(amount) + difference));
    }
}

contract DepositTest is Fixture {
    function test_first_deposit_creates_the_channel() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = settlement.getChannelId(channel);
        token.mint(payer, 1000);
        bytes memory data = collectorData(channel, 400, 1, PAYER_KEY);

        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.ChannelCreated(id, channel);
        vm.expectEmit(address(settlement));
        emit IX402BatchSettlement.Deposited(id, stranger, 400, 400);
        vm.prank(stranger);
        settlement.deposit(channel, 400, collector, data);

        (uint128 balance, uint128 claimed) = settlement.channels(id);
        equal(balance, 400, "balance");
        equal(claimed, 0, "claimed");
        equal(token.balanceOf(payer), 600, "the payer's tokens");
        equal(token.balanceOf(address(settlement)), 400, "the escrow");
        equal(token.balanceOf(collector), 0, "the collector keeps nothing");
    }

    function test_top_up_adds_and_does_not_create_again() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = fund(channel, 400);
        token.mint(payer, 50);
        bytes memory data = collectorData(channel, 50, 2, PAYER_KEY);
        vm.recordLogs();

        settlement.deposit(channel, 50, collector, data);

        equal(_count(IX402BatchSettlement.ChannelCreated.selector), 0, "created again");
        (uint128 balance,) = settlement.channels(id);
        equal(balance, 450, "balance");
    }

    function test_k6_emptied_channel_is_created_again() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        fund(channel, 400);
        vm.prank(receiver);
        settlement.refund(channel, 400);
        vm.recordLogs();

        fund(channel, 7);

        equal(_count(IX402BatchSettlement.ChannelCreated.selector), 1, "created");
    }

    function test_used_up_channel_is_not_created_again() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        fund(channel, 400);
        claimSigned(batch(channel, 400));
        vm.recordLogs();

        fund(channel, 7);

        equal(_count(IX402BatchSettlement.ChannelCreated.selector), 0, "created");
    }

    function test_deposit_of_nothing_is_refused() external {
        _refused(config(), 0, IX402BatchSettlement.ZeroDeposit.selector);
    }

    function test_channel_without_a_party_is_refused() external {
        bytes4 reason = IX402BatchSettlement.InvalidChannel.selector;
        IX402BatchSettlement.ChannelConfig memory channel = config();
        channel.payer = address(0);
        _refused(channel, 1, reason);
        channel = config();
        channel.receiver = address(0);
        _refused(channel, 1, reason);
        channel = config();
        channel.receiverAuthorizer = address(0);
        _refused(channel, 1, reason);
        channel = config();
        channel.token = address(0);
        _refused(channel, 1, reason);
    }

    function test_withdraw_delay_is_bounded() external {
        bytes4 reason = IX402BatchSettlement.WithdrawDelayOutOfRange.selector;
        equal(settlement.MIN_WITHDRAW_DELAY(), 15 minutes, "shortest");
        equal(settlement.MAX_WITHDRAW_DELAY(), 30 days, "longest");
        IX402BatchSettlement.ChannelConfig memory channel = config();
        channel.withdrawDelay = 15 minutes - 1;
        _refused(channel, 1, reason);
        channel.withdrawDelay = 30 days + 1;
        _refused(channel, 1, reason);
        channel.withdrawDelay = 15 minutes;
        fund(channel, 1);
        channel.withdrawDelay = 30 days;
        fund(channel, 1);
    }

    function test_collector_without_code_is_refused() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        vm.expectRevert(IX402BatchSettlement.InvalidCollector.selector);
        settlement.deposit(channel, 1, stranger, "");
        vm.expectRevert(IX402BatchSettlement.InvalidCollector.selector);
        settlement.deposit(channel, 1, address(0), "");
    }

    function test_t1_collector_that_delivers_another_amount_is_refused() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        address less = address(new WrongCollector(-1));
        address more = address(new WrongCollector(1));
        address exact = address(new WrongCollector(0));
        vm.expectRevert(IX402BatchSettlement.DepositCollectionFailed.selector);
        settlement.deposit(channel, 10, less, "");
        vm.expectRevert(IX402BatchSettlement.DepositCollectionFailed.selector);
        settlement.deposit(channel, 10, more, "");
        settlement.deposit(channel, 10, exact, "");
    }

    function test_k10_balance_does_not_exceed_128_bits() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        address any = address(new WrongCollector(0));
        settlement.deposit(channel, type(uint128).max - 1, any, "");
        vm.expectRevert(IX402BatchSettlement.DepositOverflow.selector);
        settlement.deposit(channel, 2, any, "");
        settlement.deposit(channel, 1, any, "");
        (uint128 balance,) = settlement.channels(settlement.getChannelId(channel));
        equal(balance, type(uint128).max, "balance");
    }

    function test_only_the_settlement_contract_collects() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        token.mint(payer, 10);
        bytes memory data = collectorData(channel, 10, 1, PAYER_KEY);
        bytes32 id = settlement.getChannelId(channel);
        vm.expectRevert(DepositCollector.OnlyX402BatchSettlement.selector);
        IDepositCollector(collector).collect(payer, address(token), 10, id, data);
        equal(DepositCollector(collector).x402BatchSettlement(), address(settlement), "settlement");
    }

    function test_without_a_settlement_contract_there_is_no_collector() external {
        vm.expectRevert(DepositCollector.InvalidX402BatchSettlementAddress.selector);
        new ERC3009DepositCollector(address(0));
    }

    function test_k9_authorization_is_bound_to_its_channel_and_amount() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        token.mint(payer, 100);
        bytes memory data = collectorData(channel, 10, 1, PAYER_KEY);
        bytes memory reason = abi.encodeWithSelector(Token3009.SignatureNotBy.selector, payer);
        IX402BatchSettlement.ChannelConfig memory other = config();
        other.receiver = stranger;
        vm.expectRevert(reason);
        settlement.deposit(other, 10, collector, data);
        vm.expectRevert(reason);
        settlement.deposit(channel, 11, collector, data);
        settlement.deposit(channel, 10, collector, data);
    }

    function test_p1_authorization_is_used_once() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        token.mint(payer, 100);
        bytes memory data = collectorData(channel, 10, 1, PAYER_KEY);
        settlement.deposit(channel, 10, collector, data);
        bytes32 nonce = keccak256(abi.encode(settlement.getChannelId(channel), uint256(1)));
        vm.expectRevert(
            abi.encodeWithSelector(Token3009.AuthorizationUsedOrCanceled.selector, payer, nonce)
        );
        settlement.deposit(channel, 10, collector, data);
    }

    function test_deposit_signed_by_another_is_refused() external {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        token.mint(payer, 100);
        bytes memory data = collectorData(channel, 10, 1, STRANGER_KEY);
        vm.expectRevert(abi.encodeWithSelector(Token3009.SignatureNotBy.selector, payer));
        settlement.deposit(channel, 10, collector, data);
    }

    function testFuzz_deposits_add_up(uint128 first, uint128 second, bytes32 salt) external {
        first = uint128(within(first, 1, type(uint128).max / 2));
        second = uint128(within(second, 1, type(uint128).max / 2));
        IX402BatchSettlement.ChannelConfig memory channel = config();
        channel.salt = salt;
        bytes32 id = fund(channel, first);
        fund(channel, second);

        (uint128 balance, uint128 claimed) = settlement.channels(id);
        equal(balance, uint256(first) + second, "balance");
        equal(claimed, 0, "claimed");
        equal(token.balanceOf(address(settlement)), balance, "escrow");
    }

    function testFuzz_k1_every_field_makes_another_channel(uint8 field, uint256 value)
        external
        view
    {
        IX402BatchSettlement.ChannelConfig memory channel = config();
        bytes32 id = settlement.getChannelId(channel);
        address account = address(uint160(value));
        field = field % 7;
        bool same = false;
        if (field == 0) (same, channel.payer) = (channel.payer == account, account);
        if (field == 1) {
            (same, channel.payerAuthorizer) = (channel.payerAuthorizer == account, account);
        }
        if (field == 2) (same, channel.receiver) = (channel.receiver == account, account);
        if (field == 3) {
            (same, channel.receiverAuthorizer) = (channel.receiverAuthorizer == account, account);
        }
        if (field == 4) (same, channel.token) = (channel.token == account, account);
        if (field == 5) {
            (same, channel.withdrawDelay) = (channel.withdrawDelay == uint40(value), uint40(value));
        }
        if (field == 6) (same, channel.salt) = (channel.salt == bytes32(value), bytes32(value));

        ensure((settlement.getChannelId(channel) == id) == same, "one id for two channels");
    }

    function _refused(IX402BatchSettlement.ChannelConfig memory channel, uint128 amount, bytes4 why)
        private
    {
        vm.expectRevert(why);
        settlement.deposit(channel, amount, collector, "");
    }
}
