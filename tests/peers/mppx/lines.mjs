// What the peer's programs share: a line of JSON in, a line of JSON out, and a record of
// every HTTP exchange that carried a payment (see ../lines.py).

import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

const manifest = new URL('./node_modules/mppx/package.json', import.meta.url)
export const version = `mppx ${JSON.parse(readFileSync(manifest, 'utf8')).version}`

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

/** The next line, or undefined at the end. */
export async function read() {
  const { value, done } = await lines.next()
  return done || !value.trim() ? undefined : JSON.parse(value)
}

/** Write one line. */
export function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

/** One exchange as this process saw it; headers are base64url JSON. */
export function note(status, authorization, receipt) {
  const sent = authorization ? decode(authorization.split(' ')[1]) : {}
  const got = receipt ? decode(receipt) : {}
  return {
    status,
    payload: sent.payload ?? {},
    receipt: { ...got, transaction: got.reference ?? '' },
    bound: 'digest' in (sent.challenge ?? {}),
  }
}

/** The same for x402, whose headers are base64 JSON. */
export function x402Note(status, payment, receipt) {
  const got = receipt ? decode(receipt) : {}
  return { status, payload: decode(payment).payload ?? {}, receipt: got }
}

function decode(text) {
  // Reads both alphabets, padded or not.
  return JSON.parse(Buffer.from(text, 'base64url').toString('utf8'))
}

/** Answer each line with one; an exception is an answer too. */
export async function obey(act) {
  for (let command = await read(); command !== undefined; command = await read()) {
    try {
      say(await act(command))
    } catch (error) {
      say({ error: `${error.name}: ${error.message}` })
    }
  }
}
