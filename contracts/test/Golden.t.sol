// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {x402BatchSettlement} from "../src/x402BatchSettlement.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {TestUSDC} from "../src/tokens/TestUSDC.sol";
import {Base} from "./Base.sol";

/// @title What others have computed, at the address where others expect it
/// @dev The expected values are those of the deployed contract, and of USDC's source.
contract GoldenTest is Base {
    x402BatchSettlement internal constant channels =
        x402BatchSettlement(0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003);

    function setUp() external {
        vm.etch(address(channels), type(x402BatchSettlement).runtimeCode);
    }

    function test_type_hashes_are_those_of_the_deployed_contract() external view {
        equal(
            channels.CHANNEL_CONFIG_TYPEHASH(),
            0x1c9a06ceab9b0ebbd3301dc56c9111bb6d9af421356dc9ccb3b7084c755db308,
            "ChannelConfig"
        );
        equal(
            channels.VOUCHER_TYPEHASH(),
            0x1e1bd6ff84c3e0d9029a292b212e039c0ca97ec497c55191a4a5874294609a69,
            "Voucher"
        );
        equal(
            channels.REFUND_TYPEHASH(),
            0xbe23ad087435072cd69b49cc5b92de10ee610fce7ae0ab428307972d764bb216,
            "Refund"
        );
        equal(
            channels.CLAIM_ENTRY_TYPEHASH(),
            0x30b9a0367528fca13c3e8ec6134c3113f1887ebe7a1ad61de0955aac288b0cf5,
            "ClaimEntry"
        );
        equal(
            channels.CLAIM_BATCH_TYPEHASH(),
            0x42bd57c010b870c2e96203c66341f28a6a19b4d56a74533a8eb5f706b9fd6d57,
            "ClaimBatch"
        );
    }

    function test_k1_domain_separators_are_those_of_the_deployed_contract() external {
        vm.chainId(31337);
        equal(
            _separator(),
            0xbf720f8d28a5c76a2f7743512598984fa4b90dd1efdb19af73f64cc6587d68af,
            "local chain"
        );
        vm.chainId(8453);
        equal(
            _separator(), 0xd8d982716899b0e20cf2c1e706a37b8a892c83fdd4ac9b540cfeec11f9c73a39, "Base"
        );
        vm.chainId(84532);
        equal(
            _separator(),
            0xfdef80764086b1e0fc6ba99f0cb9aa1d59109fda7c23d60334c89d2de44dffce,
            "Base Sepolia"
        );
    }

    /// @dev Checks the separator that the contract uses, not only what it says of itself.
    function _separator() private view returns (bytes32 separator) {
        (, string memory name, string memory version, uint256 chainId, address verifier,,) =
            channels.eip712Domain();
        separator = keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256(bytes(name)),
                keccak256(bytes(version)),
                chainId,
                verifier
            )
        );
        bytes32 structHash =
            keccak256(abi.encode(channels.VOUCHER_TYPEHASH(), bytes32(uint256(7)), uint128(9)));
        equal(
            channels.getVoucherDigest(bytes32(uint256(7)), 9),
            keccak256(abi.encodePacked(hex"1901", separator, structHash)),
            "the separator in use"
        );
    }
}
