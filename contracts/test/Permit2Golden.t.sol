// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "../src/interfaces/ISignatureTransfer.sol";
import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {TestUSDC} from "../src/tokens/TestUSDC.sol";
import {x402ExactPermit2Proxy} from "../src/x402ExactPermit2Proxy.sol";
import {x402UptoPermit2Proxy} from "../src/x402UptoPermit2Proxy.sol";
import {Permit2Fixture} from "./Permit2Fixture.sol";

/// @title What the official SDK signed for the deployed contracts is taken by these
/// @dev The samples of `vectors/x402_permit2_samples.json`.
contract Permit2GoldenTest is Permit2Fixture {
    TestUSDC private constant USDC = TestUSDC(0x7e5705dc00000000000000000000000000000001);
    address private constant PAYER = 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266;
    address private constant PAYEE = 0x70997970C51812dc3A010C7d01b50e0d17dc79C8;
    address private constant FACILITATOR = 0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC;
    uint256 private constant DEADLINE = 1795641942;

    function setUp() public override {
        super.setUp();
        vm.warp(DEADLINE);
        vm.etch(address(USDC), vm.getDeployedCode(artifact("TestUSDC")));
        USDC.takeAdmin();
        USDC.mint(PAYER, 1_000_000);
        vm.prank(PAYER);
        USDC.approve(address(permit2), 1_000_000);
    }

    function test_domains_are_those_of_the_deployed_permit2() external {
        vm.chainId(1);
        equal(
            permit2.DOMAIN_SEPARATOR(),
            0x866a5aba21966af95d6c7ab78eb2b2fc913915c28be3b9aa07cc04ff903e3f28,
            "Ethereum"
        );
        vm.chainId(8453);
        equal(
            permit2.DOMAIN_SEPARATOR(),
            0x3b6f35e4fce979ef8eac3bcdc8c3fc38fe7911bb0c69c8fe72bf1fd1a17e6f07,
            "Base"
        );
    }

    function test_an_exact_payment_of_the_official_sdk_is_settled() external {
        exactProxy.settle(
            _permit(
                10_000,
                34591598654125673564269240072221138260250166903415570214800995951051388423507
            ),
            PAYER,
            x402ExactPermit2Proxy.Witness({to: PAYEE, validAfter: 0}),
            hex"5173850b8686e087ca0f19b368f1bd53f384231c2125b17e68b8452c8f52834c4bf6f24d4ec9c1184e95c8bbcc73189cb94a2bbcedcea5a2a32d1b2cf1be9fda1c"
        );
        equal(USDC.balanceOf(PAYEE), 10_000, "received");
    }

    function test_an_upto_payment_of_the_official_sdk_is_settled() external {
        vm.prank(FACILITATOR);
        uptoProxy.settle(
            _permit(
                10_000,
                87258168440557892664544427772097286746666600615121109373727728807093157148382
            ),
            1_858,
            PAYER,
            x402UptoPermit2Proxy.Witness({to: PAYEE, facilitator: FACILITATOR, validAfter: 0}),
            hex"b35af4b52574e081ef8d22a0ce99f9615b92ad8764233a9ad2bc16936f54877a56a2cf910a63d6bbb0754953e991be986ef47b8035f2fba805e611348f409c0b1b"
        );
        equal(USDC.balanceOf(PAYEE), 1_858, "received");
    }

    function test_a_deposit_of_the_official_sdk_opens_its_channel() external {
        IX402BatchSettlement.ChannelConfig memory channel = IX402BatchSettlement.ChannelConfig({
            payer: PAYER,
            payerAuthorizer: PAYER,
            receiver: PAYEE,
            receiverAuthorizer: FACILITATOR,
            token: address(USDC),
            withdrawDelay: 900,
            salt: 0
        });
        bytes memory data = abi.encode(
            60842528317934813884590187486262945235479137868781360016766761698626099592190,
            DEADLINE,
            hex"66230154b7c16746298cb07d9eb711faae06bd976c8a026bf0eda364125fd0751f9e22b92dc1cc23b432d5d4ee9e3e91c3a7dc27aa72cffc941eb3491b1720f21b",
            bytes("")
        );
        settlement.deposit(channel, 100_000, permit2Collector, data);
        bytes32 id = settlement.getChannelId(channel);
        equal(id, 0x258bbea80773dab87e6010a9ff2be696e6a6ebb30df9cf1dfd3612d8a9a813f6, "id");
        (uint128 balance,) = settlement.channels(id);
        equal(balance, 100_000, "balance");
    }

    function _permit(uint256 amount, uint256 nonce)
        private
        pure
        returns (ISignatureTransfer.PermitTransferFrom memory)
    {
        return ISignatureTransfer.PermitTransferFrom({
            permitted: ISignatureTransfer.TokenPermissions({token: address(USDC), amount: amount}),
            nonce: nonce,
            deadline: DEADLINE
        });
    }
}
