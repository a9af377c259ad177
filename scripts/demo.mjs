// The main job of the README: compile retention for every target, run it on four devices, check it.
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";

const laspc = (...args) => {
  console.error(`\n$ laspc ${args.join(" ")}`);
  const { status } = spawnSync(process.execPath, ["dist/laspc.js", ...args], { stdio: "inherit" });
  return status;
};

const file = "dsl-examples/retention.lasp";
rmSync("out/retention", { recursive: true, force: true });
const compiled = laspc(
  "compile",
  file,
  "--dim",
  "K=64,V=64",
  "--devices",
  "4",
  "--out",
  "out/retention",
);
if (compiled !== 0) process.exit(compiled);
laspc("explain", file, "--dim", "K=64,V=64");
let ran = laspc(
  "run",
  file,
  "--device",
  "cpu",
  "--devices",
  "4",
  "--dim",
  "B=1,H=8,T=4096,K=64,V=64",
  "--verify",
);
if (ran === 1) {
  console.error(
    "\nThe cpu device is not available here, so the reference device runs a small size.",
  );
  ran = laspc(
    "run",
    file,
    "--device",
    "reference",
    "--devices",
    "4",
    "--dim",
    "B=1,H=2,T=256,K=64,V=64",
    "--verify",
  );
}
process.exit(ran);
