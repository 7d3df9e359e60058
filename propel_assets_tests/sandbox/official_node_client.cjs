// Calls functions of PropelAuth's own Node client against a local server.
// stdin: {"folder", "url", "key", "calls": {function: [arguments]}}; {"$date": text} is a Date.
// stdout: {"functions": every fetch function there is, "answers": {function: answer}}
const { readFileSync } = require("node:fs")

const revive = (_, value) => (value && value.$date ? new Date(value.$date) : value)
const { folder, url, key, calls } = JSON.parse(readFileSync(0, "utf8"), revive)

// The client knows one host; there is no setting for it.
const realFetch = globalThis.fetch
globalThis.fetch = (target, options) =>
    realFetch(String(target).replace("https://propelauth-api.com", url), options)

const { getApis } = require(require.resolve("@propelauth/node-apis", { paths: [folder] }))

async function main() {
    const api = getApis(new URL(url), key)
    const answers = {}
    for (const [name, parameters] of Object.entries(calls)) {
        answers[name] = await api[name](...parameters)
    }
    const functions = Object.keys(api).filter((name) => name.startsWith("fetch"))
    process.stdout.write(JSON.stringify({ functions, answers }))
}

main()
