// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";

/// @title Tries an EIP-2612 permit that anybody could have sent first
/// @dev A permit can be taken from the transaction and sent by a stranger, who thereby grants
/// just what was to be granted. So its failure stops nothing: whether the allowance is enough
/// shows when the tokens are fetched.
abstract contract PermitAttempt {
    /// @notice The permit reverted with a text.
    event EIP2612PermitFailedWithReason(
        address indexed token, address indexed owner, string reason
    );
    /// @notice The permit reverted with a panic.
    event EIP2612PermitFailedWithPanic(
        address indexed token, address indexed owner, uint256 errorCode
    );
    /// @notice The permit reverted with an error of the token's, or without a reason.
    event EIP2612PermitFailedWithData(address indexed token, address indexed owner, bytes data);

    /// @notice The permit is for another amount than the transfer.
    error Permit2612AmountMismatch();

    /// @notice A signed permit, without what is known besides.
    struct EIP2612Permit {
        uint256 value;
        uint256 deadline;
        bytes32 r;
        bytes32 s;
        uint8 v;
    }

    function _attemptPermit(
        address token,
        address owner,
        address spender,
        uint256 amount,
        EIP2612Permit memory permit
    ) internal {
        if (permit.value != amount) revert Permit2612AmountMismatch();
        // slither-disable-next-line reentrancy-events
        try IERC20Permit(token)
            .permit(owner, spender, permit.value, permit.deadline, permit.v, permit.r, permit.s) {}
        catch Error(string memory reason) {
            emit EIP2612PermitFailedWithReason(token, owner, reason);
        } catch Panic(uint256 errorCode) {
            emit EIP2612PermitFailedWithPanic(token, owner, errorCode);
        } catch (bytes memory data) {
            emit EIP2612PermitFailedWithData(token, owner, data);
        }
    }
}
