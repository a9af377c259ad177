/**
 * Statements as functions. What a statement on tiles does depends on nothing but where its storages are,
 * so those that read alike call one function, whose name says all that it does:
 *
 *   call void @"map a = mul(b, c.row) on 32 x 16, 32 x 16, 32"(float* %k_decayed, float* %k, float* %decay)
 *
 * The linker keeps one for all kernels. LLVM's time grows with the square of a function's size, so a
 * kernel of a thousand statements takes seconds this way and minutes as one function.
 */
import { readsOf, writesOf } from "../../compiler/tile/accesses.ts";
import type { Expr, Kernel, Stmt, StorageId, Window } from "../../compiler/tile/ir.ts";
import { stmtText } from "../../compiler/tile/print.ts";

export interface StatementFunction {
  readonly name: string;
  /** Its parameters, in order. */
  readonly storages: readonly StorageId[];
}

/** The function that a statement calls; null for one that stands where it is. */
export function functionOf(kernel: Kernel, stmt: Stmt): StatementFunction | null {
  if (stmt.kind === "loop" || !isAboutStorages(stmt)) return null;
  const storages = [...new Set([...writesOf(stmt), ...readsOf(stmt)])];
  const shapes = storages.map((id) => kernel.storages.find((storage) => storage.id === id)!.shape);
  // Scalars are in registers, and what is done to vectors is little.
  if (shapes.some(({ length }) => length === 0)) return null;
  if (shapes.every(({ length }) => length === 1)) return null;
  // A linker takes what follows an "@" for a version.
  const text = stmtText(stmt, (id) => letterOf(storages.indexOf(id))).replaceAll("@", ".");
  const sizes = shapes.map((shape) => shape.join(" x "));
  return { name: `${text} on ${sizes.join(", ")}`, storages };
}

/** a, b, ... z, a1, ... */
export function letterOf(n: number): string {
  const round = Math.floor(n / 26);
  return String.fromCharCode(97 + (n % 26)) + (round === 0 ? "" : String(round));
}

/** Does the statement read and write storages alone, at places known now? */
function isAboutStorages(stmt: Stmt): boolean {
  switch (stmt.kind) {
    case "map":
      return isKnown(stmt.expr);
    case "copy":
      return [stmt.dst, stmt.src].every(isFixed);
    case "mma":
      return [stmt.dst, stmt.lhs, stmt.rhs].every(isFixed);
    case "reduce":
    case "cumsum":
    case "solve":
    case "rotate-half":
      return true;
    default:
      return false;
  }
}

const isFixed = ({ row, col }: Window) => row.base === null && col.base === null;

function isKnown(expr: Expr): boolean {
  switch (expr.kind) {
    case "const":
    case "read":
      return true;
    case "runtime":
      return false;
    case "index":
      return expr.start.base === null && !expr.global;
    case "inside":
      return expr.start.base === null && expr.limit !== "T";
    case "call":
      return expr.args.every(isKnown);
  }
}
