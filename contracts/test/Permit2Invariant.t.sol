// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "../src/interfaces/ISignatureTransfer.sol";
import {Permit2Fixture} from "./Permit2Fixture.sol";

/// @title Pays by both proxies with nonces that collide, and keeps its own books
contract Permit2Handler is Permit2Fixture {
    uint256 public constant NONCES = 24;
    uint256 public paid;
    uint256 public allowed;
    uint256 public used;

    constructor() {
        setUp();
        coin.mint(payer, 1e9);
        _approve(type(uint256).max);
    }

    function payExact(uint256 nonce, uint256 amount) external {
        (nonce, amount) = (within(nonce, 0, NONCES - 1), within(amount, 1, 1000));
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), amount, nonce);
        bytes memory signed = signExact(permit, exactWitness(), PAYER_KEY);
        try exactProxy.settle(permit, payer, exactWitness(), signed) {
            _book(nonce, amount, amount);
        } catch (bytes memory reason) {
            _wasUsed(nonce, reason);
        }
    }

    function payUpto(uint256 nonce, uint256 most, uint256 amount) external {
        (nonce, most) = (within(nonce, 0, NONCES - 1), within(most, 1, 1000));
        amount = within(amount, 1, most);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), most, nonce);
        bytes memory signed = signUpto(permit, uptoWitness());
        vm.prank(facilitator);
        try uptoProxy.settle(permit, amount, payer, uptoWitness(), signed) {
            _book(nonce, amount, most);
        } catch (bytes memory reason) {
            _wasUsed(nonce, reason);
        }
    }

    function invalidate(uint256 nonce) external {
        uint256 bit = 1 << within(nonce, 0, NONCES - 1);
        vm.prank(payer);
        permit2.invalidateUnorderedNonces(0, bit);
        used |= bit;
    }

    function received() external view returns (uint256) {
        return coin.balanceOf(receiver);
    }

    function bits() external view returns (uint256) {
        return permit2.nonceBitmap(payer, 0);
    }

    function _book(uint256 nonce, uint256 amount, uint256 most) private {
        ensure(used & (1 << nonce) == 0, "a nonce was used twice");
        used |= 1 << nonce;
        paid += amount;
        allowed += most;
    }

    function _wasUsed(uint256 nonce, bytes memory reason) private view {
        equal(bytes32(reason), bytes32(ISignatureTransfer.InvalidNonce.selector), "reason");
        ensure(used & (1 << nonce) != 0, "a fresh nonce was refused");
    }
}

/// @title What must hold after any sequence of payments by Permit2
contract Permit2InvariantTest is Permit2Fixture {
    Permit2Handler private handler;

    function setUp() public override {
        handler = new Permit2Handler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() external view returns (Target[] memory targets) {
        targets = new Target[](1);
        targets[0].addr = address(handler);
        targets[0].selectors = new bytes4[](3);
        targets[0].selectors[0] = handler.payExact.selector;
        targets[0].selectors[1] = handler.payUpto.selector;
        targets[0].selectors[2] = handler.invalidate.selector;
    }

    struct Target {
        address addr;
        bytes4[] selectors;
    }

    function invariant_payee_has_what_was_settled_and_no_more_than_was_signed() external view {
        equal(handler.received(), handler.paid(), "received");
        atMost(handler.paid(), handler.allowed(), "paid above what was signed");
    }

    function invariant_nonces_in_the_bitmap_are_those_that_were_used() external view {
        equal(handler.bits(), handler.used(), "bits");
    }
}
