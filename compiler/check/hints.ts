/** What to write instead, where a mistake of types or names shows what was meant. */
import { grouped } from "../syntax/foreign.ts";
import { type Dim, tokenDim } from "../tensor/ir.ts";

/** An operand: its text, and its axes. */
export interface Operand {
  readonly text: string;
  readonly shape: readonly Dim[];
}

/** `a @ b` whose inner axes differ. */
export function productHelp(a: Operand, b: Operand): string | null {
  const [x, y] = [grouped(a.text), grouped(b.text)];
  const [rows, columns] = [a.shape[0], a.shape.at(-1)];
  if (a.shape.length === 1 && b.shape.length === 1) {
    return `write \`outer(${a.text}, ${b.text})\` for the matrix of all products`;
  }
  if (b.shape.length === 1) return b.shape[0] === rows ? `write \`${y} @ ${x}\`` : null;
  if (a.shape.length === 1) return b.shape[1] === columns ? `write \`${x} @ ${y}.T\`` : null;
  if (b.shape[1] === columns) return `write \`${x} @ ${y}.T\``;
  return b.shape[0] === rows ? `write \`${x}.T @ ${y}\`` : null;
}

/** `k.T @ v` of vectors: `dropped` is the side whose `.T` has no meaning. */
export function vectorTransposeHelp(
  a: Operand,
  b: Operand,
  dropped: "left" | "right",
): string | null {
  const [x, y] = [grouped(a.text), grouped(b.text)];
  const [m, n] = [a.shape.length, b.shape.length];
  if (m === 1 && n === 1) {
    const isNumber = dropped === "left" && a.shape[0] === b.shape[0];
    const matrix = `\`outer(${a.text}, ${b.text})\``;
    return isNumber
      ? `write \`${x} @ ${y}\` for the number, ${matrix} for the matrix`
      : `write ${matrix}`;
  }
  if (m === 1) return `a vector is a row on the left of \`@\`: write \`${x} @ ${y}\``;
  return n === 1 ? `write \`${y} @ ${x}\`` : null;
}

/** Elementwise operands that do not fit. `args`: those of a call of `outer` on the right. */
export function elementwiseHelp(
  operator: string,
  a: Operand,
  b: Operand,
  outer: readonly string[] | null,
): string | null {
  if (operator === "*" && a.shape.length + b.shape.length > 2) {
    if (a.shape.at(-1) === b.shape[0]) return `write \`${grouped(a.text)} @ ${grouped(b.text)}\``;
  }
  if (a.shape.length === 1 && b.shape.length === 1 && operator === "*") {
    return `write \`outer(${a.text}, ${b.text})\` for the matrix of all products`;
  }
  const isTransposed =
    a.shape.length === 2 && a.shape[0] === b.shape[1] && a.shape[1] === b.shape[0];
  if (!isTransposed) return null;
  if (outer?.length !== 2) return `write \`${grouped(b.text)}.T\``;
  const declared = `[${b.shape.join(", ")}]`;
  return `write \`outer(${outer[1]}, ${outer[0]})\`, or declare \`${a.text}: ${declared}\``;
}

const identities = new Set(["I", "Id", "eye"]);
const constants: Readonly<Record<string, string>> = {
  True: "write `1`",
  true: "write `1`",
  False: "write `0`",
  false: "write `0`",
  None: "leave it out",
  pi: "write `3.141592653589793`",
  e: "write `exp(1)`",
  inf: "write a large number, such as `1e30`; only ranges have `inf`",
};

/** A name without a value: what it was meant for. `kind` is told once of an attention. */
export function nameHelp(
  name: string,
  known: ReadonlySet<string>,
  isFunction: (name: string) => boolean,
): { readonly kind: string; readonly help: string } | null {
  const told = (help: string, kind = name) => ({ kind, help });
  if (isFunction(name)) return told(`call it: \`${name}(${name === "causal" ? "" : "..."})\``);
  const [, plain] = /^(\w+?)_?(?:t|i|n|j|prev|next)$/.exec(name) ?? [];
  if (plain !== undefined && known.has(plain)) {
    const why = /^[A-Z]/.test(plain)
      ? "a state stands for the one before until it is updated"
      : "in a recurrence a name with T is the current token's row";
    return told(`write \`${plain}\`: ${why}`, "subscript");
  }
  const otherCase = [...known].find((other) => other.toLowerCase() === name.toLowerCase());
  if (otherCase !== undefined) return told(`write \`${otherCase}\``, "case");
  if (/^(?:i|j|t|n|m|idx|index)$/.test(name)) {
    const masks = "a mask of decays is `causal_decay(log(gamma))`";
    return told(`tokens have no numbers: ${masks}, and a loop over them a \`recurrence\``, "index");
  }
  if (identities.has(name)) {
    return told(
      `write the product out: \`(${name} - beta * outer(k, k)) @ S\` is \`S - beta * outer(k, k @ S)\``,
    );
  }
  if (Object.hasOwn(constants, name)) return told(constants[name]!);
  if (/^(?:N|L|seq_len|seqlen|length)$/.test(name)) return told(`write \`${tokenDim}\``);
  if (/^(?:S|h|state)$/.test(name)) {
    return told(`declare the state: \`recurrence ${name}: [K, V] { ... }\``, "state");
  }
  if (/^[A-Z]$/.test(name)) return told("a dim is known once a parameter's type has it");
  return null;
}
