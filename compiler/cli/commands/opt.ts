/** laspc opt: tensor IR through passes, text to text; what goldens are made with. */
import { runPasses, Report } from "../../support/pass.ts";
import { chunk } from "../../tensor/passes/chunk.ts";
import { fuse } from "../../tensor/passes/fuse.ts";
import { rightProduct } from "../../tensor/passes/right-product.ts";
import { simplify } from "../../tensor/passes/simplify.ts";
import { parseTensor } from "../../tensor/parse.ts";
import { printTensor } from "../../tensor/print.ts";
import { verifyTensor } from "../../tensor/verify.ts";
import { Arguments, UsageError, UserError } from "../arguments.ts";
import { readSource, say } from "../files.ts";

const known = [simplify, rightProduct(), chunk, fuse];

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, ["passes"], "opt");
  const source = await readSource(args.file("opt"));
  const passes = (args.text("passes") ?? "").split(",").map((name) => {
    const pass = known.find((one) => one.name === name);
    if (!pass) throw new UsageError(`--passes takes ${known.map((one) => one.name).join(", ")}`);
    return pass;
  });
  let program;
  try {
    program = parseTensor(source.text);
  } catch (error) {
    throw new UserError(`${source.name}: ${(error as Error).message}`);
  }
  const report = new Report();
  const result = runPasses(passes, program, verifyTensor, report);
  for (const note of report.notes) say(`${note.pass}: ${note.message}`);
  for (const limit of report.limitations) say(`${limit.code}: ${limit.message}`);
  process.stdout.write(printTensor(result));
  return 0;
}
