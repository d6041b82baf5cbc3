// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {Fixture} from "./Fixture.sol";

/// @title What each step costs as a transaction of its own
/// @dev Runs in isolation: every call below is a transaction with its intrinsic gas, calldata
/// and refunds, and starts with cold storage. `tools/contracts.py gas` prints the log.
/// forge-config: tests.isolate = true
contract GasTest is Fixture {
    event log_named_uint(string key, uint256 value);

    uint256 private constant CAP = 16_777_216;
    uint128 private constant DEPOSIT = 100_000_000;
    uint256 private opened;
    string private kind;

    function test_gas_of_a_plain_token_is_within_the_goals() external {
        kind = "plain";
        (uint256 open, uint256 claim1, uint256 claim100, uint256 settle) = _measure(address(token));
        atMost(open, 117_000, "opening by EIP-3009 deposit");
        atMost(claim1, 52_500, "a claim of one channel");
        atMost(claim100, 19_000, "a claim in a batch of 100, each");
        atMost(settle, 46_500, "settling");
    }

    function test_gas_of_a_token_like_usdc() external {
        kind = "usdc";
        _measure(deploy("TestUSDC"));
    }

    function test_k7_500_channels_fit_into_one_transaction_under_the_cap() external {
        kind = "plain";
        IX402BatchSettlement.ChannelConfig[] memory channels = _open(address(token), 500);
        IX402BatchSettlement.VoucherClaim[] memory rows = _rows(channels);
        bytes memory signed = authorization(rows);
        settlement.claimWithSignature(rows, signed);
        uint256 used = _gas();
        _log("claim 500 channels, in all", used);
        atMost(used, CAP, "the cap of EIP-7825");
        (uint128 balance, uint128 claimed) =
            settlement.channels(settlement.getChannelId(channels[499]));
        equal(claimed, rows[499].totalClaimed, "the last row");
        equal(balance, DEPOSIT, "balance");
    }

    function _measure(address token_)
        private
        returns (uint256 open, uint256 claim1, uint256 claim100, uint256 settle)
    {
        _warmUp(token_);
        IX402BatchSettlement.ChannelConfig[] memory channels = _open(token_, 1);
        open = _log("open by EIP-3009 deposit", _gas());
        fund(channels[0], DEPOSIT);
        _log("top up", _gas());

        channels = _open(token_, 1);
        IX402BatchSettlement.VoucherClaim[] memory rows = _rows(channels);
        bytes memory signed = authorization(rows);
        settlement.claimWithSignature(rows, signed);
        claim1 = _log("claim 1 channel", _gas());
        settlement.settle(receiver, token_);
        settle = _log("settle", _gas());
        _refund(channels[0]);
        _log("refund the rest, signed", _gas());
        channels = _open(token_, 1);
        _refund(channels[0]);
        _log("refund an unused channel, signed", _gas());
        _claimAndRefund(_open(token_, 1));
        _log("claim and refund by multicall", _gas());
        _leave(_open(token_, 1)[0]);

        channels = _open(token_, 10);
        rows = _rows(channels);
        signed = authorization(rows);
        settlement.claimWithSignature(rows, signed);
        _log("claim 10 channels, each", _gas() / 10);
        channels = _open(token_, 100);
        rows = _rows(channels);
        signed = authorization(rows);
        settlement.claimWithSignature(rows, signed);
        claim100 = _log("claim 100 channels, each", (_gas() + 99) / 100);
    }

    /// @dev The payer has more than it deposits, the receiver was paid before, and others'
    /// deposits stay in the contract: no balance starts or ends at zero.
    function _warmUp(address token_) private {
        Plain3009(token_).mint(payer, 1e12);
        _open(token_, 1);
        IX402BatchSettlement.VoucherClaim[] memory rows = _rows(_open(token_, 1));
        claimSigned(rows);
        settlement.settle(receiver, token_);
    }

    function _refund(IX402BatchSettlement.ChannelConfig memory channel) private {
        bytes32 id = settlement.getChannelId(channel);
        bytes memory signed = signature(AUTHORIZER_KEY, settlement.getRefundDigest(id, 0, DEPOSIT));
        settlement.refundWithSignature(channel, DEPOSIT, 0, signed);
    }

    function _claimAndRefund(IX402BatchSettlement.ChannelConfig[] memory channels) private {
        IX402BatchSettlement.VoucherClaim[] memory rows = _rows(channels);
        bytes32 id = settlement.getChannelId(channels[0]);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(settlement.claimWithSignature, (rows, authorization(rows)));
        bytes memory signed = signature(AUTHORIZER_KEY, settlement.getRefundDigest(id, 0, DEPOSIT));
        calls[1] = abi.encodeCall(settlement.refundWithSignature, (channels[0], DEPOSIT, 0, signed));
        settlement.multicall(calls);
    }

    function _leave(IX402BatchSettlement.ChannelConfig memory channel) private {
        vm.prank(channel.payer);
        settlement.initiateWithdraw(channel, DEPOSIT);
        _log("initiate a withdrawal", _gas());
        pass(900);
        vm.prank(channel.payer);
        settlement.finalizeWithdraw(channel);
        _log("finalize a withdrawal", _gas());
    }

    function _log(string memory what, uint256 gas) private returns (uint256) {
        emit log_named_uint(string.concat(kind, ": ", what), gas);
        return gas;
    }

    function _open(address token_, uint256 count)
        private
        returns (IX402BatchSettlement.ChannelConfig[] memory channels)
    {
        channels = new IX402BatchSettlement.ChannelConfig[](count);
        for (uint256 i = 0; i < count; ++i) {
            channels[i] = configOf(token_, ++opened);
            fund(channels[i], DEPOSIT);
        }
    }

    function _rows(IX402BatchSettlement.ChannelConfig[] memory channels)
        private
        view
        returns (IX402BatchSettlement.VoucherClaim[] memory rows)
    {
        rows = new IX402BatchSettlement.VoucherClaim[](channels.length);
        for (uint256 i = 0; i < channels.length; ++i) {
            uint128 total = uint128(1_234_567 + 1000 * i);
            rows[i] = claimRow(channels[i], total, total, VOUCHER_KEY);
        }
    }

    function _gas() private view returns (uint256) {
        return vm.lastCallGas().gasTotalUsed;
    }
}
