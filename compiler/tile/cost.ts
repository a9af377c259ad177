/** What expressions cost. */
import type { MapFn } from "../tensor/ir.ts";
import type { Expr } from "./ir.ts";

/** An instruction or two on every target. */
export const cheapFns: ReadonlySet<MapFn> = new Set<MapFn>([
  "neg",
  "add",
  "sub",
  "mul",
  "max",
  "min",
  "select",
  "lt",
  "le",
  "gt",
  "ge",
  "eq",
  "floor",
  "as_bf16",
]);

export function callsOnly(expr: Expr, fns: ReadonlySet<MapFn>): boolean {
  return (
    expr.kind !== "call" || (fns.has(expr.fn) && expr.args.every((one) => callsOnly(one, fns)))
  );
}
