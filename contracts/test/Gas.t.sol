// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Fixture} from "./Fixture.sol";

/// @title What each step costs as a transaction of its own
/// @dev Runs in isolation: every call below is a transaction with its intrinsic gas, calldata
/// and refunds, and starts with cold storage. `tools/contracts.py gas` prints the log.
/// forge-config: default.isolate = true
contract GasTest is Fixture {
    event log_named_uint(string key, uint256 value);

    uint128 private constant DEPOSIT = 100_000_000;
    uint256 private opened;

    function test_gas_of_a_plain_token() external {
        uint256 each = _measure(address(token), "plain");
        each;
    }

    function test_gas_of_a_token_like_usdc() external {
        _measure(vm.deployCode("TestUSDC.sol"), "usdc");
    }

    function _measure(address token_, string memory kind) private returns (uint256 each) {
        IX402BatchSettlement.ChannelConfig[] memory channels = _open(token_, 1);
        // The receiver has been paid before, and others' deposits stay in the contract.
        IX402BatchSettlement.VoucherClaim[] memory rows = _rows(channels);
        settlement.claimWithSignature(rows, authorization(rows));
        settlement.settle(receiver, token_);

        channels = _open(token_, 1);
        emit log_named_uint(string.concat(kind, ": open by EIP-3009 deposit"), _gas());
        rows = _rows(channels);
        bytes memory signed = authorization(rows);
        settlement.claimWithSignature(rows, signed);
        emit log_named_uint(string.concat(kind, ": claim 1 channel"), _gas());
        settlement.settle(receiver, token_);
        emit log_named_uint(string.concat(kind, ": settle"), _gas());

        channels = _open(token_, 100);
        rows = _rows(channels);
        signed = authorization(rows);
        settlement.claimWithSignature(rows, signed);
        each = _gas() / 100;
        emit log_named_uint(string.concat(kind, ": claim 100 channels, each"), each);
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
