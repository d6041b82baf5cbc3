// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Create2} from "@openzeppelin/contracts/utils/Create2.sol";
import {Wallet1271} from "./Wallet1271.sol";

/// @title Makes wallets at addresses that are known before (CREATE2)
/// @notice An owner can sign for a wallet that is not there yet (ERC-6492): whoever needs the
/// signature on chain lets the factory make it. For tests and local chains.
contract WalletFactory {
    /// @notice A wallet was made.
    event Created(address indexed wallet, address indexed owner);

    /// @notice Makes the wallet of an owner, unless it is there.
    function create(address owner, bytes32 salt) external returns (address wallet) {
        wallet = addressOf(owner, salt);
        if (wallet.code.length != 0) return wallet;
        emit Created(wallet, owner);
        new Wallet1271{salt: salt}(owner);
    }

    /// @notice Where the wallet of an owner is, or will be.
    function addressOf(address owner, bytes32 salt) public view returns (address) {
        bytes memory creation = abi.encodePacked(type(Wallet1271).creationCode, abi.encode(owner));
        return Create2.computeAddress(salt, keccak256(creation));
    }
}
