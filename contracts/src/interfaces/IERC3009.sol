// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Transfers by signed authorization (EIP-3009)
/// @notice In both forms that USDC has: the signature split into `v`, `r` and `s`, and as
/// bytes, which also serve contract wallets (ERC-1271).
interface IERC3009 {
    /// @notice A nonce was used by a transfer.
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    /// @notice A nonce was made unusable by its owner.
    event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

    /// @notice Whether a nonce was used or canceled.
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);

    /// @notice Moves tokens as `from` signed; anyone may send it.
    /// @param validAfter The transfer is valid after this time, exclusive.
    /// @param validBefore The transfer is valid before this time, exclusive.
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    /// @notice The same with a split signature.
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Moves tokens as `from` signed; only the payee may send it, so nobody can use the
    /// authorization outside the payee's own call.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    /// @notice The same with a split signature.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Makes a nonce unusable.
    function cancelAuthorization(address authorizer, bytes32 nonce, bytes calldata signature)
        external;

    /// @notice The same with a split signature.
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s)
        external;
}
