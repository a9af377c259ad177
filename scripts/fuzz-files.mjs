// Alters valid files and gives them to what reads them: node scripts/fuzz-files.mjs [COUNT] [SEED]
import { pathToFileURL } from "node:url";
import { bundle } from "./bundle.mjs";

const outfile = await bundle("test/fuzz-files/main.ts", "fuzz-files/main.js");
await import(pathToFileURL(outfile).href);
