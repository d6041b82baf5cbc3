// The official MPP server in TypeScript: sells `/charge`, and settles by a facilitator.
// It takes x402 as well, from clients that know nothing of MPP. No two answers are the
// same. Told to be `quiet`, it keeps no notes, which cost time.

import { createServer } from 'node:http'
import { evm, Mppx, NodeListener, Request as Requests } from 'mppx/server'
import { formatUnits } from 'viem'
import { note, obey, read, say, version, x402Note } from './lines.mjs'

const settings = await read()
let notes = []
let sold = 0

const server = Mppx.create({
  methods: [
    evm({
      authorization: { name: settings.name, version: settings.version },
      chainId: settings.chain_id,
      currency: settings.token,
      decimals: settings.decimals,
      recipient: settings.pay_to,
      x402: { facilitator: settings.facilitator },
    }),
  ],
  realm: 'peers',
  secretKey: settings.secret,
})
const sell = server.charge({
  amount: formatUnits(BigInt(settings.price), settings.decimals),
})

async function answer(request) {
  const paid = await sell(request)
  if (paid.status === 402) return paid.challenge
  return paid.withReceipt(Response.json({ sold: 'a charge', number: sold++ }))
}

const listener = createServer(async (incoming, outgoing) => {
  const request = Requests.fromNodeListener(incoming, outgoing)
  const response = await answer(request)
  const payment = request.headers.get('authorization')
  const x402 = request.headers.get('payment-signature')
  if (settings.quiet) {
    // Nobody asks what it saw.
  } else if (payment) {
    notes.push(note(response.status, payment, response.headers.get('payment-receipt')))
  } else if (x402) {
    const receipt = response.headers.get('payment-response')
    notes.push(x402Note(response.status, x402, receipt))
  }
  await NodeListener.sendResponse(outgoing, response)
})

listener.listen(0, '127.0.0.1', async () => {
  say({ version, url: `http://127.0.0.1:${listener.address().port}` })
  await obey(async () => {
    const seen = notes
    notes = []
    return { notes: seen }
  })
  listener.closeAllConnections()
  listener.close()
})
