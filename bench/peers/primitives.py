"""One voucher verified and one signed, by the official SDK: the same bytes as ours."""

import time

from eth_account import Account
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.facilitator.utils import (
    verify_batch_settlement_voucher_typed_data as verify,
)
from x402.mechanisms.evm.signers import EthAccountSigner

from bench.lines import Json, obey, read, run


async def main() -> None:
    settings = read()
    account = Account.from_key(settings["key"])
    signer, chain = EthAccountSigner(account), settings["chain_id"]
    vouchers = settings["vouchers"]

    async def act(command: Json) -> Json:
        some = vouchers[: command["count"]]
        began = time.process_time()
        if command["do"] == "verify":
            for channel, amount, signature in some:
                if not verify(
                    None,
                    channel_id=channel,
                    max_claimable_amount=str(amount),
                    payer_authorizer=account.address,
                    payer=account.address,
                    signature="0x" + signature,
                    chain_id=chain,
                ):
                    raise ValueError("a good voucher was refused")
            return {"seconds": time.process_time() - began}
        made = [sign_voucher(signer, c, a, f"eip155:{chain}") for c, a, _ in some]
        seconds = time.process_time() - began
        if [v.signature for v in made] != [
            "0x" + signature for _, _, signature in some
        ]:
            raise ValueError("a voucher was signed differently")
        return {"seconds": seconds}

    await obey(act)


if __name__ == "__main__":
    run(main())
