/** What the compiler tells a user about their text: values, never exceptions. */
import type { Span } from "./span.ts";

export type Severity = "error" | "warning";

/** A place in the source and what is there: "q has type [T, K]". */
export interface Label {
  readonly span: Span;
  readonly text: string;
}

export interface Diagnostic {
  /** A code of `docs/diagnostics.md`: words with hyphens, stable. `unsupported-*` is a limitation. */
  readonly code: string;
  readonly severity: Severity;
  /** Lower case, no full stop, in the user's words. */
  readonly message: string;
  /** The first is the primary place. */
  readonly labels: readonly Label[];
  /** What to write instead; null when there is nothing to say. */
  readonly help: string | null;
}

/** A phase's result: it keeps going after a mistake and reports all of them. */
export interface Outcome<T> {
  /** null when the diagnostics hold an error that leaves nothing to go on with. */
  readonly value: T | null;
  readonly diagnostics: readonly Diagnostic[];
}

export function hasErrors(diagnostics: readonly Diagnostic[]): boolean {
  return diagnostics.some((diagnostic) => diagnostic.severity === "error");
}
