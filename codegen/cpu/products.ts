/**
 * Products and copies of windows.
 *
 * dst += lhs rhs in blocks of 4 rows x 1 or 2 vectors that stay in registers while the depth is walked:
 *
 *   for k: b = rhs[k, j ...]; for each row i: acc_i += splat(lhs[i, k]) * b
 *
 * 4 x 1 vectors fill machines with 16 registers of 8 floats or 32 of 4; with 32 registers of 16 floats
 * twice as many are needed to hide the latency of a multiply-add (measured: 167 against 250 GFLOP/s).
 * Which of the two runs is decided when the artifact is compiled for a machine.
 */
import type { Triangle } from "../../compiler/tensor/triangle.ts";
import type { Copy, Mma } from "../../compiler/tile/ir.ts";
import { CompilerBug } from "../../compiler/support/never.ts";
import { type Int, type Value, lanes } from "./builder.ts";
import type { KernelContext } from "./context.ts";

const blockRows = 4;

/** Needs: rhs not transposed (see legalize.ts); rows multiples of 4, columns of 16. */
export function emitMma(context: KernelContext, stmt: Mma): void {
  const { b } = context;
  if (stmt.transposeRhs) throw new CompilerBug("cpu: a right factor was not turned");
  const { rows, cols } = stmt.dst;
  const product = new Product(context, stmt);
  const { triangle } = stmt;
  const columns = (from: Int, to: Int, vectors: number) => {
    b.loop(from, to, lanes * vectors, "col", (col) => {
      // Of a triangle the block at its tip has no terms beside the diagonal's, and a loop has at least one turn.
      const last = rows - blockRows;
      const [first, end] = triangle ? (triangle.upper ? [0, last] : [blockRows, rows]) : [0, rows];
      if (triangle && !triangle.upper) product.block(0, col, vectors);
      b.loop(first, end, blockRows, "row", (row) => product.block(row, col, vectors));
      if (triangle?.upper) product.block(last, col, vectors);
    });
  };
  const paired = Math.floor(cols / (2 * lanes)) * 2 * lanes;
  if (paired > 0) {
    b.choose(
      b.call("laspc_has_wide_registers"),
      "wide",
      () => columns(0, paired, 2),
      () => columns(0, paired, 1),
    );
  }
  columns(paired, cols, 1);
}

class Product {
  private readonly context: KernelContext;
  private readonly dst: { readonly pointer: Value; readonly stride: number };
  private readonly rhs: { readonly pointer: Value; readonly stride: number };
  /** Element (i, k) lies at i * rowStride + k * depthStride. */
  private readonly lhs: {
    readonly pointer: Value;
    readonly rowStride: number;
    readonly depthStride: number;
  };
  private readonly depth: number;
  private readonly triangle: Mma["triangle"];

  constructor(context: KernelContext, { dst, lhs, rhs, transposeLhs, triangle }: Mma) {
    this.context = context;
    this.triangle = triangle;
    const strideOf = (window: Mma["lhs"]) => context.place(window.storage).stride;
    this.dst = { pointer: context.corner(dst), stride: strideOf(dst) };
    this.rhs = { pointer: context.corner(rhs), stride: strideOf(rhs) };
    const stride = strideOf(lhs);
    const [rowStride, depthStride] = transposeLhs ? [1, stride] : [stride, 1];
    this.lhs = { pointer: context.corner(lhs), rowStride, depthStride };
    this.depth = rhs.rows;
  }

  /** dst[row ... row + 4, col ... col + 16 vectors] += its share of the product. */
  block(row: Int, col: Int, vectors: number): void {
    const { b } = this.context;
    const { dst, lhs, rhs } = this;
    const corner = b.at("float", dst.pointer, b.add(b.multiply(row, dst.stride), col));
    const left = b.at("float", lhs.pointer, b.multiply(row, lhs.rowStride));
    const right = b.at("float", rhs.pointer, col);
    const cells = Array.from({ length: blockRows * vectors }, (_, cell) => {
      const [i, j] = [Math.floor(cell / vectors), cell % vectors];
      return { i, j, at: b.at("float", corner, i * dst.stride + j * lanes) };
    });
    const before = cells.map(({ at }) => b.call("laspc_load", at));
    /** The terms of one depth, of the rows that have one. */
    const add = (k: Int, sums: readonly Value[], hasTerm: (i: number) => boolean) => {
      const rightRow = b.at("float", right, b.multiply(k, rhs.stride));
      const factors = Array.from({ length: vectors }, (_, j) =>
        b.call("laspc_load", b.at("float", rightRow, j * lanes)),
      );
      const leftColumn = b.at("float", left, b.multiply(k, lhs.depthStride));
      const scales = Array.from({ length: blockRows }, (_, i) =>
        b.splat(b.loadFloat(b.at("float", leftColumn, i * lhs.rowStride))),
      );
      return cells.map(({ i, j }, cell) =>
        hasTerm(i) ? b.call("laspc_muladd", scales[i]!, factors[j]!, sums[cell]!) : sums[cell]!,
      );
    };
    const addAll = (from: Int, to: Int, sums: readonly Value[]) =>
      b.fold(from, to, 1, "depth", sums, (k, so) => add(k, so, () => true));
    const { triangle } = this;
    const onDiagonal = (sums: readonly Value[], { upper, strict }: Triangle) =>
      Array.from({ length: blockRows }).reduce<readonly Value[]>((so, _, k) => {
        const hasTerm = (i: number) => (upper ? k > i : k < i) || (k === i && !strict);
        return add(b.add(row, k), so, hasTerm);
      }, sums);
    const after = !triangle
      ? addAll(0, this.depth, before)
      : triangle.upper
        ? addAll(b.add(row, blockRows), this.depth, onDiagonal(before, triangle))
        : onDiagonal(addAll(0, row, before), triangle);
    cells.forEach(({ at }, cell) => b.call("laspc_store", after[cell]!, at));
  }
}

/** dst = src or its transpose, in squares of 4 x 4. */
export function emitCopy(context: KernelContext, { dst, src, transpose }: Copy): void {
  const { b } = context;
  const [to, from] = [context.corner(dst), context.corner(src)];
  const strides = [dst, src].map(({ storage }) => context.place(storage).stride);
  const [toStride, fromStride] = strides as [number, number];
  if (!transpose) {
    b.loop(0, dst.rows, 1, "row", (row) => {
      b.loop(0, dst.cols, lanes, "col", (col) => {
        const at = b.at("float", from, b.add(b.multiply(row, fromStride), col));
        const target = b.at("float", to, b.add(b.multiply(row, toStride), col));
        b.call("laspc_store", b.call("laspc_load", at), target);
      });
    });
    return;
  }
  b.loop(0, dst.rows, 4, "row", (row) => {
    b.loop(0, dst.cols, 4, "col", (col) => {
      const at = b.at("float", from, b.add(b.multiply(col, fromStride), row));
      const target = b.at("float", to, b.add(b.multiply(row, toStride), col));
      b.call("laspc_transpose", target, toStride, at, fromStride);
    });
  });
}
