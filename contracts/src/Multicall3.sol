// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Several calls in one, for local chains
/// @notice The functions of the deployed Multicall3 that are in common use. The calls come from
/// this contract: it must never be approved, and nothing that is sent to it is anybody's.
contract Multicall3 {
    struct Call {
        address target;
        bytes callData;
    }

    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    struct Call3Value {
        address target;
        bool allowFailure;
        uint256 value;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    /// @notice Makes calls, each of which must succeed.
    function aggregate(Call[] calldata calls)
        external
        payable
        returns (uint256 blockNumber, bytes[] memory returnData)
    {
        blockNumber = block.number;
        returnData = new bytes[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            returnData[i] = _call(calls[i].target, 0, calls[i].callData, false).returnData;
        }
    }

    /// @notice Makes calls, each of which must succeed if `requireSuccess`.
    function tryAggregate(bool requireSuccess, Call[] calldata calls)
        external
        payable
        returns (Result[] memory returnData)
    {
        returnData = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            returnData[i] = _call(calls[i].target, 0, calls[i].callData, !requireSuccess);
        }
    }

    /// @notice Makes calls, each of which says whether it may fail.
    function aggregate3(Call3[] calldata calls)
        external
        payable
        returns (Result[] memory returnData)
    {
        returnData = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            returnData[i] = _call(calls[i].target, 0, calls[i].callData, calls[i].allowFailure);
        }
    }

    /// @notice The same with the chain's own coin, of which all must be used.
    function aggregate3Value(Call3Value[] calldata calls)
        external
        payable
        returns (Result[] memory returnData)
    {
        uint256 spent = 0;
        returnData = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            Call3Value calldata call = calls[i];
            spent += call.value;
            returnData[i] = _call(call.target, call.value, call.callData, call.allowFailure);
        }
        require(msg.value == spent, "Multicall3: value mismatch");
    }

    /// @notice The coins of an account.
    function getEthBalance(address account) external view returns (uint256) {
        return account.balance;
    }

    /// @notice The number of the block that this is asked in.
    function getBlockNumber() external view returns (uint256) {
        return block.number;
    }

    /// @notice The time of the block that this is asked in.
    function getCurrentBlockTimestamp() external view returns (uint256) {
        return block.timestamp;
    }

    /// @notice The chain's id.
    function getChainId() external view returns (uint256) {
        return block.chainid;
    }

    function _call(address target, uint256 value, bytes calldata data, bool mayFail)
        private
        returns (Result memory result)
    {
        // Anyone makes it call anything: that is what it is for, and it owns nothing.
        // slither-disable-next-line arbitrary-send-eth,calls-loop,low-level-calls
        (result.success, result.returnData) = target.call{value: value}(data);
        require(result.success || mayFail, "Multicall3: call failed");
    }
}
