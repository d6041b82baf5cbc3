// The official MPP client in TypeScript: pays EVM charges, and says what it saw. It pays
// by x402 as well, if it is told to.

import { evm, Mppx } from 'mppx/client'
import { privateKeyToAccount } from 'viem/accounts'
import { note, obey, read, say, version, x402Note } from './lines.mjs'

const settings = await read()
let notes = []

/** Sends, and keeps what was answered to each payment. */
async function recorder(input, init) {
  const request = new Request(input, init)
  const payment = request.headers.get('authorization')
  const x402 = request.headers.get('payment-signature')
  const response = await fetch(request)
  if (payment) {
    notes.push(note(response.status, payment, response.headers.get('payment-receipt')))
  } else if (x402) {
    const receipt = response.headers.get('payment-response')
    notes.push(x402Note(response.status, x402, receipt))
  }
  return response
}

const client = Mppx.create({
  fetch: recorder,
  methods: [
    evm({
      account: privateKeyToAccount(settings.key),
      authorization: { name: settings.name, version: settings.version },
      decimals: settings.decimals,
    }),
  ],
  polyfill: false,
})

/** The offers of one protocol: those of x402 have a scheme. */
function liked(command) {
  const wanted = command.x402 ?? false
  return (offers) =>
    offers.filter(({ challenge }) => ('scheme' in challenge.request) === wanted)
}

say({ version })
await obey(async (command) => {
  if (command.do === 'get' || command.do === 'post') {
    const { body, url } = command
    const init = body ? { body, method: 'POST' } : {}
    const answer = await client.fetch(url, { ...init, orderChallenges: liked(command) })
    await answer.text()
    return { status: answer.status }
  }
  const seen = notes
  notes = []
  return { notes: seen }
})
