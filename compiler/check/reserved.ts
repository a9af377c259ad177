/**
 * Names that the compiler gives to tensors of its own. A manifest has one space of names: inputs, results,
 * first and last states, gradients, and what plans call their buffers. Every other name is the user's.
 */

/** Tensors that callers see: `initial_S`, `final_S`, and `d_q`, the gradient of q. */
const publicPrefix = /^(?:initial|final|d)_/;

/** What forms and plans call tensors made of another: `summary_S`, `gathered_decay_S_2`, `heads_q`. */
const ownWords =
  "summary|decay|transition|segment|cache|earlier|later|both|carried|gathered|passed|passing|" +
  "folded|heard|known|prefix|whole|heads|tokens|local";
const derived = new RegExp(`^(?:(?:${ownWords})_(?:\\d+_)?)+(.+?)(?:_\\d+)?$`);
const ownPrefix = new RegExp(`^(?:initial|final|d|bwd|${ownWords})_`);

/** States of product forms, which have no name in the text. */
const unnamedState = /^S(?:_\d+)*$/;

/** Why a parameter or result cannot be called so beside these other names; null: it can. */
export function reservedTensor(name: string, others: ReadonlySet<string>): string | null {
  if (name === "cu_seqlens") return "packed sequences are cut by a tensor of this name";
  const [prefix] = publicPrefix.exec(name) ?? [];
  if (prefix === "d_") return "gradients begin with `d_`";
  if (prefix !== undefined) return `states before and after a sequence begin with \`${prefix}\``;
  const [, of] = derived.exec(name) ?? [];
  if (of === undefined || !(others.has(of) || unnamedState.test(of) || /^\d+$/.test(of)))
    return null;
  return /^\d+$/.test(of)
    ? "parts of results are called so"
    : `tensors made of \`${of}\` are called so`;
}

/** Why a state cannot be called so; null: it can. */
export function reservedState(name: string): string | null {
  return ownPrefix.test(name) ? "tensors made of states begin so" : null;
}

/** Why a dim cannot be called so; null: it can. */
export function reservedDim(name: string): string | null {
  switch (name) {
    case "B":
      return "it is the number of sequences";
    case "H":
      return "it is the number of heads";
    case "C":
      return "the compiler calls its chunks so";
    default:
      return name.startsWith("H_") ? "numbers of heads are called so" : null;
  }
}
