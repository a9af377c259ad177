/**
 * Every code a diagnostic can have: its message, what it means, what to do. `laspc explain CODE` and
 * docs/diagnostics.md print from here. Codes are stable; `{name}` in a message is a parameter.
 */
import type { Diagnostic, Label, Severity } from "./diagnostic.ts";

interface Entry {
  readonly message: string;
  readonly means: string;
  readonly fix: string;
  readonly severity?: Severity;
}

export const catalogue = {
  // --- text -------------------------------------------------------------------------------------
  "unexpected-character": {
    message: "`{found}` is not part of the language",
    means: "The text holds a character that no word of the language has.",
    fix: "Remove it. Comments start with `//`, a transpose is `.T`, a power is `**`.",
  },
  "unexpected-token": {
    message: "{found} cannot stand {where}",
    means: "The words do not follow the grammar; the label says what was expected instead.",
    fix: "docs/language.md has the grammar. A bracket or a comma is missing more often than not.",
  },
  "unexpected-end": {
    message: "the file ends {where}",
    means: "Something that was opened is not closed: a block, a parameter list, an expression.",
    fix: "Close it: `}`, `)` or `]`.",
  },
  unclosed: {
    message: "`{found}` is not closed",
    means: "A bracket is opened and something stands behind it that cannot stand inside.",
    fix: "Write `{closing}` before {next}.",
  },
  unopened: {
    message: "`{found}` closes nothing",
    means: "There are more closing brackets than opening ones.",
    fix: "Remove it.",
  },
  "missing-comma": {
    message: "a comma is missing before `{right}`",
    means: "Parameters, arguments and axes stand between commas.",
    fix: "Write `, {right}`.",
  },
  "missing-operator": {
    message: "an operator is missing between `{left}` and `{right}`",
    means: "A product is always written: `@` for matrices, `*` for each element.",
    fix: "Write `{left} @ {right}` for a product of matrices and vectors, `{left} * {right}` for each element.",
  },
  "unused-expression": {
    message: "a value alone is not a statement",
    means: "A statement gives a value a name, or hands it on with `return` or `yield`.",
    fix: "Write `{word} {value}`, or `x = {value}`.",
  },
  "misspelled-word": {
    message: "`{found}` is not a word of the language",
    means: "The grammar has few words, and this one is close to one of them.",
    fix: "Write `{word}`.",
  },
  "other-notation": {
    message: "{why}",
    means:
      "The text is written as another language, a library or a paper writes it. What is meant is clear, and is " +
      "written in one way here.",
    fix: "docs/language.md shows how it is written.",
  },
  "bad-number": {
    message: "`{found}` is not a size",
    means: "A fixed dim is a whole number of at least 1.",
    fix: "Write a whole number, or a name whose size is given with `--dim`.",
  },
  "bad-dtype": {
    message: "`{found}` is not a dtype",
    means:
      "A type may start with how it is stored: f32, f16 or bf16. Arithmetic is float32 always.",
    fix: "Write `f32[T, K]`, `f16[T, K]` or `bf16[T, K]`, or leave the dtype to `--dtype`.",
  },
  "bad-per": {
    message: "a parameter is `per head` or `shared`, not per {found}",
    means: "A value without a token axis is one for each head, or one for all.",
    fix: "Write `per head` or `shared`.",
  },
  "bad-range": {
    message: "`{found}` is not a range",
    means: "A range is two bounds, the lower first: `[0, 1]`, `(0, 1]`, `(-inf, 0]`.",
    fix: "Order the bounds; an open end is written with a round bracket.",
  },
  // --- names ------------------------------------------------------------------------------------
  "unknown-name": {
    message: "there is no value `{name}` here",
    means: "A name is read before anything gave it a value.",
    fix: "Assign it first, or add it to the parameters.",
  },
  "unknown-function": {
    message: "there is no function `{name}`",
    means: "Neither the language nor this file defines it.",
    fix: "docs/language.md lists the functions; `def` adds one.",
  },
  "duplicate-name": {
    message: "`{name}` is defined twice",
    means: "Two definitions, parameters or results share a name.",
    fix: "Rename one of them.",
  },
  reassigned: {
    message: "`{name}` has a value already",
    means: "A value is given once. Only the states of a recurrence are updated.",
    fix: "Use a new name.",
  },
  "reserved-name": {
    message: "`{name}` cannot be the name of {what}",
    means:
      "T is the token axis, built-in functions keep their names, dims are sizes. An artifact has one space of " +
      "names for tensors: `initial_S` and `final_S` are of a state S, `d_q` is the gradient of q, and what is " +
      "exchanged of S (`summary_S`, `decay_S`, ...) has names of the compiler's.",
    fix: "Choose another name.",
  },
  "unused-parameter": {
    message: "parameter `{name}` is never read",
    means: "The result does not depend on it.",
    fix: "Remove it, or use it.",
    severity: "warning",
  },
  "unused-value": {
    message: "`{name}` is never read",
    means: "The value is computed for nothing; the compiler drops it.",
    fix: "Remove the statement, or use it.",
    severity: "warning",
  },
  // --- parameters and results -------------------------------------------------------------------
  "missing-per": {
    message: "say how `{name}` varies: per token, `per head`, or `shared`",
    means: "A parameter without T is the same for all tokens; it may differ between heads or not.",
    fix: "Write `{name}: {type} per head`, `{name}: {type} shared`, or give it a T axis.",
  },
  "needless-per": {
    message: "`{name}` varies with T, so it cannot be `{per}`",
    means: "Per-token parameters vary over batch, tokens and heads.",
    fix: "Drop `{per}`.",
  },
  "token-axis-first": {
    message: "T is the first axis of a type, once",
    means: "Tokens are rows: [T, K].",
    fix: "Put T first; write a transpose as `.T` where it is used.",
  },
  "too-many-axes": {
    message: "a value has at most two axes",
    means:
      "An attention is written for one sequence and one head; batch and heads are mapped over.",
    fix: "Leave batch and heads away; fold other axes together.",
  },
  "no-token-axis": {
    message: "no parameter has the token axis T",
    means: "Tokens are rows, and their axis is called T in every attention: [T, K].",
    fix: "Write `q: [T, K]`.",
  },
  "result-not-per-token": {
    message: "a result is per token: its type starts with T",
    means: "Every output has one row for each token. Final states come out without being declared.",
    fix: "Declare `-> [T, V]`.",
  },
  // --- statements -------------------------------------------------------------------------------
  "missing-return": {
    message: "`{name}` returns nothing",
    means: "An attention ends with `return`, or with a recurrence that yields.",
    fix: "Add `return ...`.",
  },
  unreachable: {
    message: "nothing runs after `{word}`",
    means: "The statement stands behind the one that ends the definition.",
    fix: "Remove it, or move it up.",
  },
  "return-count": {
    message: "`{name}` declares {declared} but returns {returned}",
    means: "One value is returned for each declared result, in order.",
    fix: "Return as many values as the type after `->` has.",
  },
  "return-shape": {
    message: "the result is declared {declared} but has type {found}",
    means: "What is returned must have the declared type.",
    fix: "Change the declaration or the expression.",
  },
  "yield-outside": {
    message: "`yield` stands outside of a recurrence",
    means: "A recurrence yields one row for each token; an attention returns all rows.",
    fix: "Write `return`.",
  },
  "return-inside": {
    message: "`return` stands inside a recurrence",
    means: "A recurrence yields one row for each token.",
    fix: "Write `yield`.",
  },
  "missing-yield": {
    message: "the recurrence yields nothing",
    means: "A recurrence gives one row for each token, with `yield`.",
    fix: "Add `yield q @ S` or what the rule reads.",
  },
  "yield-count": {
    message: "a recurrence that is used as a value yields one row, not {found}",
    means: "Only a recurrence that is the attention's whole result may yield several.",
    fix: "Yield one value, or make the recurrence the last statement.",
  },
  "nested-recurrence": {
    message: "a recurrence cannot stand inside another",
    means: "The body runs for one token; there is no sequence in it to run over.",
    fix: "Give one recurrence several states: `recurrence S: [K, V], z: [K, 1] { ... }`.",
  },
  "state-not-updated": {
    message: "state `{name}` is never updated",
    means: "A state that stays zero says nothing.",
    fix: "Assign it: `{name} = {name} + outer(k, v)`.",
  },
  "state-shape": {
    message: "state `{name}` is {declared} but is given {found}",
    means: "A state keeps its type from token to token.",
    fix: "Check the factors of the update: outer(k, v) is [K, V].",
  },
  "state-type": {
    message: "a state is a matrix or a vector without T, such as [K, V]",
    means: "A state sums up all tokens so far; it has no token axis.",
    fix: "Write one or two dims that are not T.",
  },
  // --- shapes -----------------------------------------------------------------------------------
  "shape-mismatch": {
    message: "{left} and {right} do not fit together",
    means:
      "Operands of arithmetic have the same type, or one spreads over the other's axes by name.",
    fix: "Check which axes each operand has; the labels show both types.",
  },
  "ambiguous-broadcast": {
    message: "{small} could spread over the rows or the columns of {large}",
    means: "Axes are matched by name, and the larger operand has this name twice.",
    fix: "Scale q or k instead of the scores: (g * q) @ k.T scales rows.",
  },
  "product-mismatch": {
    message: "{left} has {columns} columns but {right} has {rows} rows",
    means: "`a @ b` contracts the last axis of a with the first of b.",
    fix: "Transpose one operand (`.T`), or use another one.",
  },
  "product-of-scalar": {
    message: "`@` multiplies matrices and vectors, and {name} is a scalar",
    means: "A scalar has no axis to contract.",
    fix: "Write `*`.",
  },
  "transpose-rank": {
    message: "`.T` needs two axes, and {name} has type {type}",
    means:
      "Only a matrix has a transpose. Vectors are rows on the left of `@`, columns on the right.",
    fix: "Drop `.T`.",
  },
  "argument-count": {
    message: "`{name}` takes {wanted}, not {found}",
    means: "The function is called with too many or too few arguments.",
    fix: "docs/language.md shows how each function is called.",
  },
  "argument-shape": {
    message: "`{name}` takes {wanted}, not {found}",
    means: "The function does not accept a value of this type.",
    fix: "docs/language.md shows how each function is called.",
  },
  "not-a-number": {
    message: "`{name}` takes a number here",
    means: "This argument is a setting, fixed when the kernel is compiled.",
    fix: "Write a number, such as 1e-6.",
  },
  "odd-rotary": {
    message: "rotary turns pairs of columns, and {axis} is odd",
    means: "The axis is cut into two halves.",
    fix: "Choose an even size.",
  },
  "recursive-def": {
    message: "`{name}` calls itself",
    means: "A def is put in place of its call, so it cannot contain itself.",
    fix: "Write the steps out.",
  },
  "mask-in-recurrence": {
    message: "`{name}` stands inside a recurrence",
    means: "Masks and positions belong to whole sequences; a recurrence sees one token.",
    fix: "Take it out of the recurrence; a recurrence is causal by itself.",
  },
  // --- compiling --------------------------------------------------------------------------------
  "no-entry": {
    message: "it is not clear which attention is meant: {names}",
    means: "The file defines none or several.",
    fix: "Name one with `--entry`.",
  },
  "unknown-entry": {
    message: "the file has no attention `{name}`; it defines {names}",
    means: "`--entry` names something else.",
    fix: "Use one of the names the file defines.",
  },
  "missing-dim": {
    message: "the size of {name} is not given",
    means: "Head sizes are fixed when kernels are compiled. T, batch and heads are not.",
    fix: "Give it: `--dim {name}=64`.",
  },
  "unsupported-scores": {
    message: "this attention is not linear in its scores: {why}",
    means:
      "A product form is compiled when its scores are a sum of (q @ k.T) * causal_decay(...), scaled " +
      "by numbers. Then the T x T matrix is never built. A softmax over the scores is outside.",
    fix: "Put a feature map on q and k instead of a function on the scores.",
  },
  "unsupported-transition": {
    message: "{why}",
    means:
      "A recurrence is compiled when its state is scaled (by a number for each token, or one for all) " +
      "and has outer products added to it.",
    fix: "Write the update as S = a * S + outer(k, v).",
  },
  "unsupported-decay-sign": {
    message: "{why}",
    means: "Decays are multiplied up as logarithms, so they must be known to be positive or zero.",
    fix: "Write the decay as exp(g), or declare a range: `a: [T] in (0, 1]`.",
  },
  "unsupported-read": {
    message: "{why}",
    means: "A state is read with a query: `q @ S`, which becomes a scan.",
    fix: "Read it as `q @ S`.",
  },
  "unsupported-length": {
    message: "{why}",
    means:
      "A text has limits: 262144 characters, words of 64, 64 brackets and signs inside one another, 256 operators " +
      "that wait for one another, and 400 operations of an attention, its functions put in place.",
    fix: "Give parts of it names, or split the attention.",
  },
  "unsupported-size": {
    message: "{why}",
    means: "The target has no room for tiles of these sizes.",
    fix: "Choose smaller head sizes, or another target.",
  },
} as const satisfies Record<string, Entry>;

export type Code = keyof typeof catalogue;

/** A diagnostic of the catalogue, its message filled in. `help` replaces the entry's own advice. */
export function diagnose(
  code: Code,
  params: Readonly<Record<string, string>>,
  labels: readonly Label[],
  help: string | null = null,
): Diagnostic {
  const entry: Entry = catalogue[code];
  const fill = (text: string) => text.replace(/\{(\w+)\}/g, (whole, key) => params[key] ?? whole);
  return {
    code,
    severity: entry.severity ?? "error",
    message: fill(entry.message),
    labels,
    help: help ?? fill(entry.fix),
  };
}

/** The page of a code, or null when there is none. */
export function pageOf(code: string): string | null {
  if (!Object.hasOwn(catalogue, code)) return null;
  const entry: Entry = catalogue[code as Code];
  return `${code} (${entry.severity ?? "error"})\n\n  ${entry.message}\n\n${entry.means}\n\nTo fix it: ${entry.fix}\n`;
}
