/**
 * Who is at the other end: both prove that they know the token before either reads a length from the other.
 *
 *   listener   "LASP" version  nonce                     40 bytes
 *   caller     "LASP" version  from to  nonce  proof     80 bytes
 *   listener   verdict  proof                            36 bytes
 *
 * A proof is HMAC-SHA256 by the token over the prover's role, both nonces and both ranks, the listener's over its verdict
 * too, so none can be sent back or used twice. Everything has a fixed size: what a stranger can make a rank keep is these
 * bytes. Who is refused hears why; to a stranger the listener proves nothing.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { type Seals, sealsOf } from "./seal.ts";
import type { ByteReader } from "./wire.ts";

export const protocolVersion = 2;

const magic = Buffer.from("LASP");
const [nonceBytes, proofBytes, prefixBytes, verdictBytes] = [32, 32, 8, 4];
/** What each end sends before frames. */
export const handshakeBytes = {
  caller: prefixBytes + 8 + nonceBytes + proofBytes,
  listener: prefixBytes + nonceBytes + verdictBytes + proofBytes,
};

/** What a listener answers. A place in this list is its number on the wire. */
const verdicts = ["welcome", "token", "taken", "unexpected"] as const;
export type Verdict = (typeof verdicts)[number];

const falseToken = "it does not share this rank's token (LASPC_TOKEN)";

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

/** Both nonces, the listener's first, and both ranks: what no other connection has. */
export function handshakeOf(greeting: Buffer, call: Buffer): Buffer {
  const nonceAt = prefixBytes + 8;
  return Buffer.concat([
    greeting.subarray(prefixBytes, prefixBytes + nonceBytes),
    call.subarray(nonceAt, nonceAt + nonceBytes),
    call.subarray(prefixBytes, nonceAt),
  ]);
}

function proofOf(token: string, role: string, handshake: Buffer): Buffer {
  const start = `laspc ${protocolVersion} ${role}\n`;
  return createHmac("sha256", token).update(start).update(handshake).digest();
}

/** The caller's part. **Errors:** the other end is no rank, or it refuses this one: a `RefusedError`. */
export async function callRank(
  reader: ByteReader,
  { from, to, token }: { readonly from: number; readonly to: number; readonly token: string },
): Promise<Seals> {
  const greeting = await reader.bytes(prefixBytes + nonceBytes);
  checkPrefix(greeting);
  const call = Buffer.concat([prefix(), Buffer.alloc(8), randomBytes(nonceBytes)]);
  call.writeUInt32BE(from, prefixBytes);
  call.writeUInt32BE(to, prefixBytes + 4);
  const handshake = handshakeOf(greeting, call);
  reader.socket.write(Buffer.concat([call, proofOf(token, "caller", handshake)]));
  const answer = await reader.bytes(verdictBytes + proofBytes);
  const verdict = verdicts[answer.readUInt32BE(0)];
  if (verdict === undefined || verdict === "token") throw new RefusedError(falseToken);
  const proof = answer.subarray(verdictBytes);
  if (!timingSafeEqual(proof, proofOf(token, `listener ${verdict}`, handshake))) {
    throw new RefusedError(falseToken);
  }
  if (verdict === "taken") throw new RefusedError(`another rank ${from} is there already`);
  if (verdict === "unexpected") throw new RefusedError(`it waits for no rank ${from}`);
  return sealsOf(token, handshake);
}

/** One end does not take the other. */
export class RefusedError extends Error {}

export interface Answering {
  readonly token: string;
  /** What becomes of who knows the token. It is asked once for each caller, and its word holds. */
  readonly admit: (from: number, to: number) => Exclude<Verdict, "token">;
}

/** The listener's part: the caller's rank. **Errors:** a stranger; a caller that is refused: a `RefusedError`. */
export async function answerRank(
  reader: ByteReader,
  { token, admit }: Answering,
): Promise<{ readonly from: number; readonly seals: Seals }> {
  const greeting = Buffer.concat([prefix(), randomBytes(nonceBytes)]);
  reader.socket.write(greeting);
  const call = await reader.bytes(handshakeBytes.caller);
  checkPrefix(call);
  const handshake = handshakeOf(greeting, call);
  const [from, to] = [call.readUInt32BE(prefixBytes), call.readUInt32BE(prefixBytes + 4)];
  const isKnown = timingSafeEqual(
    call.subarray(handshakeBytes.caller - proofBytes),
    proofOf(token, "caller", handshake),
  );
  const verdict = isKnown ? admit(from, to) : "token";
  const answer = Buffer.alloc(verdictBytes + proofBytes);
  answer.writeUInt32BE(verdicts.indexOf(verdict), 0);
  if (isKnown) proofOf(token, `listener ${verdict}`, handshake).copy(answer, verdictBytes);
  reader.socket.write(answer);
  if (verdict === "welcome") return { from, seals: sealsOf(token, handshake) };
  const whys = {
    token: "does not share this rank's token (LASPC_TOKEN)",
    taken: `came when rank ${from} was there already`,
    unexpected: "is none that this rank waits for",
  };
  throw new RefusedError(`that says it is rank ${from} ${whys[verdict]}`);
}
