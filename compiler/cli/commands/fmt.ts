/** laspc fmt: formats files in place; --check only tells which would change. */
import { formatSource } from "../../syntax/format.ts";
import { Arguments, UsageError } from "../arguments.ts";
import { readSource, say, sayDiagnostics, writeWhole } from "../files.ts";
import { parseSource } from "../../syntax/parse.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, ["check"], "fmt");
  if (args.positionals.length === 0) throw new UsageError("fmt takes FILE.lasp...");
  let failed = false;
  for (const file of args.positionals) {
    const source = await readSource(file);
    const { diagnostics } = parseSource(source);
    if (diagnostics.length > 0) {
      sayDiagnostics(source, diagnostics);
      failed = true;
      continue;
    }
    const text = await formatSource(source.text);
    if (text === source.text) continue;
    if (args.flag("check")) {
      process.stdout.write(`${file}\n`);
      failed = true;
    } else {
      await writeWhole(file, text);
      say(`formatted ${file}`);
    }
  }
  return failed ? 1 : 0;
}
