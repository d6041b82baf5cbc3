// The official MPP client in TypeScript: pays EVM charges, and says what it saw.

import { evm, Mppx } from 'mppx/client'
import { privateKeyToAccount } from 'viem/accounts'
import { note, obey, read, say, version } from './lines.mjs'

const settings = await read()
let notes = []

/** Sends, and keeps what was answered to each payment. */
async function recorder(input, init) {
  const request = new Request(input, init)
  const payment = request.headers.get('authorization')
  const response = await fetch(request)
  if (payment) {
    notes.push(note(response.status, payment, response.headers.get('payment-receipt')))
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

say({ version })
await obey(async (command) => {
  if (command.do === 'get') {
    const answer = await client.fetch(command.url)
    await answer.text()
    return { status: answer.status }
  }
  const seen = notes
  notes = []
  return { notes: seen }
})
