/** Marks the end of an exhaustive `switch`: a new variant makes the call a type error. */
/** Something sound that the compiler or the runtime cannot do: the message says what and why. */
export class Unsupported extends Error {}

export function assertNever(value: never): never {
  throw new CompilerBug(`unhandled variant: ${JSON.stringify(value)}`);
}

/**
 * A mistake of ours, never of the user's. Thrown, caught once in the command line (exit 70).
 * `context` holds what helps to find it: the name of the pass and the IR it was looking at.
 */
export class CompilerBug extends Error {
  readonly context: string;
  constructor(message: string, context = "") {
    super(message);
    this.name = "CompilerBug";
    this.context = context;
  }
}
