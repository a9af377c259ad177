/** Tile programs as text; `parse.ts` reads it back. */
import { TextWriter, lineComment } from "../support/text.ts";
import { numberText } from "../tensor/print.ts";
import type { SumDirection } from "../tensor/ir.ts";
import type {
  Expr,
  Index,
  Kernel,
  Param,
  Stmt,
  Storage,
  StorageId,
  TileProgram,
  View,
  Window,
  TriangleTerms,
} from "./ir.ts";

/**
 *   kernel retention_forward threads 256 {
 *     param read token q: f32[T, 64] heads H_q
 *     grid column below 64 step 32
 *     register S: f32[64, 64]
 *     shared lhs_slab: f32[32, 64] pad 1
 *     loop t below T step 32 {
 *       load q = q[t, 0]
 *       mma scores[0:32, 0:32] += q[0:32, 0:64] @ k[0:32, 0:64]^T
 *       map masked = select(ge(at(row, 0), at(col, 0)), mul(scores, 2), 0)  // retention.lasp:6  ...
 *     }
 *   }
 *
 * In a kernel with roles `@1 map ...` is executed by role 1 alone.
 *
 * A note stands behind the first statement it is about and holds for those after it in the same
 * body, until the next one; an empty `//` ends it.
 */
export function printTile(program: TileProgram): string {
  const writer = new TextWriter();
  writer.block(`tile ${program.name} {`, () => {
    for (const kernel of program.kernels) printKernel(kernel, writer);
  });
  return writer.toString();
}

function printKernel(kernel: Kernel, writer: TextWriter): void {
  const roles = kernel.roles === undefined ? "" : ` roles ${kernel.roles.join(" ")}`;
  writer.block(`kernel ${kernel.name} threads ${kernel.threads}${roles} {`, () => {
    for (const param of kernel.params) writer.line(paramText(param));
    for (const axis of kernel.grid) {
      writer.line(`grid ${axis.name} below ${axis.extent} step ${axis.step}`);
    }
    for (const storage of kernel.storages) writer.line(storageText(storage));
    const names = new Map(kernel.storages.map((storage) => [storage.id, storage.name]));
    printBody(kernel.body, (id) => names.get(id) ?? `?${id}`, writer);
  });
}

type NameOf = (id: StorageId) => string;

function paramText(param: Param): string {
  const type = `${param.dtype}[${param.shape.join(", ")}]`;
  const chunk = param.chunk === undefined ? "" : ` of ${param.chunk}`;
  const shares = param.shares === undefined ? "" : ` shares ${param.shares}`;
  return `param ${param.access} ${param.per}${chunk} ${param.name}: ${type} heads ${param.heads}${shares}`;
}

function storageText({ memory, name, dtype, shape, pad, places }: Storage): string {
  const padding = pad > 0 ? ` pad ${pad}` : "";
  const turns = places === undefined ? "" : ` places ${places}`;
  return `${memory} ${name}: ${dtype}[${shape.join(", ")}]${padding}${turns}`;
}

function printBody(body: readonly Stmt[], nameOf: NameOf, writer: TextWriter): void {
  let note: string | null = null;
  for (const stmt of body) {
    const fresh = stmt.note === note ? "" : `  ${lineComment("//", stmt.note ?? "")}`.trimEnd();
    note = stmt.note;
    if (stmt.kind === "loop") {
      const direction = stmt.reverse ? " reverse" : "";
      const { within } = stmt;
      const part = within === null ? "" : ` within ${within.base}:${within.length}`;
      const head = `loop ${stmt.variable} below ${stmt.extent} step ${stmt.step}${part}${direction} {`;
      writer.block(head + fresh, () => printBody(stmt.body, nameOf, writer));
    } else {
      const role = stmt.role === undefined ? "" : `@${stmt.role} `;
      writer.line(role + stmtText(stmt, nameOf) + fresh);
    }
  }
}

