/** A pass is data: a name, a line about it, and a pure function from program to program. */

import type { Diagnostic } from "./diagnostic.ts";

/** What a pass did, or why it left something alone; `laspc explain` shows it. */
export interface Note {
  readonly pass: string;
  readonly kind: "did" | "declined";
  readonly message: string;
}

export class Report {
  readonly notes: Note[] = [];
  /** What cannot be compiled, with codes `unsupported-*`. Never a user's mistake: `check` has those. */
  readonly limitations: Diagnostic[] = [];

  add(note: Note): void {
    this.notes.push(note);
  }

  limit(diagnostic: Diagnostic): void {
    this.limitations.push(diagnostic);
  }
}

export interface Pass<From, To = From> {
  /** kebab-case; also the file's name, the flag and the golden. */
  readonly name: string;
  readonly summary: string;
  readonly run: (program: From, report: Report) => To;
}

/** Told after every pass; `laspc dump --after` and the goldens listen here. */
export type Observer<P> = (pass: string, program: P, changed: boolean) => void;

export function runPasses<P>(
  passes: readonly Pass<P>[],
  input: P,
  verify: (program: P, after: string) => void,
  report: Report,
  observe: Observer<P> = () => {},
): P {
  let program = input;
  for (const pass of passes) {
    // What cannot be compiled is not compiled any further.
    if (report.limitations.length > 0) return program;
    const next = pass.run(program, report);
    verify(next, pass.name);
    observe(pass.name, next, next !== program);
    program = next;
  }
  return program;
}
