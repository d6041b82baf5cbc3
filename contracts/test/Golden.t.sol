// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {x402BatchSettlement} from "../src/x402BatchSettlement.sol";
import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Plain3009} from "../src/tokens/Plain3009.sol";
import {TestUSDC} from "../src/tokens/TestUSDC.sol";
import {Base} from "./Base.sol";

/// @title The token of the captured session, by its EIP-712 domain
contract CapturedToken is Plain3009 {
    function name() public pure override returns (string memory) {
        return "USD Coin";
    }

    function version() public pure override returns (string memory) {
        return "2";
    }
}

/// @title What others have computed, at the address where others expect it
/// @dev The expected values are those of the deployed contract, and of USDC's source.
contract GoldenTest is Base {
    x402BatchSettlement internal constant channels =
        x402BatchSettlement(0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003);

    function setUp() external {
        vm.etch(address(channels), vm.getDeployedCode(artifact("x402BatchSettlement")));
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

    /// @dev Messages that the official SDK sent in a session on a local chain: a deposit of
    /// 100 of a token like USDC, two requests of 2000 in all, and the refund of the rest.
    function test_a_session_captured_from_the_official_sdk_runs_through() external {
        vm.chainId(31337);
        IX402BatchSettlement.ChannelConfig memory config = IX402BatchSettlement.ChannelConfig({
            payer: 0x4d21caFdBcE895CF3Fd45e55b4D7CA1a1322dbF4,
            payerAuthorizer: 0x4d21caFdBcE895CF3Fd45e55b4D7CA1a1322dbF4,
            receiver: 0x6Bba4433eAF5936F7657b4ABA3eE6C362970c26f,
            receiverAuthorizer: 0x4B734988F1dE110724f88F79CD902364a40C5342,
            token: 0x36584E2CfA4E2d36719538f75399D251aC1F1169,
            withdrawDelay: 900,
            salt: 0
        });
        bytes32 id = channels.getChannelId(config);
        equal(id, 0xb1a73442c28080e7d92089b3a27954f261b42f5dfd35384678769a8423e287cd, "channel id");

        vm.warp(1795455000);
        address collector = 0x4020806089470a89826cB9fB1f4059150b550004;
        bytes memory arguments = abi.encode(address(channels));
        vm.etch(collector, deploy("ERC3009DepositCollector", arguments).code);
        CapturedToken token = CapturedToken(config.token);
        vm.etch(config.token, address(new CapturedToken()).code);
        token.mint(config.payer, 100_000_000);
        uint256 salt = 0xed7bc23ae5767da1ebc5999b5555e7694096ec3f4de4bb7d69e49bebfbbfa2da;
        bytes memory signed =
            hex"7f6b0b3a21c7b655d3698cadd24b3e7ecc7fdc4b49d9b81f26c41bdf1171f3b5604a80a2c26ed5b5ffc1829b30ae6a655981aa6e9e246ba03806f368cac27cea1b";
        bytes memory data = abi.encode(uint256(0), uint256(1795455395), salt, signed);
        channels.deposit(config, 100_000_000, collector, data);

        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](1);
        rows[0] = IX402BatchSettlement.VoucherClaim({
            voucher: IX402BatchSettlement.Voucher({channel: config, maxClaimableAmount: 2000}),
            signature: hex"90f45cce196241bff08085f3fd41b386fae2d79588a72beced3f75f581788d150d850600e8fc495383a3bba5fa2f72bff8188b923750dd0b4a7c65f758001ecd1b",
            totalClaimed: 2000
        });
        channels.claimWithSignature(
            rows,
            hex"640cd0a0e62daefbf30493b251330dba1be62549b75ac825abe9594abf512e042224815d3f0d65c180bf1c903b0bb04b1893df96d9efa13bf964e7433ec3b11e1c"
        );
        channels.refundWithSignature(
            config,
            99_998_000,
            0,
            hex"06c2907dfc06f8fafeeabab6068835f06f777cda888b9203f36f179dc66a68a277a2f21763975cb83ae874d9a1a53c6bbfd7d5ffdef15e55e706e00da57dc9691b"
        );
        channels.settle(config.receiver, config.token);

        equal(token.balanceOf(config.payer), 99_998_000, "the payer's tokens");
        equal(token.balanceOf(config.receiver), 2000, "the receiver's tokens");
    }

    function test_usdc_type_hashes_are_those_of_usdc() external {
        TestUSDC usdc = TestUSDC(deploy("TestUSDC"));
        equal(
            usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
            0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267,
            "TransferWithAuthorization"
        );
        equal(
            usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
            0xd099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8,
            "ReceiveWithAuthorization"
        );
        equal(
            usdc.CANCEL_AUTHORIZATION_TYPEHASH(),
            0x158b0a9edf7a828aad02f63cd515c68ef2f50ba807396f6d12842833a1597429,
            "CancelAuthorization"
        );
        equal(
            usdc.PERMIT_TYPEHASH(),
            0x6e71edae12b1b97f4d1f60370fef10105fa2faae0126114a169c64845d6126c9,
            "Permit"
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
