/** What ranks say of themselves when they meet, as it comes from others. */
import { fromJson } from "./wire.ts";

export interface Address {
  readonly host: string;
  readonly port: number;
}

export interface Hello {
  /** What must be the same on all ranks. */
  readonly description: Readonly<Record<string, string>>;
  /** Where this rank listens. */
  readonly port: number;
}

/** **Errors:** the bytes say something else. */
export function helloOf(bytes: Uint8Array): Hello {
  const { description, port } = objectOf(fromJson(bytes));
  const values = objectOf(description);
  if (!Object.values(values).every((value) => typeof value === "string") || !isPort(port)) {
    throw new Error("it does not say what it runs");
  }
  return { description: values as Record<string, string>, port };
}

/** Where each rank listens, by rank; rank 0 itself is left out. **Errors:** the bytes say something else. */
export function peersOf(bytes: Uint8Array, ranks: number): (Address | null)[] {
  const list = fromJson(bytes);
  const isTable = Array.isArray(list) && list.length === ranks;
  if (!isTable) throw new Error("it does not say where the ranks are");
  return list.map((entry, rank) => {
    if (rank === 0) return null;
    const { host, port } = objectOf(entry);
    if (typeof host !== "string" || !isPort(port))
      throw new Error(`it says rank ${rank} is nowhere`);
    return { host, port };
  });
}

function isPort(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) > 0 && (value as number) < 65_536;
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null) throw new Error("it sent what is no object");
  return value as Record<string, unknown>;
}
