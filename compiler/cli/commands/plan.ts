/** laspc plan: the schedule for N devices as text, JSON or SVG. */
import { printPlan } from "../../schedule/print.ts";
import { planOf, scheduleNames } from "../../schedule/index.ts";
import { planToSvg } from "../../schedule/svg.ts";
import { Arguments, UserError } from "../arguments.ts";
import { compileFile, readSource, say, writeWhole } from "../files.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(
    argv,
    [
      "entry",
      "devices",
      "mesh",
      "schedule",
      "backward",
      "overlap",
      "dim",
      "dtype",
      "svg",
      "simulate",
      "json",
    ],
    "plan",
  );
  if (args.text("simulate") !== null) throw new UserError("--simulate: there is no simulator yet");
  const schedule = args.choice("schedule", [...scheduleNames, "auto"], "auto");
  const backward = args.flag("backward");
  const overlap = args.flag("overlap");
  const source = await readSource(args.file("plan"));
  const { manifest } = await compileFile(source, args, [], {
    dims: { K: 64, V: 64 },
    backward,
    overlap,
  });
  const mesh = args.mesh(2);
  const plan = planOf(manifest, schedule === "auto" ? "ring" : schedule, mesh, backward, overlap);
  const svg = args.text("svg");
  if (svg !== null) {
    await writeWhole(svg, planToSvg(plan));
    say(`drew ${svg}`);
  }
  if (args.flag("json")) process.stdout.write(`${JSON.stringify(plan, null, 2)}\n`);
  else process.stdout.write(printPlan(plan));
  return 0;
}
