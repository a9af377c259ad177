/** What several ranks do together, out of messages between two of them. */
import type { Transport } from "./transport.ts";

/** Tags that no plan gives its messages. */
export const ownTags = { id: 2 ** 32 - 1, leaving: 2 ** 32 - 2, meeting: 2 ** 32 - 3 };

/** Resolves when every rank has come here. **Errors:** one does not in time, or failed. */
export async function meet(transport: Transport, tag: number): Promise<void> {
  const everyone = Array.from({ length: transport.ranks }, (_, rank) => rank);
  await allgather(transport, everyone, tag, new Uint8Array());
}

/**
 * Every rank's bytes, by place in `group`, which all of them name alike. All messages are on their way before
 * the first is waited for.
 */
export async function allgather(
  transport: Transport,
  group: readonly number[],
  tag: number,
  own: Uint8Array,
): Promise<Uint8Array[]> {
  // Each begins with the rank behind it, so that no two send to one rank at a time.
  const place = group.indexOf(transport.rank);
  const others = [...group.slice(place + 1), ...group.slice(0, place)];
  const sent = others.map((rank) => transport.send(rank, tag, own));
  const received = group.map((rank) =>
    rank === transport.rank ? own : transport.recv(rank, tag, own.byteLength),
  );
  const [bytes] = await Promise.all([Promise.all(received), Promise.all(sent)]);
  return bytes;
}
