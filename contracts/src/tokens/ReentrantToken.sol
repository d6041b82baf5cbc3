// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Plain3009} from "./Plain3009.sol";

/// @title A token that calls somebody back while it moves
/// @dev The call is made once per arming, before the balances change or after.
contract ReentrantToken is Plain3009 {
    /// @notice Whom to call.
    address public target;
    /// @notice With what.
    bytes public data;
    /// @notice Whether to call before the balances change.
    bool public early;
    /// @notice Whether a call failure makes the transfer fail.
    bool public strict;
    /// @notice How often it called.
    uint256 public calls;
    /// @notice Whether the last call succeeded.
    bool public succeeded;
    /// @notice What the last call answered.
    bytes public answer;

    /// @notice Arms the next movement.
    function arm(address target_, bytes calldata data_, bool early_, bool strict_) external {
        (target, data, early, strict) = (target_, data_, early_, strict_);
    }

    function _update(address from, address to, uint256 value) internal override {
        bool armed = target != address(0) && from != address(0);
        if (armed && early) _callBack();
        super._update(from, to, value);
        if (armed && !early) _callBack();
    }

    function _callBack() private {
        address callee = target;
        target = address(0);
        ++calls;
        if (strict) (succeeded, answer) = (true, Address.functionCall(callee, data));
        else (succeeded, answer) = callee.call(data);
    }
}
