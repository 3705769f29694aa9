// The program behind `Dynalite`: dynalite, counting its requests as moto_server.py does.
//
//     node dynalite_server.js <dynalite's directory> <host> <port>
//
// The counting is done in the same process, and takes nobody a round trip.

'use strict'

const [directory, host, port] = process.argv.slice(2)
const server = require(directory)({ createTableMs: 0 })

const counts = {}
const rates = {}

function add(tallies, key, operation) {
  const tally = (tallies[key] ??= {})
  tally[operation] = (tally[operation] ?? 0) + 1
}

function count(request) {
  const operation = String(request.headers['x-amz-target'] ?? '').split('.').pop()
  const signed = /Credential=([^/]*)/.exec(request.headers.authorization ?? '')
  add(counts, signed ? signed[1] : '', operation)
  add(rates, Math.floor(Date.now() / 100), operation)
}

const [answer] = server.listeners('request')
server.removeListener('request', answer)
server.on('request', (request, response) => {
  const asked = { '/lambda-migrate/counters': counts, '/lambda-migrate/rates': rates }[request.url]
  if (asked) {
    response.setHeader('Content-Type', 'application/json')
    response.end(JSON.stringify(asked))
    return
  }
  count(request)
  answer.call(server, request, response)
})

server.keepAliveTimeout = 120_000 // a client must not find its connection closed as it writes
server.listen({ host, port: Number(port), backlog: 4096 })