/** One statement without its note. */
export function stmtText(stmt: Exclude<Stmt, { kind: "loop" }>, nameOf: NameOf): string {
  switch (stmt.kind) {
    case "load":
      return `load ${nameOf(stmt.dst)} = ${viewText(stmt.view)}`;
    case "copy-async": {
      const first = stmt.turns === "first" ? "first " : "";
      const ahead = stmt.ahead > 0 ? `ahead ${stmt.ahead} ` : "";
      const last = stmt.isLast ? "last " : "";
      return `copy-async ${first}${ahead}${last}${nameOf(stmt.dst)} = ${viewText(stmt.view)}`;
    }
    case "invert":
      return `invert ${nameOf(stmt.dst)}`;
    case "store":
      return `store ${viewText(stmt.view)} = ${nameOf(stmt.src)}`;
    case "wait":
      return `wait ${stmt.pending}`;
    case "copy":
      return `copy ${stmt.rest ? "rest " : ""}${windowText(stmt.dst, nameOf)} = ${windowText(stmt.src, nameOf)}${stmt.transpose ? "^T" : ""}`;
    case "map":
      return `map ${nameOf(stmt.dst)} = ${exprText(stmt.expr, nameOf)}`;
    case "mma": {
      const lhs = windowText(stmt.lhs, nameOf) + (stmt.transposeLhs ? "^T" : "");
      const rhs = windowText(stmt.rhs, nameOf) + (stmt.transposeRhs ? "^T" : "");
      return `mma ${windowText(stmt.dst, nameOf)} += ${lhs} @ ${rhs}${termsText(stmt.triangle)}`;
    }
    case "mma-parts":
      return `mma-parts ${nameOf(stmt.dst)} = ${nameOf(stmt.lhs)} @ ${nameOf(stmt.rhs)}^T`;
    case "reduce": {
      const scratch = stmt.scratch === null ? "" : ` scratch ${nameOf(stmt.scratch)}`;
      return `reduce ${nameOf(stmt.dst)} = ${stmt.fn} ${stmt.axis} ${nameOf(stmt.src)}${scratch}`;
    }
    case "fold":
      return `fold ${nameOf(stmt.dst)} = ${stmt.fn} ${stmt.axis} ${nameOf(stmt.src)}`;
    case "join":
      return `join ${nameOf(stmt.dst)} = ${stmt.fn} ${nameOf(stmt.src)}`;
    case "cumsum":
      return [
        `cumsum ${nameOf(stmt.dst)} = ${nameOf(stmt.src)}`,
        ...(stmt.part ? [stmt.part] : []),
        ...(stmt.reverse ? ["reverse"] : []),
        ...(stmt.exclusive ? ["exclusive"] : []),
        ...(stmt.block === null ? [] : [`block ${stmt.block}`]),
        ...(stmt.earlier ? ["earlier", ...directionWords(stmt.earlier)] : []),
      ].join(" ");
    case "solve": {
      const side = stmt.upper ? "upper" : "lower";
      return `solve ${nameOf(stmt.dst)} ${side} ${nameOf(stmt.matrix)}${stmt.transpose ? "^T" : ""}`;
    }
    case "rotate-half":
      return `rotate-half ${nameOf(stmt.dst)} = ${nameOf(stmt.src)} width ${stmt.width}`;
    case "barrier":
      return "barrier";
    case "signal":
    case "await":
      return `${stmt.kind} ${stmt.number}`;
  }
}

export function indexText({ base, offset }: Index): string {
  if (base === null) return String(offset);
  if (offset === 0) return base;
  return offset < 0 ? `${base} - ${-offset}` : `${base} + ${offset}`;
}

function viewText(view: View): string {
  const chunk = view.token === undefined ? "" : `${indexText(view.token)}: `;
  return `${view.param}[${chunk}${indexText(view.row)}, ${indexText(view.col)}]`;
}

function termsText(triangle: TriangleTerms | undefined): string {
  if (!triangle) return "";
  const side = triangle.upper ? "upper" : "lower";
  return ` ${triangle.strict ? "strictly " : ""}${side} from ${indexText(triangle.from)}`;
}

function windowText(window: Window, nameOf: NameOf): string {
  const range = (start: Index, size: number) => `${indexText(start)}:${size}`;
  return `${nameOf(window.storage)}[${range(window.row, window.rows)}, ${range(window.col, window.cols)}]`;
}

/** An expression: calls, storages (`x`, `x@row`, `x@col`), `row`/`col` counters, bounds tests. */
export function exprText(expr: Expr, nameOf: NameOf): string {
  switch (expr.kind) {
    case "const":
      return numberText(expr.value);
    case "read":
      return expr.at === "row" || expr.at === "col"
        ? `${nameOf(expr.storage)}@${expr.at}`
        : nameOf(expr.storage);
    case "index": {
      const start = indexText(expr.start);
      return `${expr.global ? "token" : "at"}(${expr.axis}, ${start})`;
    }
    case "inside":
      return `inside(${expr.axis}, ${indexText(expr.start)}, ${expr.limit})`;
    case "runtime":
      return `$${expr.scalar}`;
    case "call":
      return `${expr.fn}(${expr.args.map((arg) => exprText(arg, nameOf)).join(", ")})`;
  }
}

function directionWords({ reverse, exclusive }: SumDirection): string[] {
  return [reverse ? "reverse" : "forward", exclusive ? "exclusive" : "inclusive"];
}
