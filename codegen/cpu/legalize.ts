/**
 * Turn-factors: a right factor that is read transposed is turned once, so that its rows are contiguous.
 *
 *   mma scores += q @ k^T     =>     copy k_turned = k^T
 *                                    mma scores += q @ k_turned
 *
 * The product's inner loop runs along the rows of its right factor; see products.ts.
 */
import type { Pass } from "../../compiler/support/pass.ts";
import type {
  Kernel,
  Mma,
  Stmt,
  Storage,
  StorageId,
  TileProgram,
  Window,
} from "../../compiler/tile/ir.ts";

export const turnFactors: Pass<TileProgram> = {
  name: "turn-factors",
  summary: "transpose right factors of products once, so that their rows are contiguous",
  run: (program) => {
    const kernels = program.kernels.map(turnKernel);
    const same = kernels.every((kernel, i) => kernel === program.kernels[i]);
    return same ? program : { ...program, kernels };
  },
};

function turnKernel(kernel: Kernel): Kernel {
  const storages = [...kernel.storages];
  const turn = (stmts: readonly Stmt[]): Stmt[] =>
    stmts.flatMap((stmt): Stmt[] => {
      if (stmt.kind === "loop") return [{ ...stmt, body: turn(stmt.body) }];
      return stmt.kind === "mma" && stmt.transposeRhs ? turnProduct(stmt, storages) : [stmt];
    });
  const body = turn(kernel.body);
  return storages.length === kernel.storages.length ? kernel : { ...kernel, storages, body };
}

function turnProduct(stmt: Mma, storages: Storage[]): Stmt[] {
  const { rhs, note } = stmt;
  const name = `${storages[rhs.storage]!.name}_turned`;
  const shape = [rhs.cols, rhs.rows];
  let turned = storages.find(
    (storage) => storage.name === name && storage.shape.join() === shape.join(),
  );
  if (!turned) {
    const id = storages.length as StorageId;
    turned = { id, name, memory: "register", dtype: "f32", shape, pad: 0 };
    storages.push(turned);
  }
  const at = { base: null, offset: 0 };
  const window: Window = { storage: turned.id, row: at, col: at, rows: shape[0]!, cols: shape[1]! };
  return [
    { kind: "copy", dst: window, src: rhs, transpose: true, note },
    { ...stmt, rhs: window, transposeRhs: false },
  ];
}
