/**
 * Who is at the other end: both prove that they know the token before either reads a length from the other.
 *
 *   listener   "LASP" version  nonce                     40 bytes
 *   caller     "LASP" version  from to  nonce  proof     80 bytes
 *   listener   proof                                     32 bytes
 *
 * A proof is HMAC-SHA256 by the token over the prover's role, both nonces and both ranks, so none can be sent back or
 * used twice. Everything has a fixed size: what a stranger can make a rank keep is these bytes.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { ByteReader } from "./wire.ts";

export const protocolVersion = 1;

const magic = Buffer.from("LASP");
const [nonceBytes, proofBytes] = [32, 32];
const prefixBytes = 8;

function prefix(): Buffer {
  const bytes = Buffer.alloc(prefixBytes);
  magic.copy(bytes);
  bytes.writeUInt32BE(protocolVersion, 4);
  return bytes;
}

/** Throws when the other end is something else, or another version. */
function checkPrefix(bytes: Buffer): void {
  if (!bytes.subarray(0, 4).equals(magic)) throw new Error("it is no rank of laspc");
  const version = bytes.readUInt32BE(4);
  if (version !== protocolVersion) {
    throw new Error(`it speaks protocol ${version}, this rank ${protocolVersion}`);
  }
}

function proofOf(token: string, role: "caller" | "listener", ...parts: Buffer[]): Buffer {
  const hmac = createHmac("sha256", token).update(`laspc ${protocolVersion} ${role}\n`);
  for (const part of parts) hmac.update(part);
  return hmac.digest();
}

/** The caller's part. **Errors:** the other end is no rank, or the tokens differ. */
export async function callRank(
  reader: ByteReader,
  { from, to, token }: { readonly from: number; readonly to: number; readonly token: string },
): Promise<void> {
  const greeting = await reader.bytes(prefixBytes + nonceBytes);
  checkPrefix(greeting);
  const theirs = greeting.subarray(prefixBytes);
  const ranks = Buffer.alloc(8);
  ranks.writeUInt32BE(from, 0);
  ranks.writeUInt32BE(to, 4);
  const ours = randomBytes(nonceBytes);
  const proof = proofOf(token, "caller", theirs, ours, ranks);
  reader.socket.write(Buffer.concat([prefix(), ranks, ours, proof]));
  const answer = await reader.bytes(proofBytes).catch(() => null);
  const expected = proofOf(token, "listener", theirs, ours, ranks);
  if (answer === null || !timingSafeEqual(answer, expected)) {
    throw new RefusedError("it does not share this rank's token (LASPC_TOKEN)");
  }
}

/** The listener closed without an answer, as it does for a false token, and when it ends; or answered falsely. */
export class RefusedError extends Error {}

/** The listener's part: the caller's rank. **Errors:** a stranger. */
export async function answerRank(
  reader: ByteReader,
  {
    rank,
    ranks: count,
    token,
  }: { readonly rank: number; readonly ranks: number; readonly token: string },
): Promise<number> {
  const ours = randomBytes(nonceBytes);
  reader.socket.write(Buffer.concat([prefix(), ours]));
  const call = await reader.bytes(prefixBytes + 8 + nonceBytes + proofBytes);
  checkPrefix(call);
  const ranks = call.subarray(prefixBytes, prefixBytes + 8);
  const theirs = call.subarray(prefixBytes + 8, prefixBytes + 8 + nonceBytes);
  const proof = call.subarray(prefixBytes + 8 + nonceBytes);
  if (!timingSafeEqual(proof, proofOf(token, "caller", ours, theirs, ranks))) {
    throw new Error("it does not share this rank's token (LASPC_TOKEN)");
  }
  const [from, to] = [ranks.readUInt32BE(0), ranks.readUInt32BE(4)];
  // A caller with the token that miscounts the ranks is told so by what the ranks compare next.
  if (to !== rank || from === rank)
    throw new Error(`rank ${from} called rank ${to} at rank ${rank}`);
  if (from >= count) throw new Error(`there is no rank ${from} of ${count}`);
  reader.socket.write(proofOf(token, "listener", ours, theirs, ranks));
  return from;
}
