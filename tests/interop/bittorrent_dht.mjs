// bittorrent-dht nodes in one process, told what to do by a JSON object in argv[2]:
//   {home, listen: ["ip:port"], bootstrap: ["ip:port"], commands: file}
// `home` is where npm installed the package. JSON objects appended to `commands`, one a line, say what is done, each by
// node number `node` (0): {do: "announce" | "lookup", hash, port}, {do: "put", value, seed, salt, seq, cas},
// {do: "get", target, salt}. Values, salts and keys are hex. Prints a JSON object a line: {"event": "ready" | "announced" |
// "peer" | "lookup" | "put" | "item" | "warning"}. Runs until SIGTERM.
import crypto from 'node:crypto'
import fs from 'node:fs'
import { pathToFileURL } from 'node:url'

const config = JSON.parse(process.argv[2])
const { Client } = await import(pathToFileURL(`${config.home}/node_modules/bittorrent-dht/index.js`))
const say = (event, fields) => console.log(JSON.stringify({ event, ...fields }))
const hex = bytes => Buffer.from(bytes).toString('hex')
const bytes = text => Buffer.from(text ?? '', 'hex')

// What stands in front of a raw Ed25519 key in DER (RFC 8410).
const PUBLIC = '302a300506032b6570032100'
const SECRET = '302e020100300506032b657004220420'
const publicKey = key => crypto.createPublicKey({ key: Buffer.concat([bytes(PUBLIC), key]), format: 'der', type: 'spki' })
const secretKey = seed => crypto.createPrivateKey({ key: Buffer.concat([bytes(SECRET), seed]), format: 'der', type: 'pkcs8' })
const verify = (signature, message, key) => crypto.verify(null, message, publicKey(Buffer.from(key)), signature)

const nodes = config.listen.map((address, index) => {
  const [host, port] = address.split(':')
  // Beside those given, each knows the first of its own kind.
  const known = index ? [...config.bootstrap, config.listen[0]] : config.bootstrap
  const node = new Client({ bootstrap: known.length ? known : false, verify })
  node.on('error', error => { console.error(`${address}: ${error.message}`); process.exit(1) })
  node.on('peer', (peer, hash) => say('peer', { node: index, hash: hex(hash), peer: `${peer.host}:${peer.port}` }))
  node.listen(Number(port), host)
  return node
})
await Promise.all(nodes.map(node => new Promise(resolve => node.ready ? resolve() : node.once('ready', resolve))))
say('ready', { ids: nodes.map(node => hex(node.nodeId)) })

const failure = error => error ? `${error.code ?? ''} ${error.message}`.trim() : null

function obey ({ do: what, node = 0, ...a }) {
  const dht = nodes[node]
  if (what === 'announce') {
    dht.announce(a.hash, a.port, error => say('announced', { node, hash: a.hash, error: failure(error) }))
  } else if (what === 'lookup') {
    dht.lookup(a.hash, (error, answered) => say('lookup', { node, hash: a.hash, answered, error: failure(error) }))
  } else if (what === 'put') {
    const options = { v: bytes(a.value) }
    if (a.seed) {
      const secret = secretKey(bytes(a.seed))
      options.k = crypto.createPublicKey(secret).export({ format: 'der', type: 'spki' }).subarray(-32)
      options.sign = message => crypto.sign(null, message, secret)
      options.seq = a.seq
      if (a.salt) options.salt = bytes(a.salt)
      if (a.cas !== undefined) options.cas = a.cas
    }
    dht.put(options, (error, target, answered) => say('put', { node, target: target && hex(target), answered, error: failure(error) }))
  } else if (what === 'get') {
    // Its cache would answer with what this node put itself.
    dht.get(a.target, { cache: false, salt: a.salt ? bytes(a.salt) : undefined }, (error, found) => {
      const value = found ? hex(found.v) : null
      say('item', { node, target: a.target, salt: a.salt ?? '', value, seq: found?.seq ?? null, error: failure(error) })
    })
  } else {
    throw new Error(`no command ${what}`)
  }
}

let done = 0
setInterval(() => {
  const text = fs.readFileSync(config.commands, 'utf8')
  const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n').slice(0, -1)
  for (; done < lines.length; done++) obey(JSON.parse(lines[done]))
}, 20)
process.on('SIGTERM', () => process.exit(0))
