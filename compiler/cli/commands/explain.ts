/** laspc explain: what was derived and what it costs; or a diagnostic's page. */
import { wgslTarget } from "../../../codegen/wgsl/target.ts";
import { cacheChoices, explanationOf } from "../../api/explanation.ts";
import type { Compiled } from "../../index.ts";
import { pageOf } from "../../support/catalogue.ts";
import { Arguments, UserError } from "../arguments.ts";
import { compileFile, readSource } from "../files.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, ["entry", "dim", "dtype", "cache-states"], "explain");
  const subject = args.file("explain");
  if (!subject.endsWith(".lasp")) {
    const page = pageOf(subject);
    if (page === null)
      throw new UserError(`\`${subject}\` is neither a .lasp file nor a diagnostic's code`);
    process.stdout.write(page);
    return 0;
  }
  const source = await readSource(subject);
  const compileWith = (cacheStates: number | null) =>
    compileFile(source, args, [wgslTarget], { backward: true, cacheStates });
  const compiled = await compileWith(null);
  const keeping = new Map<number, Compiled>();
  for (const every of cacheChoices(compiled, args.cacheStates())) {
    keeping.set(every, await compileWith(every));
  }
  const text = explanationOf({ compiled, keeping, tokens: args.dims()["T"] ?? null });
  process.stdout.write(text);
  return 0;
}
