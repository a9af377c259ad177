// Strangers call a rank that waits for its peer: node scripts/fuzz-tcp.mjs --times 10000 --seed 1
// Each sends random, truncated, oversized, foreign or replayed bytes. All must be refused, and the ranks then connect.
import { createHash, randomBytes } from "node:crypto";
import { connect } from "node:net";
import { parseArgs } from "node:util";
import { tcpTransport } from "../runtime/dist/node.js";

const { values } = parseArgs({
  options: { times: { type: "string", default: "2000" }, seed: { type: "string", default: "1" } },
});
const [times, seed] = [Number(values.times), values.seed];
const port = 20_000 + (randomBytes(2).readUInt16BE() % 10_000);
const base = {
  ranks: 2,
  host: "127.0.0.1",
  port,
  bind: "127.0.0.1",
  token: "the ranks' own",
  largestMessage: 64,
  description: { program: "fuzz" },
  connectTimeoutMs: 300_000,
};

/** Bytes that depend on the seed, the call and what they are for. */
function bytesOf(call, use, size) {
  const block = createHash("sha256").update(`${seed} ${call} ${use}`).digest();
  return Buffer.alloc(size, block);
}
const numberOf = (call, use, below) => bytesOf(call, use, 4).readUInt32BE() % below;

const prefix = Buffer.from([...Buffer.from("LASP"), 0, 0, 0, 2]);
const attacks = {
  random: (call) => bytesOf(call, "bytes", numberOf(call, "size", 400)),
  oversized: (call) => bytesOf(call, "bytes", 2 ** 18),
  "a truncated call": (call) =>
    Buffer.concat([prefix, bytesOf(call, "rest", numberOf(call, "size", 72))]),
  "a call with a false proof": (call) =>
    Buffer.concat([prefix, Buffer.from([0, 0, 0, 1, 0, 0, 0, 0]), bytesOf(call, "rest", 64)]),
  "another version": (call) => Buffer.concat([Buffer.from("LASP"), bytesOf(call, "rest", 76)]),
  "a frame of 2^53 bytes": () => Buffer.from("00000000000000000020000000000000", "hex"),
  foreign: () => Buffer.from("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
  "its own greeting": null,
};
const names = Object.keys(attacks);
/** The verdict "another token", and no proof. */
const refusal = Buffer.concat([Buffer.from([0, 0, 0, 1]), Buffer.alloc(32)]);

let refused = 0;
let peakBytes = 0;

/** Resolves when the rank has closed the connection; half of the callers hang up themselves. */
function call(number) {
  return new Promise((resolve) => {
    const attack = attacks[names[number % names.length]];
    const socket = connect({ host: base.host, port });
    const hangsUp = numberOf(number, "hang up", 2) === 0;
    socket.on("connect", () => {
      if (!attack) return;
      const bytes = attack(number);
      if (hangsUp) socket.end(bytes);
      else socket.write(bytes);
    });
    let heard = Buffer.alloc(0);
    socket.on("data", (bytes) => {
      heard = Buffer.concat([heard, bytes]);
      if (!attack) socket.write(Buffer.concat([bytes, bytes]));
    });
    socket.on("error", () => {});
    // Too short a call waits for the rank's patience to end; most hang up before.
    const timer = setTimeout(() => socket.destroy(), 100);
    socket.on("close", () => {
      clearTimeout(timer);
      // A greeting of 40 bytes and a refusal that proves nothing are all that a stranger gets.
      const answer = heard.subarray(40);
      if (answer.equals(refusal.subarray(0, answer.length))) refused += 1;
      peakBytes = Math.max(peakBytes, process.memoryUsage.rss());
      resolve();
    });
  });
}

const beforeBytes = process.memoryUsage.rss();
const waiting = tcpTransport({ ...base, rank: 0 });
let next = 0;
const callers = Array.from({ length: 50 }, async () => {
  while (next < times) await call(next++);
});
await Promise.all(callers);
const [a, b] = await Promise.all([waiting, tcpTransport({ ...base, rank: 1 })]);
await a.send(1, 7, Uint8Array.of(1, 2, 3));
const message = await b.recv(0, 7, 3);
await Promise.all([a.close(), b.close()]);
const isBounded = peakBytes - beforeBytes < 256 * 2 ** 20;
const ok = refused === times && isBounded && message.join() === "1,2,3";
const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
console.log(
  `${refused} of ${times} strangers refused; memory ${mebibytes(beforeBytes)} before, ${mebibytes(peakBytes)} at most; ` +
    `the ranks then ${message.join() === "1,2,3" ? "met" : "did not meet"}`,
);
process.exitCode = ok ? 0 : 1;
