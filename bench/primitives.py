"""One voucher verified and one signed, by us: the same bytes that the peer gets."""

import time

from agentpay import Wallet
from agentpay.evm.batch_settlement import voucher_digest
from agentpay.evm.networks import LOCAL
from agentpay.evm.signature import is_signed_by_key
from agentpay.types import Address, Hash32
from bench.lines import Json, obey, read, run


async def main() -> None:
    settings = read()
    wallet = Wallet.from_key(settings["key"])
    payer, chain = Address(settings["payer"]), LOCAL.chain
    vouchers = [
        (Hash32(channel), amount, bytes.fromhex(signature))
        for channel, amount, signature in settings["vouchers"]
    ]

    async def act(command: Json) -> Json:
        some = vouchers[: command["count"]]
        if command["do"] == "verify":
            began = time.process_time()
            for channel, amount, signature in some:
                digest = voucher_digest(channel, amount, chain)
                if not is_signed_by_key(payer, digest, signature):
                    raise ValueError("a good voucher was refused")
            return {"seconds": time.process_time() - began}
        made: list[bytes] = []
        began = time.process_time()
        for channel, amount, _ in some:
            digest = voucher_digest(channel, amount, chain)
            made.append(await wallet.sign_digest(digest, chain=chain))
        seconds = time.process_time() - began
        if made != [signature for _, _, signature in some]:
            raise ValueError("a voucher was signed differently")
        return {"seconds": seconds}

    await obey(act)


if __name__ == "__main__":
    run(main())
