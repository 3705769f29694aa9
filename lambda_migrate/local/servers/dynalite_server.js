// The program behind `Dynalite`: dynalite, counting its requests as moto_server.py does.
//
//     node dynalite_server.js <dynalite's directory> <host> <port>
//
// Counting takes no round trip, as it happens in the same process.

'use strict'

const [directory, host, port] = process.argv.slice(2)
const server = require(directory)({ createTableMs: 0 })

const counts = {}
const rates = {}

function add(groups, key, operation) {
  const group = (groups[key] ??= {})
  group[operation] = (group[operation] ?? 0) + 1
}

function count(request) {
  const operation = String(request.headers['x-amz-target'] ?? '').split('.').pop()
  const signed = /Credential=([^/]*)/.exec(request.headers.authorization ?? '')
  add(counts, signed ? signed[1] : '', operation)
  add(rates, Math.floor(Date.now() / 100), operation)
}

const [handle] = server.listeners('request')
server.removeListener('request', handle)
server.on('request', (request, response) => {
  const found = { '/lambda-migrate/counters': counts, '/lambda-migrate/rates': rates }[request.url]
  if (found) {
    response.setHeader('Content-Type', 'application/json')
    response.end(JSON.stringify(found))
    return
  }
  count(request)
  handle.call(server, request, response)
})

server.keepAliveTimeout = 120_000 // longer than clients keep idle connections
server.listen({ host, port: Number(port), backlog: 4096 })
