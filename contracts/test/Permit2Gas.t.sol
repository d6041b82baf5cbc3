// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISignatureTransfer} from "../src/interfaces/ISignatureTransfer.sol";
import {IX402BatchSettlement} from "../src/interfaces/IX402BatchSettlement.sol";
import {Multicall3} from "../src/Multicall3.sol";
import {PermitAttempt} from "../src/PermitAttempt.sol";
import {PermitToken} from "../src/tokens/PermitToken.sol";
import {Permit2Fixture} from "./Permit2Fixture.sol";

/// @title What each step by Permit2 costs as a transaction of its own
/// @dev As in `GasTest`. Payer and payee have balances before and after, and the payer used
/// another nonce of the same word before.
/// forge-config: tests.isolate = true
contract Permit2GasTest is Permit2Fixture {
    event log_named_uint(string key, uint256 value);

    uint128 private constant AMOUNT = 1000;
    string private kind;
    uint256 private nonce;

    function test_gas_of_a_plain_token() external {
        kind = "plain";
        _measure(address(coin));
    }

    function test_gas_of_a_token_like_usdc() external {
        kind = "usdc";
        _measure(deploy("TestUSDC"));
    }

    function test_k7_200_exact_payments_fit_into_one_transaction_under_the_cap() external {
        Multicall3 many = Multicall3(deploy("Multicall3"));
        coin.mint(receiver, 1);
        Multicall3.Call3[] memory calls = new Multicall3.Call3[](200);
        for (uint256 i = 0; i < calls.length; ++i) {
            calls[i] = Multicall3.Call3({
                target: address(exactProxy), allowFailure: true, callData: _paymentOf(i + 1)
            });
        }
        uint256 before = coin.balanceOf(receiver);
        many.aggregate3(calls);
        uint256 used = vm.lastCallGas().gasTotalUsed;
        equal(coin.balanceOf(receiver) - before, 200 * AMOUNT, "paid");
        emit log_named_uint("plain: pay exact by Permit2, 200 at once, each", (used + 199) / 200);
        atMost(used, 16_777_216, "the cap of EIP-7825");
    }

    /// @dev A payer of its own, who used another nonce of the same word before.
    function _paymentOf(uint256 key) private returns (bytes memory) {
        address owner = vm.addr(key);
        coin.mint(owner, 2 * AMOUNT);
        vm.prank(owner);
        coin.approve(address(permit2), 1e9);
        vm.prank(owner);
        permit2.invalidateUnorderedNonces(0, 1);
        ISignatureTransfer.PermitTransferFrom memory permit = permitOf(address(coin), AMOUNT, 1);
        bytes memory signed = signExact(permit, exactWitness(), key);
        return abi.encodeCall(exactProxy.settle, (permit, owner, exactWitness(), signed));
    }

    function _measure(address token_) private {
        _warmUp(token_);
        (ISignatureTransfer.PermitTransferFrom memory permit, bytes memory signed) = _exact(token_);
        exactProxy.settle(permit, payer, exactWitness(), signed);
        _log("pay exact by Permit2");

        (permit, signed) = _exact(token_);
        PermitAttempt.EIP2612Permit memory attempt =
            permit2612(PermitToken(token_), AMOUNT, PAYER_KEY);
        exactProxy.settleWithPermit(attempt, permit, payer, exactWitness(), signed);
        _log("pay exact by Permit2 with a permit");
        _grant(token_);

        permit = permitOf(token_, AMOUNT, ++nonce);
        signed = signUpto(permit, uptoWitness());
        vm.prank(facilitator);
        uptoProxy.settle(permit, AMOUNT / 2, payer, uptoWitness(), signed);
        _log("pay upto by Permit2");

        IX402BatchSettlement.ChannelConfig memory channel = configOf(token_, 1);
        permit = permitOf(token_, AMOUNT, ++nonce);
        signed = signDeposit(permit, settlement.getChannelId(channel));
        bytes memory data = abi.encode(permit.nonce, permit.deadline, signed, "");
        settlement.deposit(channel, AMOUNT, permit2Collector, data);
        _log("open by Permit2 deposit");
    }

    function _warmUp(address token_) private {
        PermitToken(token_).mint(payer, 1e9);
        PermitToken(token_).mint(receiver, 1);
        PermitToken(token_).mint(address(settlement), 1);
        _grant(token_);
        vm.prank(payer);
        permit2.invalidateUnorderedNonces(0, 1);
    }

    function _grant(address token_) private {
        vm.prank(payer);
        PermitToken(token_).approve(address(permit2), 1e9);
    }

    function _exact(address token_)
        private
        returns (ISignatureTransfer.PermitTransferFrom memory permit, bytes memory signed)
    {
        permit = permitOf(token_, AMOUNT, ++nonce);
        signed = signExact(permit, exactWitness(), PAYER_KEY);
    }

    function _log(string memory what) private {
        emit log_named_uint(string.concat(kind, ": ", what), vm.lastCallGas().gasTotalUsed);
    }
}
