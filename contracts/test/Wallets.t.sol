// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {PlainToken} from "../src/tokens/PlainToken.sol";
import {Delegate7702} from "../src/wallets/Delegate7702.sol";
import {Wallet1271} from "../src/wallets/Wallet1271.sol";
import {WalletFactory} from "../src/wallets/WalletFactory.sol";
import {Base} from "./Base.sol";

/// @title Wallets that are made later, and keys whose accounts have code (T9)
contract WalletsTest is Base {
    uint256 private constant KEY = uint256(keccak256("owner"));
    bytes32 private constant DIGEST = keccak256("digest");
    address private immutable owner = vm.addr(KEY);

    function testFuzz_t9_wallet_is_made_where_it_was_foreseen(address anyone, bytes32 salt)
        external
    {
        WalletFactory factory = WalletFactory(deploy("WalletFactory"));
        address foreseen = factory.addressOf(anyone, salt);
        equal(foreseen.code.length, 0, "nothing is there");
        vm.expectEmit(address(factory));
        emit WalletFactory.Created(foreseen, anyone);
        equal(factory.create(anyone, salt), foreseen, "made");
        equal(Wallet1271(foreseen).owner(), anyone, "owner");
        vm.recordLogs();
        equal(factory.create(anyone, salt), foreseen, "made once");
        equal(vm.getRecordedLogs().length, 0, "nothing happened");
    }

    function test_t9_wallet_accepts_what_its_owner_signed_before_it_was_made() external {
        WalletFactory factory = WalletFactory(deploy("WalletFactory"));
        bytes memory signed = _sign(KEY);
        IERC1271 wallet = IERC1271(factory.create(owner, 0));
        _accepts(wallet, signed, true);
        _accepts(wallet, _sign(KEY + 1), false);
    }

    function test_t9_delegated_account_answers_by_its_own_key() external {
        vm.etch(owner, vm.getDeployedCode(artifact("Delegate7702")));
        _accepts(IERC1271(owner), _sign(KEY), true);
        _accepts(IERC1271(owner), _sign(KEY + 1), false);
        _accepts(IERC1271(owner), "", false);
    }

    function test_delegated_account_acts_for_itself_only() external {
        vm.etch(owner, vm.getDeployedCode(artifact("Delegate7702")));
        PlainToken coin = PlainToken(deploy("PlainToken"));
        coin.mint(owner, 10);
        (bool paid,) = owner.call{value: 1}("");
        ensure(paid, "takes coins");
        address[] memory targets = new address[](2);
        (targets[0], targets[1]) = (address(coin), address(coin));
        bytes[] memory data = new bytes[](2);
        data[0] = abi.encodeCall(coin.transfer, (address(0xa), 4));
        data[1] = abi.encodeCall(coin.approve, (address(0xb), 5));
        vm.expectRevert(abi.encodeWithSelector(Delegate7702.NotSelf.selector, address(this)));
        Delegate7702(payable(owner)).execute(targets, data);
        vm.prank(owner);
        Delegate7702(payable(owner)).execute(targets, data);
        equal(coin.balanceOf(address(0xa)), 4, "moved");
        equal(coin.allowance(owner, address(0xb)), 5, "approved");
    }

    function _accepts(IERC1271 wallet, bytes memory signed, bool expected) private view {
        bytes4 answer = wallet.isValidSignature(DIGEST, signed);
        ensure((answer == IERC1271.isValidSignature.selector) == expected, "answer");
    }

    function _sign(uint256 key) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, DIGEST);
        return abi.encodePacked(r, s, v);
    }
}
