// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title The smallest contract wallet: one owner, whose signatures count as its own
/// @dev For tests and local chains. It can be made to change its mind (`refuse`).
contract Wallet1271 is IERC1271 {
    /// @notice Who signs and acts for it.
    address public owner;
    /// @notice Whether it accepts no signature at all.
    bool public refusing;

    /// @notice The caller is not the owner.
    error NotOwner(address caller);

    modifier onlyOwner() {
        if (msg.sender != owner) revert NotOwner(msg.sender);
        _;
    }

    constructor(address owner_) {
        owner = owner_;
    }

    /// @notice Gives the wallet to another key; what the old one signed is void.
    function setOwner(address owner_) external onlyOwner {
        owner = owner_;
    }

    /// @notice Stops accepting signatures, or starts again.
    function refuse(bool refusing_) external onlyOwner {
        refusing = refusing_;
    }

    /// @notice Calls a contract as the wallet.
    function execute(address target, bytes calldata data)
        external
        onlyOwner
        returns (bytes memory answer)
    {
        return Address.functionCall(target, data);
    }

    /// @inheritdoc IERC1271
    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        (address signer,,) = ECDSA.tryRecoverCalldata(hash, signature);
        bool valid = !refusing && signer != address(0) && signer == owner;
        return valid ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }
}
